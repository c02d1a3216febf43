"""Joining the items of a stream: nothing lost, nothing that is waited for held, nothing left open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import pytest

from serve_apps.gather import MOST_HELD, gathered, gathered_speech, gathered_text
from voice_agent.errors import EngineFailedError
from voice_agent.ports import ReplyChunk, SpeechChunk, ToolCall


class Source:
    """Gives items, pausing where one is None until ``go`` is set; fails at the end when told to."""

    def __init__(self, items: Sequence[str | None], failure: Exception | None = None) -> None:
        self.items = items
        self.failure = failure
        self.go = asyncio.Event()
        self.closed = False

    async def __call__(self) -> AsyncIterator[str]:
        try:
            for item in self.items:
                if item is None:
                    await self.go.wait()
                else:
                    yield item
            if self.failure is not None:
                raise self.failure
        finally:
            self.closed = True


def join(items: Sequence[str]) -> str:
    return "".join(items)


async def test_the_first_comes_at_once_and_the_rest_together() -> None:
    source = Source(["a", "b", "c", "d"])
    assert [item async for item in gathered(source(), join, lambda _: 60.0, lambda _: False)] == ["a", "bcd"]
    assert source.closed


async def test_without_patience_nothing_is_joined() -> None:
    source = Source(["a", "b", "c"])
    assert [item async for item in gathered(source(), join, lambda _: 0.0, lambda _: False)] == ["a", "b", "c"]


async def test_what_is_urgent_takes_all_that_is_held_with_it() -> None:
    source = Source(["a", "b", "C", None, "d"])
    async with aclosing(gathered(source(), join, lambda _: 60.0, str.isupper)) as stream:
        assert await anext(stream) == "a"
        assert await anext(stream) == "bC"


async def test_what_is_held_is_handed_out_in_time_though_nothing_more_comes() -> None:
    source = Source(["a", "b", None])
    async with aclosing(gathered(source(), join, lambda _: 0.01, lambda _: False)) as stream:
        assert [await anext(stream), await anext(stream)] == ["a", "b"]


async def test_a_failure_comes_behind_what_was_held() -> None:
    source = Source(["a", "b"], EngineFailedError("broke"))
    stream = gathered(source(), join, lambda _: 60.0, lambda _: False)
    assert [await anext(stream), await anext(stream)] == ["a", "b"]
    with pytest.raises(EngineFailedError, match="broke"):
        await anext(stream)


async def test_a_reader_that_goes_away_closes_the_source_and_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    source = Source(["a", None, "b"])
    async with aclosing(gathered(source(), join, lambda _: 60.0, lambda _: False)) as stream:
        assert await anext(stream) == "a"
        reading = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert source.closed
    assert asyncio.all_tasks() == before


async def test_a_reply_gives_its_first_clause_as_it_ends_and_keeps_all() -> None:
    async def words() -> AsyncIterator[ReplyChunk]:
        for word in "We open at nine. We close at six. Come in".split(" "):
            yield ReplyChunk(text=f"{word} ", sources=(word,))
        yield ReplyChunk(tool_call=ToolCall("end_call"), finish_reason="tool")

    chunks = [chunk async for chunk in gathered_text(words(), 0)]
    assert [chunk.text for chunk in chunks] == ["We ", "open at nine. ", "We close at six. Come in "]
    assert chunks[-1].tool_call == ToolCall("end_call")
    assert chunks[-1].finish_reason == "tool"
    assert {source for chunk in chunks for source in chunk.sources} == set(
        "We open at nine. close six. Come in".split()
    )


async def test_speech_is_whole_and_in_few_pieces() -> None:
    async def pieces() -> AsyncIterator[SpeechChunk]:
        for number in range(10):
            yield SpeechChunk(bytes([number]) * 1600, last=number == 9, word_ends_ms=(2000,) if number == 9 else ())

    chunks = [chunk async for chunk in gathered_speech(pieces())]
    assert b"".join(chunk.audio for chunk in chunks) == b"".join(bytes([n]) * 1600 for n in range(10))
    assert [chunk.last for chunk in chunks] == [False, True]
    assert chunks[-1].word_ends_ms == (2000,)


async def test_a_clause_behind_others_is_held_while_they_are_heard() -> None:
    async def pieces() -> AsyncIterator[SpeechChunk]:
        for number in range(5):
            await asyncio.sleep(0.02)
            yield SpeechChunk(bytes([number]) * 80, last=number == 4)

    alone = [chunk async for chunk in gathered_speech(pieces())]
    behind = [chunk async for chunk in gathered_speech(pieces(), ahead_s=60.0)]
    assert len(alone) > 2
    assert len(behind) == 2
    assert b"".join(chunk.audio for chunk in behind) == b"".join(chunk.audio for chunk in alone)


async def test_audio_that_the_reader_leaves_out_is_no_reason_to_hold_what_comes_behind_it() -> None:
    async def pieces() -> AsyncIterator[SpeechChunk]:
        for number in range(5):
            await asyncio.sleep(0.02)
            yield SpeechChunk(bytes([number]) * 1600, last=number == 4)

    assert len([chunk async for chunk in gathered_speech(pieces())]) == 2
    assert len([chunk async for chunk in gathered_speech(pieces(), ahead_s=-1.0)]) == 5


async def test_what_is_held_has_an_end() -> None:
    read = 0

    async def endless() -> AsyncIterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "x"

    async with aclosing(gathered(endless(), join, lambda _: 60.0, lambda _: False)) as stream:
        assert await anext(stream) == "x"
        assert len(await anext(stream)) == MOST_HELD
        assert read <= 2 * MOST_HELD + 2
