"""The deployments of the model plane as plain classes: no Ray, engines under control."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import fake_engines
import pytest
from fake_engines import CountedTts, CountingStt, EndlessLlm

from engines import registry
from serve_apps.language_model import LanguageModel
from serve_apps.speech_to_text import SpeechToText
from serve_apps.stuck import STUCK_S
from serve_apps.text_to_speech import TextToSpeech
from voice_agent.errors import ConfigError, EngineFailedError, ProtocolError
from voice_agent.ports import (
    Message,
    ReplyRequest,
    SpeakRequest,
    SpeechChunk,
    TranscribeRequest,
    TranscribeResponse,
)


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for port, engines in fake_engines.NAMES.items():
        for name, engine in engines.items():
            monkeypatch.setitem(registry._TABLE[port], name, f"fake_engines:{engine.__name__}")  # type: ignore[index]
    for counts in (CountingStt.made, EndlessLlm.closed, CountedTts.asked, CountedTts.closed):
        counts.clear()


class Clock:
    """A clock that moves when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def stt(**options: Any) -> tuple[SpeechToText, CountingStt]:
    deployment = SpeechToText("counting", **options)
    return deployment, CountingStt.made[-1]


def audio(text: str, offset: int = 0, utterance: int = 1, **fields: Any) -> TranscribeRequest:
    return TranscribeRequest("call", utterance, offset, text.encode(), **fields)


async def settled(engine: CountingStt, closed: int) -> None:
    """Wait until so many sessions are closed: that happens in the executor."""
    for _ in range(closed):
        await asyncio.to_thread(engine.closings.get, True, 20)


async def test_audio_adds_up() -> None:
    deployment, engine = stt()
    assert (await deployment.transcribe(audio("abc"))).text == "abc"
    response = await deployment.transcribe(audio("de", 3, flush=True))
    assert (response.text, response.flushed, response.need_from) == ("abcde", True, None)
    assert len(engine.sessions) == 1


async def test_repeated_and_overlapping_audio_is_taken_once() -> None:
    deployment, _ = stt()
    for request in (audio("abc"), audio("abc"), audio("bcd", 1), audio("", 2), audio("e", 4)):
        response = await deployment.transcribe(request)
        assert response.need_from is None
    assert response.text == "abcde"


async def test_a_replica_without_the_state_asks_for_all_of_it() -> None:
    deployment, engine = stt()
    assert await deployment.transcribe(audio("xyz", 3)) == TranscribeResponse(need_from=0)
    assert not engine.sessions
    assert (await deployment.transcribe(audio("abcxyz"))).text == "abcxyz"


async def test_a_gap_is_asked_for_and_nothing_is_taken() -> None:
    deployment, _ = stt()
    await deployment.transcribe(audio("abc"))
    assert await deployment.transcribe(audio("xyz", 5, flush=True)) == TranscribeResponse(need_from=3)
    assert (await deployment.transcribe(audio("dexyz", 3))).text == "abcdexyz"


async def test_end_forgets_and_is_idempotent() -> None:
    deployment, engine = stt()
    await deployment.transcribe(audio("abc"))
    for _ in range(2):
        assert await deployment.transcribe(audio("", 3, end=True)) == TranscribeResponse()
    await settled(engine, 1)
    assert engine.sessions[0].closed == 1
    assert await deployment.open_sessions() == 0
    assert (await deployment.transcribe(audio("de", 3))).need_from == 0


async def test_utterances_and_calls_do_not_mix() -> None:
    deployment, _ = stt()
    await asyncio.gather(*(deployment.transcribe(audio(f"u{n}", utterance=n)) for n in range(1, 6)))
    answers = await asyncio.gather(*(deployment.transcribe(audio("!"[1:], 2, n)) for n in range(1, 6)))
    assert [answer.text for answer in answers] == [f"u{n}" for n in range(1, 6)]


async def test_an_owner_that_was_replaced_is_refused() -> None:
    deployment, _ = stt()
    await deployment.transcribe(audio("abc", epoch=1))
    assert (await deployment.transcribe(audio("abcd", epoch=2))).text == "abcd"
    for request in (audio("zzz", 4, epoch=1), audio("", 4, epoch=1, end=True)):
        with pytest.raises(ProtocolError, match="epoch 2 owns"):
            await deployment.transcribe(request)
    assert (await deployment.transcribe(audio("e", 4, epoch=2))).text == "abcde"


