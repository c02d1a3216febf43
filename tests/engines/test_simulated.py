"""The latency profile of the simulated engines, without measuring time more exactly than the machine allows."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import simulated
from engines.simulated import SimulatedLanguageModel, SimulatedSpeechToText, SimulatedTextToSpeech
from voice_agent.errors import ConfigError
from voice_agent.ports import Message, ReplyRequest, SpeakRequest, ToolCall


@pytest.fixture
def dues(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Points in time the engines wanted to sleep to, instead of sleeping."""
    wanted: list[float] = []

    async def note(due: float) -> None:
        wanted.append(due)

    monkeypatch.setattr(simulated, "_sleep_until", note)
    return wanted


def request(text: str = "hello", turn: int = 1) -> ReplyRequest:
    return ReplyRequest("call", turn, (Message("user", text),))


def steps_ms(dues: list[float]) -> list[float]:
    return [round((later - earlier) * 1000, 3) for earlier, later in pairwise(dues)]


async def test_reply_has_the_default_profile(dues: list[float]) -> None:
    started = asyncio.get_running_loop().time()
    chunks = [chunk async for chunk in SimulatedLanguageModel().reply(request())]
    text = "".join(chunk.text for chunk in chunks)
    assert (len(text.split()), text.count(".")) == (40, 3)
    assert dues[0] - started >= 0.1
    assert set(steps_ms(dues)) == {15.0}
    assert chunks[-1].finish_reason == "stop"


async def test_speech_has_the_default_profile(dues: list[float]) -> None:
    started = asyncio.get_running_loop().time()
    speak = SimulatedTextToSpeech().speak(SpeakRequest("call", 1, 1, "one two three four"))
    chunks = [chunk async for chunk in speak]
    assert dues[0] - started >= 0.08
    assert set(steps_ms(dues)) == {40.0}, "200 ms of audio at five times real time"
    assert sum(len(chunk.audio) for chunk in chunks) == 4 * 350 * 8
    assert chunks[-1].word_ends_ms == (350, 700, 1050, 1400)


async def test_duration_by_characters(dues: list[float]) -> None:
    engine = SimulatedTextToSpeech(char_duration_ms=60)
    chunks = [chunk async for chunk in engine.speak(SpeakRequest("call", 1, 1, "ab abcd"))]
    assert chunks[-1].word_ends_ms == (120, 360)


async def test_jitter_is_seeded_by_request(dues: list[float]) -> None:
    async def delays(seed: int, turn: int) -> list[float]:
        dues.clear()
        async for _ in SimulatedLanguageModel(jitter=0.5, seed=seed).reply(request(turn=turn)):
            pass
        return steps_ms(dues)

    first = await delays(1, 1)
    assert first == await delays(1, 1)
    assert first != await delays(1, 2)
    assert first != await delays(2, 1)
    assert all(7.5 <= step <= 22.5 for step in first)
    assert len(set(first)) > 10


async def test_caller_who_says_goodbye_is_hung_up_on(dues: list[float]) -> None:
    chunks = [chunk async for chunk in SimulatedLanguageModel().reply(request("okay goodbye"))]
    assert chunks[-1].tool_call == ToolCall("end_call")


def test_final_text_takes_its_time() -> None:
    session = SimulatedSpeechToText(texts=["one two"], final_ms=60).open(call_id="call", utterance=1)
    session.accept(bytes(8000))
    started = time.monotonic()
    result = session.result(flush=True)
    assert time.monotonic() - started >= 0.06
    assert result.text == "one two"


def test_silence_at_the_end_of_the_audio_counts_towards_the_final_text() -> None:
    session = SimulatedSpeechToText(texts=["one two"], final_ms=60_000).open(call_id="call", utterance=1)
    session.accept(bytes(8000))
    session.accept(b"\xff" * 8 * 60_000)
    assert session.result(flush=True).text == "one two"


def test_text_goes_by_the_number_of_the_utterance() -> None:
    engine = SimulatedSpeechToText(texts=["one", "two"], final_ms=0)
    heard = []
    for utterance in (1, 2, 3, 2):
        session = engine.open(call_id="call", utterance=utterance)
        session.accept(bytes(8000))
        heard.append(session.result(flush=True).text)
    assert heard == ["one", "two", "one", "two"]


def heard_after(spoken_ms: int, quiet_ms: int, *, flush: bool, utterance: int = 1) -> list[str]:
    """Words of speech of a length, some silence after its end."""
    session = SimulatedSpeechToText(final_ms=60, word_ms=250).open(call_id="call", utterance=utterance)
    session.accept(b"\xff" * 8 * 240 + bytes(spoken_ms * 8) + b"\xff" * 8 * quiet_ms)
    return session.result(flush=flush).text.split()


@given(
    spoken_ms=st.integers(20, 300).map(lambda tens: tens * 10), quiet_ms=st.integers(0, 40).map(lambda tens: tens * 10)
)
def test_words_are_known_when_they_are_over_and_not_before(spoken_ms: int, quiet_ms: int) -> None:
    """Neither kinder nor harsher than a real recogniser: no word of speech to come, none later than it was spoken."""
    final = heard_after(spoken_ms, quiet_ms, flush=True)
    early = heard_after(spoken_ms, quiet_ms, flush=False)
    assert len(final) == max(1, (spoken_ms + 60) // 250)
    assert len(early) <= len(final)
    assert len(early) == min((spoken_ms + 60) // 250, (spoken_ms + quiet_ms) // 250)


def test_a_tenth_of_the_newest_words_is_taken_for_another_at_first() -> None:
    """Only at first: 200 ms later the word is what it stays."""
    wrong = 0
    for utterance in range(200):
        final = heard_after(500, 400, flush=True, utterance=utterance)
        assert heard_after(500, 400, flush=False, utterance=utterance) == final
        wrong += heard_after(500, 50, flush=False, utterance=utterance) != final
    assert 5 <= wrong <= 40


def test_a_click_is_no_speech() -> None:
    session = SimulatedSpeechToText(final_ms=0).open(call_id="call", utterance=1)
    session.accept(bytes(100 * 8))
    assert session.result(flush=True).text == ""


@pytest.mark.parametrize(
    ("engine", "options"),
    [
        (SimulatedSpeechToText, {"texts": []}),
        (SimulatedLanguageModel, {"jitter": 1.0}),
        (SimulatedTextToSpeech, {"speed": 0}),
        (SimulatedTextToSpeech, {"chunk_ms": 50}),
    ],
)
def test_wrong_options_are_told(engine: type, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        engine(**options)
