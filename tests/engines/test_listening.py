"""Silence for words is told from silence before words, and from words that have no sound."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import numpy as np
import pytest

from engines.listening import listened
from voice_agent.audio.g711 import mulaw_encode
from voice_agent.errors import EngineFailedError
from voice_agent.ports import SpeechChunk

TEXT = "We open at nine."


def voice(ms: int, amplitude: int = 3000) -> bytes:
    return mulaw_encode((np.sin(np.arange(8 * ms) / 3) * amplitude).astype(np.int16))


def silence(ms: int) -> bytes:
    return b"\xff" * (8 * ms)


class Engine:
    """Says the pieces, the last of them as its last chunk; remembers how many it was asked for and that it ended."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces, self.given, self.ended = pieces, 0, False

    async def speak(self) -> AsyncIterator[SpeechChunk]:
        try:
            for number, piece in enumerate(self.pieces):
                self.given += 1
                last = number == len(self.pieces) - 1
                yield SpeechChunk(piece, last=last, word_ends_ms=(7,) if last else (), engine="e")
        finally:
            self.ended = True


async def heard(engine: Engine, text: str = TEXT) -> list[SpeechChunk]:
    return [chunk async for chunk in listened(engine.speak(), text)]


@pytest.mark.parametrize("hum", [0, 60])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_clause_of_silence_is_a_fault(pieces: int, hum: int) -> None:
    engine = Engine([voice(250, hum)] * pieces)
    with pytest.raises(EngineFailedError, match="silence for words"):
        await heard(engine)
    assert engine.ended


async def test_silence_is_told_within_its_first_second_and_the_engine_is_stopped() -> None:
    engine = Engine([silence(200)] * 100)
    with pytest.raises(EngineFailedError, match="silence for words"):
        await heard(engine)
    assert (engine.given, engine.ended) == (5, True)


@pytest.mark.parametrize("lead_ms", [100, 300, 900])
async def test_silence_before_words_is_held_back_until_they_come_and_nothing_is_lost(lead_ms: int) -> None:
    engine = Engine([silence(100)] * (lead_ms // 100) + [voice(200), voice(100)])
    chunks = await heard(engine)
    assert chunks[0].audio == silence(lead_ms) + voice(200)
    assert chunks[1] == SpeechChunk(voice(100), last=True, word_ends_ms=(7,), engine="e")
    assert len(chunks) == 2


async def test_words_in_one_piece_behind_a_lead_end_the_clause() -> None:
    [chunk] = await heard(Engine([silence(100), voice(200)]))
    assert chunk == SpeechChunk(silence(100) + voice(200), last=True, word_ends_ms=(7,), engine="e")


async def test_what_can_be_heard_is_passed_on_at_once() -> None:
    engine = Engine([voice(100)] * 4)
    async with aclosing(listened(engine.speak(), TEXT)) as stream:
        for number in range(1, 5):
            assert (await anext(stream)).audio == voice(100)
            assert engine.given == number


@pytest.mark.parametrize("pause_ms", [100, 1000, 1400])
async def test_a_pause_comes_with_the_words_behind_it(pause_ms: int) -> None:
    engine = Engine([voice(300), *[silence(100)] * (pause_ms // 100), voice(200), voice(100)])
    chunks = await heard(engine)
    assert [chunk.audio for chunk in chunks] == [voice(300), silence(pause_ms) + voice(200), voice(100)]


@pytest.mark.parametrize("behind", [[], [b""], [silence(100)] * 50, [voice(500)]])
async def test_a_voice_that_falls_silent_is_at_fault_and_nothing_of_the_silence_is_given(behind: list[bytes]) -> None:
    engine = Engine([voice(300), voice(200), *[silence(300)] * 5, *behind])
    stream = listened(engine.speak(), TEXT)
    assert [(await anext(stream)).audio, (await anext(stream)).audio] == [voice(300), voice(200)]
    with pytest.raises(EngineFailedError, match="silence for words"):
        await anext(stream)
    assert (engine.given, engine.ended) == (7, True)


@pytest.mark.parametrize("tail", [[silence(400)] * 3, [silence(100), b""], [silence(1400)]])
async def test_a_clause_may_end_in_silence(tail: list[bytes]) -> None:
    chunks = await heard(Engine([voice(300), *tail]))
    assert [chunk.audio for chunk in chunks] == [voice(300), b"".join(tail)]
    assert [chunk.last for chunk in chunks] == [False, True]


async def test_silence_is_counted_from_the_last_sound() -> None:
    pieces = [piece for _ in range(3) for piece in (voice(100), silence(1000))]
    assert b"".join(chunk.audio for chunk in await heard(Engine(pieces))) == b"".join(pieces)


@pytest.mark.parametrize("text", ["...", " — !? ", "", "🙂"])
@pytest.mark.parametrize("pieces", [[b""], [silence(400)] * 8])
async def test_text_without_letters_may_be_silent(text: str, pieces: list[bytes]) -> None:
    chunks = await heard(Engine(pieces), text)
    assert [chunk.audio for chunk in chunks] == pieces


@pytest.mark.parametrize("pieces", [[voice(50)], [b""], [b"", b""]])
async def test_next_to_nothing_is_a_fault(pieces: list[bytes]) -> None:
    with pytest.raises(EngineFailedError, match="for words"):
        await heard(Engine(pieces))


async def test_a_short_word_may_be_short() -> None:
    assert [chunk.audio for chunk in await heard(Engine([voice(20)]), "I")] == [voice(20)]


async def test_a_voice_in_tiny_pieces_is_heard() -> None:
    whole = silence(100) + voice(400)
    engine = Engine([whole[at : at + 40] for at in range(0, len(whole), 40)])
    assert b"".join(chunk.audio for chunk in await heard(engine)) == whole


async def test_a_reader_who_goes_away_ends_the_engine() -> None:
    engine = Engine([voice(100)] * 5)
    async with aclosing(listened(engine.speak(), TEXT)) as stream:
        await anext(stream)
    assert (engine.given, engine.ended) == (1, True)
