"""Every kind of fault at every port ends in the fallback's answer, opens the breaker, and closes it by a probe."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import registry
from engines.faulty import FAULTS
from voice_agent.audio.g711 import mulaw_encode
from voice_agent.errors import ConfigError, DeadlineExceededError, EngineFailedError
from voice_agent.ports import Message, ReplyChunk, ReplyRequest, SpeakRequest, SpeechChunk, TranscribeResponse

KINDS = FAULTS[1:]
BREAKER = {"faults": 2, "window_s": 60, "cool_down_s": 0.15}
QUICK = {
    "stt": {"final_ms": 1, "texts": ["hello there"]},
    "llm": {"first_token_ms": 1, "word_ms": 1, "text": "We open at nine."},
    "tts": {"first_audio_ms": 1, "speed": 1000},
}
LIMITS = {
    "stt": {"answer_s": 0.15},
    "llm": {"first_s": 0.15, "next_s": 0.15},
    "tts": {"first_s": 0.15, "behind_s": 0.15},
}
SAID = mulaw_encode((np.sin(np.arange(8000) / 3) * 9000).astype(np.int16))


def laddered(port: str, control: Path, **limits: Any) -> Any:
    """A fallback engine whose first engine obeys ``control``."""
    faulty = {"engine": "faulty", "options": {"control_file": str(control), "options": QUICK[port], "delay_s": 0.6}}
    engines = [faulty, {"engine": "simulated", "options": QUICK[port]}]
    return registry.load(port, "fallback", {"engines": engines, "breaker": BREAKER, **(LIMITS[port] | limits)})


def switch(control: Path, fault: str) -> None:
    """What an operator of the chaos does: the engine reads the file at its next request."""
    control.write_text(fault)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "fault"
    switch(file, "")
    yield file
    switch(file, "")  # a thread that hangs ends with its fault, else the process of the tests waits for it an hour


async def spoken(
    engine: Any, text: str = "We open at nine, and close at six in the evening.", *, again: bool = False
) -> list[SpeechChunk]:
    return [chunk async for chunk in engine.speak(SpeakRequest("CA1", 1, 0, text, again=again))]


async def replied(engine: Any, *, speculative: bool = False) -> list[ReplyChunk]:
    request = ReplyRequest("CA1", 1, (Message("user", "hi"),), speculative=speculative)
    return [chunk async for chunk in engine.reply(request)]


async def heard(engine: Any) -> TranscribeResponse:
    session = engine.open(call_id="CA1", utterance=1)
    session.accept(SAID)
    try:
        return await asyncio.to_thread(session.result, flush=True)
    finally:
        session.close()


async def answered_by(port: str, engine: Any) -> set[str]:
    """One request; the engines that its answer names, which is whole."""
    if port == "stt":
        answer = await heard(engine)
        assert answer.text == "hello there"
        return {answer.engine}
    items: list[Any] = await (spoken(engine) if port == "tts" else replied(engine))
    assert items[-1].last if port == "tts" else items[-1].finish_reason
    return {item.engine for item in items}


def state(engine: Any) -> str:
    return str(engine.ladder.states()["faulty"]["breaker"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("port", ["stt", "llm", "tts"])
async def test_a_fault_ends_in_the_fallbacks_answer(port: str, kind: str, control: Path) -> None:
    engine = laddered(port, control)
    assert await answered_by(port, engine) == {"faulty"}
    switch(control, kind)
    if kind == "trickle" and port != "stt":
        # Something was given before it stalled: that stream ends, and the next request is answered.
        for _ in range(2):
            with pytest.raises(DeadlineExceededError):
                await answered_by(port, engine)
    else:
        assert await answered_by(port, engine) == {"simulated"}
        assert await answered_by(port, engine) == {"simulated"}
    assert state(engine) == "open"
    assert await answered_by(port, engine) == {"simulated"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("port", ["stt", "llm", "tts"])
async def test_a_probe_brings_the_engine_back_and_nobody_waits_for_it(port: str, kind: str, control: Path) -> None:
    engine = laddered(port, control)
    engine.ladder.rungs[0].breaker.fault(0)
    for _ in range(2):
        engine.ladder.failed(engine.ladder.rungs[0], EngineFailedError("x"))
    switch(control, kind)
    await asyncio.sleep(0.2)
    assert await answered_by(port, engine) == {"simulated"}, "the probe is not the caller's only hope"
    if port != "llm" or kind != "trickle":
        await asyncio.sleep(0.3)
        assert state(engine) != "closed"
    switch(control, "")
    async with asyncio.timeout(10):
        while state(engine) != "closed":
            await asyncio.sleep(0.1)
            await answered_by(port, engine)
    assert await answered_by(port, engine) == {"faulty"}


async def test_a_speculative_reply_is_the_probe_and_still_gets_an_answer(control: Path) -> None:
    engine = laddered("llm", control)
    for _ in range(2):
        engine.ladder.failed(engine.ladder.rungs[0], EngineFailedError("x"))
    await asyncio.sleep(0.2)
    switch(control, "hang")
    assert {chunk.engine for chunk in await replied(engine, speculative=True)} == {"simulated"}
    switch(control, "")
    await asyncio.sleep(0.4)
    assert {chunk.engine for chunk in await replied(engine, speculative=True)} == {"faulty"}
    assert state(engine) == "closed"


async def test_a_model_slower_than_speech_is_let_finish_and_counts_as_at_fault(control: Path) -> None:
    engine = laddered("llm", control, words_per_s=1_000, next_s=5.0)
    switch(control, "trickle")
    chunks = await replied(engine)
    assert chunks[-1].finish_reason
    assert engine.ladder.states()["faulty"]["faults"] == {"deadline_exceeded": 1}


async def test_silence_that_no_engine_hears_words_in_is_nobodys_fault(control: Path) -> None:
    quiet = {"engine": "faulty", "options": {"fault": "silence", "options": QUICK["stt"]}}
    engine = registry.load("stt", "fallback", {"engines": [quiet, quiet]})
    assert (await heard(engine)).text == ""
    assert all(not states["faults"] for states in engine.ladder.states().values())


async def test_a_clause_that_is_said_again_is_said_by_the_fallback_of_whatever_replica_is_asked(control: Path) -> None:
    switch(control, "trickle")
    with pytest.raises(DeadlineExceededError):
        await spoken(laddered("tts", control))
    another = laddered("tts", control)
    assert {chunk.engine for chunk in await spoken(another, again=True)} == {"simulated"}
    assert state(another) == "closed"


async def test_the_last_engine_has_nothing_behind_it_and_fails_as_it_is(control: Path) -> None:
    broken = {"engine": "faulty", "options": {"fault": "error", "options": QUICK["tts"]}}
    engine = registry.load("tts", "fallback", {"engines": [broken, broken]})
    with pytest.raises(EngineFailedError):
        await spoken(engine)
    assert list(engine.ladder.states()) == ["faulty", "faulty-2"]


async def test_text_without_letters_may_be_silent(control: Path) -> None:
    switch(control, "silence")
    engine = laddered("tts", control)
    assert {chunk.engine for chunk in await spoken(engine, "...")} == {"faulty"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engines": [{"engine": "simulated"}]}, "two or more"),
        ({"engines": [{"engine": "simulated"}] * 2, "breaker": {"fault": 1}}, "allowed: faults"),
        ({"engines": [{"engine": "simulated"}, {"engine": "nobody"}]}, "no tts engine 'nobody'"),
    ],
)
def test_a_wrong_ladder_is_refused_in_words(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        registry.load("tts", "fallback", options)


def test_a_fault_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="hang, silence"):
        registry.load("llm", "faulty", {"fault": "tired"})


@pytest.mark.parametrize("port", ["llm", "tts"])
async def test_under_overload_the_cheaper_engine_answers_first_and_the_first_stands_behind_it(
    port: str, control: Path
) -> None:
    engine = laddered(port, control)

    async def answer() -> set[str]:
        if port == "tts":
            said = [item async for item in engine.speak(SpeakRequest("CA1", 1, 0, "We open at nine.", cheap=True))]
            return {item.engine for item in said}
        request = ReplyRequest("CA1", 1, (Message("user", "hi"),), cheap=True)
        return {item.engine async for item in engine.reply(request)}

    first, last = engine.ladder.rungs
    assert await answer() == {last.name}
    assert (first.used, last.used) == (0, 1)
    engine.ladder.rungs[1].engine = registry.load(port, "faulty", {"engine": "simulated", "fault": "error"})
    assert await answer() == {first.name}, "no caller is left without an answer for it"