async def test_a_failure_is_ours_and_the_session_starts_again() -> None:
    deployment, engine = stt()
    await deployment.transcribe(audio("abc"))
    with pytest.raises(EngineFailedError, match="stt engine failed: ZeroDivisionError") as raised:
        await deployment.transcribe(audio("!", 3))
    assert isinstance(pickle.loads(pickle.dumps(raised.value)), EngineFailedError)
    await settled(engine, 1)
    assert (await deployment.transcribe(audio("d", 3))).need_from == 0


async def test_the_longest_unused_is_evicted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    deployment, engine = stt(max_sessions=2)
    for utterance in (1, 2):
        await deployment.transcribe(audio("ab", utterance=utterance))
    await deployment.transcribe(audio("c", 2, utterance=1))
    with caplog.at_level(logging.WARNING):
        await deployment.transcribe(audio("ab", utterance=3))
    assert [(record.message, record.utterance) for record in caplog.records] == [("session evicted", 2)]
    assert (deployment.evicted, await deployment.open_sessions()) == (1, 2)
    await settled(engine, 1)
    assert (await deployment.transcribe(audio("c", 2, utterance=2))).need_from == 0
    assert (await deployment.transcribe(audio("d", 3, utterance=1))).text == "abcd"


async def test_idle_sessions_expire() -> None:
    clock = Clock()
    deployment, engine = stt(session_idle_s=30.0, clock=clock)
    await deployment.transcribe(audio("ab", utterance=1))
    clock.now += 20
    await deployment.transcribe(audio("ab", utterance=2))
    clock.now += 15
    await deployment.transcribe(audio("c", 2, utterance=2))
    await settled(engine, 1)
    assert engine.sessions[0].closed
    assert await deployment.open_sessions() == 1


async def test_cancelled_request_keeps_its_place() -> None:
    """The thread goes on when its request is cancelled: what it took is taken, and nothing is taken twice."""
    deployment, engine = stt()
    engine.go_on.clear()
    request = asyncio.create_task(deployment.transcribe(audio("abc")))
    await asyncio.sleep(0.01)
    request.cancel()
    following = asyncio.create_task(deployment.transcribe(audio("abcde")))
    await asyncio.sleep(0.01)
    assert not following.done()
    engine.go_on.set()
    assert (await following).text == "abcde"
    assert request.cancelled()


async def test_end_while_work_is_under_way_waits_for_it() -> None:
    deployment, engine = stt(options={"parallel": 4})
    engine.go_on.clear()
    working = asyncio.create_task(deployment.transcribe(audio("abc")))
    await asyncio.sleep(0.01)
    await deployment.transcribe(audio("", 3, end=True))
    assert not engine.sessions[0].closed
    engine.go_on.set()
    assert (await working).text == "abc"
    await settled(engine, 1)


async def test_long_audio_goes_in_pieces() -> None:
    deployment, engine = stt()
    await deployment.transcribe(audio("a" * 2500))
    assert engine.sessions[0].pieces == [800, 800, 800, 100]


async def test_the_loop_is_free_while_an_engine_works() -> None:
    deployment, engine = stt()
    engine.go_on.clear()
    working = asyncio.create_task(deployment.transcribe(audio("abc")))
    assert (await asyncio.wait_for(deployment.capabilities(), 5)).name == "counting"
    assert not working.done()
    engine.go_on.set()
    await working


async def test_a_thread_that_hangs_for_good_fails_the_health_check() -> None:
    clock = Clock()
    deployment, engine = stt(clock=clock)
    engine.go_on.clear()
    hung = asyncio.ensure_future(deployment.transcribe(audio("abc")))
    await asyncio.to_thread(engine.begun.wait, 20)
    clock.now += STUCK_S - 1
    await deployment.check_health()
    clock.now += 2
    with pytest.raises(EngineFailedError, match="more than 60 s"):
        await deployment.check_health()
    engine.go_on.set()
    await hung
    await deployment.check_health()


async def test_reload_reaches_the_engine() -> None:
    deployment, engine = stt()
    await deployment.reload()
    assert engine.reloads == 1


