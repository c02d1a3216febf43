"""Fewer, larger items for a stream between processes: each one costs both ends about half a millisecond of CPU."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar

from engines.listening import joined
from voice_agent.dialog.clauses import ClauseSplitter
from voice_agent.ports import ReplyChunk, SpeechChunk

T = TypeVar("T")

TEXT_PATIENCE_S: Final = 0.2
"""Words behind the first clause are gathered this long; the voice is busy with the first for longer."""
AUDIO_PATIENCE_S: Final = 1.0
"""Longest that audio is gathered."""
MOST_HELD: Final = 1000
_BYTES_PER_S: Final = 8000


async def gathered(
    stream: AsyncIterator[T],
    join: Callable[[Sequence[T]], T],
    patience_s: Callable[[T], float],
    urgent: Callable[[T], bool],
) -> AsyncGenerator[T, None]:
    """Pass a stream on, joining what comes while the reader can still wait. The first item is never held.

    Args:
        stream: read to its end; closed at once when the reader goes away.
        join: makes one item of several, in order.
        patience_s: called with each item handed out; how long the reader needs nothing more from then on.
        urgent: called with each item that comes in; one that the reader waits for takes all that is held with it.

    What is held is handed out before the end of the stream, or its failure, is.
    """
    held = _Held[T](urgent)
    reading = asyncio.create_task(held.read(stream), name="gather")
    reading.add_done_callback(lambda _: held.ready.set())
    try:
        while held.items or not reading.done():
            await held.ready.wait()
            items = held.take()
            if items:
                item = join(items) if len(items) > 1 else items[0]
                held.wait_for(patience_s(item))
                yield item
    finally:
        held.close()
        reading.cancel()
        await asyncio.wait((reading,))
        failure = None if reading.cancelled() else reading.exception()
    if failure is not None:
        raise failure


class _Held(Generic[T]):
    """Items read and not handed out: at most ``MOST_HELD``, then reading waits (policy: block).

    One task reads a stream to its end. A task or a timer for each item would cost more than the item.
    """

    def __init__(self, urgent: Callable[[T], bool]) -> None:
        self.items: list[T] = []
        self.ready = asyncio.Event()
        self._urgent = urgent
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, stream: AsyncIterator[T]) -> None:
        """Read to the end. ``ready`` is set when something is to be handed out."""
        closing: Any = stream
        async with aclosing(closing):
            async for item in stream:
                self.items.append(item)
                if self._urgent(item) or self._loop.time() >= self._due_s:
                    self.ready.set()
                    # A stream that never waits would be read to its end before its first item is handed out.
                    await asyncio.sleep(0)
                elif self._timer is None:
                    self._timer = self._loop.call_at(self._due_s, self.ready.set)
                if len(self.items) >= MOST_HELD:
                    self._room.clear()
                    self.ready.set()
                    await self._room.wait()

    def take(self) -> list[T]:
        """What is to be handed out now."""
        self.close()
        self.ready.clear()
        items, self.items = self.items, []
        self._room.set()
        return items

    def wait_for(self, patience_s: float) -> None:
        """Nothing is needed for so long."""
        self._due_s = self._loop.time() + patience_s

    def close(self) -> None:
        """Stop the timer. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def gathered_text(stream: AsyncIterator[ReplyChunk], first_clause_words: int) -> AsyncGenerator[ReplyChunk, None]:
    """A reply: its first token and the end of its first clause as they come, the rest in larger pieces."""
    splitter = ClauseSplitter(first_min_words=first_clause_words)

    def urgent(chunk: ReplyChunk) -> bool:
        if chunk.finish_reason or chunk.tool_call is not None:
            return True
        return splitter.first and bool(splitter.feed(chunk.text))

    return gathered(stream, _join_text, lambda _: TEXT_PATIENCE_S, urgent)


def gathered_speech(stream: AsyncIterator[SpeechChunk], ahead_s: float = 0.0) -> AsyncGenerator[SpeechChunk, None]:
    """A clause: its first audio as it comes, then pieces as large as half of what the listener still has to hear.

    ``ahead_s``: what the listener still has to hear before this clause begins, less what it leaves out of it.
    """
    clock = asyncio.get_running_loop().time
    began_s, sent_bytes = 0.0, 0

    def patience_s(chunk: SpeechChunk) -> float:
        nonlocal began_s, sent_bytes
        began_s = began_s or clock()
        sent_bytes += len(chunk.audio)
        left_s = ahead_s + sent_bytes / _BYTES_PER_S - (clock() - began_s)
        return min(max(left_s / 2, 0.0), AUDIO_PATIENCE_S)

    return gathered(stream, joined, patience_s, lambda chunk: chunk.last)


def _join_text(chunks: Sequence[ReplyChunk]) -> ReplyChunk:
    """Only the last may carry a tool call or the end: either is urgent."""
    sources = tuple(dict.fromkeys(source for chunk in chunks for source in chunk.sources))
    return replace(chunks[-1], text="".join(chunk.text for chunk in chunks), sources=sources)
