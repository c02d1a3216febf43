"""What every text-to-speech engine keeps, simulated or real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from engine_kit import load_or_skip

from engines.listening import listened
from voice_agent.audio.g711 import mulaw_decode
from voice_agent.audio.levels import frame_dbfs, loud_frames, rms_dbfs
from voice_agent.ports import SpeakRequest, SpeechChunk, TextToSpeechEngine

PAUSES = (
    "Wait... what? No...... really!!! Well; then: good - bye. A. B. C.",
    "One line.\n\nAnother line.\n\n\n\nThird line.",
    "This is one. This is two. This is three.",
)
SENTENCE = "We deliver anywhere in the city for fifteen dollars, and it takes three to five working days."
LEAST_BYTES = 100 * 8


@pytest.fixture(params=["simulated", "flite", "espeak", "fallback"], scope="module")
def engine(request: pytest.FixtureRequest) -> TextToSpeechEngine:
    quick = {"first_audio_ms": 5, "speed": 400}
    # Its first engine fails always: what is heard is the second one's.
    broken = {"engine": "faulty", "options": {"fault": "error", "options": quick}}
    options = {
        "simulated": quick,
        "fallback": {"engines": [broken, {"engine": "simulated", "options": quick}]},
    }.get(request.param, {})
    return load_or_skip("tts", request.param, options)


def ask(text: str, voice: str = "", clause: int = 1) -> SpeakRequest:
    return SpeakRequest(call_id="call", turn=1, clause=clause, text=text, voice=voice)


async def collect(stream: AsyncIterator[SpeechChunk]) -> list[SpeechChunk]:
    return [chunk async for chunk in stream]


def audio_of(chunks: list[SpeechChunk]) -> bytes:
    return b"".join(chunk.audio for chunk in chunks)


def alike(one: bytes, other: bytes) -> bool:
    """The same speech? Synthesisers put random noise into it, so not bit by bit: by length and loudness over time."""
    if abs(len(one) - len(other)) > 0.03 * len(one):
        return False
    length = min(len(one), len(other))
    levels = [np.maximum(frame_dbfs(mulaw_decode(audio[:length]), 160), -60) for audio in (one, other)]
    return bool(np.mean(np.abs(levels[0] - levels[1])) < 4.0)


async def closed(stream: Any) -> None:
    await stream.aclose()


async def test_capabilities_are_honest(engine: TextToSpeechEngine) -> None:
    assert isinstance(engine, TextToSpeechEngine)
    assert engine.capabilities.streaming
    assert engine.capabilities.version
    assert engine.capabilities.simulated is (engine.capabilities.name in ("simulated", "faulty"))
    assert len(set(engine.voices)) == len(engine.voices) > 1


async def test_chunks_are_long_enough_and_only_the_last_is_last(engine: TextToSpeechEngine) -> None:
    chunks = await collect(engine.speak(ask(SENTENCE)))
    assert len(chunks) > 3
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(len(chunk.audio) >= LEAST_BYTES for chunk in chunks[:-1])
    assert all(not chunk.word_ends_ms for chunk in chunks[:-1])
    assert 2500 < len(audio_of(chunks)) // 8 < 12000


async def test_speech_is_loud_and_starts_at_once(engine: TextToSpeechEngine) -> None:
    samples = mulaw_decode(audio_of(await collect(engine.speak(ask(SENTENCE)))))
    assert -35 < rms_dbfs(samples) < -6
    loud = np.flatnonzero(loud_frames(samples, 160, -45))
    assert loud[0] * 20 <= 80, "silence before the speech is time the caller waits"
    assert (len(samples) // 160 - loud[-1]) * 20 <= 400


async def test_word_ends_follow_the_words(engine: TextToSpeechEngine) -> None:
    chunks = await collect(engine.speak(ask(SENTENCE)))
    ends = chunks[-1].word_ends_ms
    length_ms = len(audio_of(chunks)) // 8
    assert len(ends) == len(SENTENCE.split())
    assert list(ends) == sorted(ends)
    assert ends[0] > 0
    assert length_ms * 0.75 < ends[-1] <= length_ms
    # A word in the middle ends about where its share of the characters is said.
    middle = len(ends) // 2
    said = len(" ".join(SENTENCE.split()[: middle + 1])) / len(SENTENCE)
    assert abs(ends[middle] / ends[-1] - said) < 0.15


@pytest.mark.parametrize("text", ["", "   ", "\n"])
async def test_nothing_to_say_is_one_empty_chunk(engine: TextToSpeechEngine, text: str) -> None:
    [chunk] = await collect(engine.speak(ask(text)))
    assert (chunk.audio, chunk.last) == (b"", True)


@pytest.mark.parametrize(
    "text",
    [
        "Café Zoë costs €5 — or “six” pounds…",
        "Straße, naïve, 東京, смело, 🙂 done",
        "$24.50 (in the U.K.) is 10% & more @ 3°!",
        "a\0b \x07 \ud800 c",
    ],
)
async def test_any_text_can_be_said(engine: TextToSpeechEngine, text: str) -> None:
    chunks = await collect(engine.speak(ask(text)))
    assert chunks[-1].last
    assert len(audio_of(chunks)) > 300 * 8
    assert len(chunks[-1].word_ends_ms) in (0, len(text.split()))


async def test_symbols_alone_do_no_harm(engine: TextToSpeechEngine) -> None:
    assert (await collect(engine.speak(ask("... — !?"))))[-1].last


@pytest.mark.parametrize("text", [SENTENCE, "I", "No. 5", "... — !?", "", *PAUSES])
async def test_ordinary_speech_is_not_taken_for_silence(engine: TextToSpeechEngine, text: str) -> None:
    chunks = await collect(listened(engine.speak(ask(text)), text))
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@pytest.mark.parametrize(
    ("name", "slowest"), [("flite", {"stretch": 2.0}), ("espeak", {"words_per_minute": 80})], ids=["flite", "espeak"]
)
@pytest.mark.parametrize("text", PAUSES)
async def test_nor_are_the_pauses_of_a_slow_voice(name: str, slowest: dict[str, Any], text: str) -> None:
    slow: TextToSpeechEngine = load_or_skip("tts", name, slowest)
    chunks = await collect(listened(slow.speak(ask(text)), text))
    assert chunks[-1].last


async def test_long_text_comes_whole_and_soon(engine: TextToSpeechEngine) -> None:
    text = " ".join([SENTENCE] * 12)
    one = len(audio_of(await collect(engine.speak(ask(SENTENCE)))))
    chunks = await collect(engine.speak(ask(text)))
    assert len(audio_of(chunks)) > 10 * one
    assert len(chunks[-1].word_ends_ms) == len(text.split())
    assert list(chunks[-1].word_ends_ms) == sorted(chunks[-1].word_ends_ms)


async def test_one_endless_word_is_said(engine: TextToSpeechEngine) -> None:
    chunks = await collect(engine.speak(ask("ha" * 500)))
    assert chunks[-1].last
    assert audio_of(chunks)


async def test_same_text_sounds_the_same(engine: TextToSpeechEngine) -> None:
    first, second = [audio_of(await collect(engine.speak(ask(SENTENCE)))) for _ in range(2)]
    assert alike(first, second)
    other = audio_of(await collect(engine.speak(ask("Students get ten percent off, but only on a new bicycle."))))
    assert not alike(first, other)


async def test_every_voice_speaks_in_its_own_way(engine: TextToSpeechEngine) -> None:
    said = {voice: audio_of(await collect(engine.speak(ask("Good morning.", voice)))) for voice in engine.voices}
    assert all(said.values())
    assert len(set(said.values())) == len(said)


async def test_unknown_voice_is_the_default_one(engine: TextToSpeechEngine) -> None:
    usual = audio_of(await collect(engine.speak(ask("Good morning."))))
    assert alike(audio_of(await collect(engine.speak(ask("Good morning.", "nobody")))), usual)


async def test_clauses_at_the_same_time_do_not_mix(engine: TextToSpeechEngine) -> None:
    texts = [f"This is call number {number} of several." for number in ("one", "two", "three", "four")]
    alone = [audio_of(await collect(engine.speak(ask(text)))) for text in texts]
    together = await asyncio.gather(*(collect(engine.speak(ask(text))) for text in texts))
    assert all(alike(audio_of(chunks), expected) for chunks, expected in zip(together, alone, strict=True))


async def test_closing_stops_the_work(engine: TextToSpeechEngine) -> None:
    """Afterwards the engine is free: a short clause comes at once, and not after what was given up."""
    long_text = " ".join([SENTENCE] * 30)
    for _ in range(20):
        async with aclosing(engine.speak(ask(long_text))) as stream:  # type: ignore[type-var]
            assert (await anext(stream)).audio
    loop = asyncio.get_running_loop()
    started = loop.time()
    await collect(engine.speak(ask("Hello.")))
    short_s = loop.time() - started
    started = loop.time()
    await collect(engine.speak(ask(long_text)))
    assert short_s < loop.time() - started


async def test_cancelling_the_reader_stops_the_work(engine: TextToSpeechEngine) -> None:
    readers = [asyncio.create_task(collect(engine.speak(ask(" ".join([SENTENCE] * 20))))) for _ in range(5)]
    await asyncio.sleep(0)
    for reader in readers:
        reader.cancel()
    assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*readers, return_exceptions=True))
    assert audio_of(await collect(engine.speak(ask("Hello."))))


async def test_stream_never_started_costs_nothing(engine: TextToSpeechEngine) -> None:
    await closed(engine.speak(ask(SENTENCE)))
    assert audio_of(await collect(engine.speak(ask("Hello."))))