def test_unknown_engine_is_told_at_start() -> None:
    with pytest.raises(ConfigError, match="no stt engine"):
        SpeechToText("nobody")


# --- language model ---


def reply_request(text: str, call_id: str = "call") -> ReplyRequest:
    return ReplyRequest(call_id, 1, (Message("user", text),))


async def test_reader_that_goes_away_closes_the_model() -> None:
    async with aclosing(LanguageModel("endless").reply(reply_request("hi"))) as stream:  # type: ignore[type-var]
        assert (await anext(stream)).text == "word "
        assert EndlessLlm.closed == []
    assert EndlessLlm.closed == ["call"]


async def test_cancelled_reader_closes_the_model() -> None:
    async def read() -> None:
        async for _ in LanguageModel("endless").reply(reply_request("hi", "cancelled")):
            pass

    reader = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert EndlessLlm.closed == ["cancelled"]


async def test_failure_of_the_model_is_ours() -> None:
    stream = LanguageModel("endless").reply(reply_request("break"))
    assert (await anext(stream)).text == "word "
    with pytest.raises(EngineFailedError, match="llm engine failed: ZeroDivisionError"):
        await anext(stream)
    assert EndlessLlm.closed == ["call"]


# --- text to speech ---


async def speech(deployment: TextToSpeech, text: str, voice: str = "") -> list[SpeechChunk]:
    stream: AsyncIterator[SpeechChunk] = deployment.speak(SpeakRequest("call", 1, 1, text, voice))
    return [chunk async for chunk in stream]


async def test_what_was_said_comes_from_the_cache() -> None:
    deployment = TextToSpeech("counted", voice="bob")
    first = await speech(deployment, "Hello.")
    assert await speech(deployment, "Hello.") == first
    await speech(deployment, "Hello.", "ann")
    assert CountedTts.asked == [("bob", "Hello."), ("ann", "Hello.")]


async def test_simulated_speech_is_not_cached() -> None:
    deployment = TextToSpeech("counted", {"simulated": True})
    await speech(deployment, "Hello.")
    await speech(deployment, "Hello.")
    assert len(CountedTts.asked) == 2


async def test_half_a_clause_is_not_cached() -> None:
    deployment = TextToSpeech("counted")
    async with aclosing(deployment.speak(SpeakRequest("call", 1, 1, "Hello."))) as stream:  # type: ignore[type-var]
        await anext(stream)
    assert CountedTts.closed == ["Hello."]
    assert (await speech(deployment, "Hello."))[-1].last
    assert len(CountedTts.asked) == 2


async def test_an_engine_without_a_fallback_is_listened_to_and_its_silence_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CountedTts, "mute", {"Hello."})
    deployment = TextToSpeech("counted")
    with pytest.raises(EngineFailedError, match="silence for words"):
        await speech(deployment, "Hello.")
    assert CountedTts.closed == ["Hello."]
    CountedTts.mute.clear()
    assert (await speech(deployment, "Hello."))[0].audio == bytes(800)


async def test_cache_is_bounded_in_bytes_and_drops_the_longest_unused() -> None:
    deployment = TextToSpeech("counted", cache_bytes=8 * 810)
    texts = [f"text {number}" for number in range(8)]
    for text in texts:
        await speech(deployment, text)
    await speech(deployment, texts[0])
    await speech(deployment, "text 8")
    asked = len(CountedTts.asked)
    await speech(deployment, texts[0])
    assert len(CountedTts.asked) == asked
    await speech(deployment, texts[1])
    assert len(CountedTts.asked) == asked + 1


async def test_a_long_clause_does_not_push_the_others_out() -> None:
    deployment = TextToSpeech("counted", cache_bytes=8 * 900)
    await speech(deployment, "Hello.")
    await speech(deployment, "x" * 1000)
    await speech(deployment, "x" * 1000)
    await speech(deployment, "Hello.")
    assert [text[:6] for _, text in CountedTts.asked] == ["Hello.", "xxxxxx", "xxxxxx"]


async def test_voice_the_engine_lacks_is_told_once_at_start(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        deployment = TextToSpeech("counted", voice="slt")
        await speech(deployment, "Hello.")
    assert [record.message for record in caplog.records] == ["voice is not known"]
    assert CountedTts.asked == [("", "Hello.")]
