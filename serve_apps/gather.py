"""Fewer, larger items for a stream between processes: each one costs both ends about half a millisecond of CPU."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

from voice_agent.dialog.clauses import ClauseSplitter
from voice_agent.ports import ReplyChunk, SpeechChunk

T = TypeVar("T")

TEXT_PATIENCE_S: Final = 0.2
"""Words behind the first clause are gathered this long; the voice is busy with the first for longer."""
AUDIO_PATIENCE_S: Final = 1.0
"""Longest that audio is gathered."""
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
    loop = asyncio.get_running_loop()
    held: list[T] = []
    due_s, failure, over = loop.time(), None, False
    reading: Any = stream
    async with aclosing(reading):
        pending: asyncio.Future[T] | None = None
        try:
            while not over:
                pending = pending or asyncio.ensure_future(anext(reading))
                await asyncio.wait((pending,), timeout=max(0.0, due_s - loop.time()) if held else None)
                if pending.done():
                    over, failure = _take(pending, held)
                    if held and not over and urgent(held[-1]):
                        due_s = 0.0
                    pending = None
                if held and (over or loop.time() >= due_s):
                    item = join(held) if len(held) > 1 else held[0]
                    held = []
                    due_s = loop.time() + patience_s(item)
                    yield item
        finally:
            if pending is not None:
                pending.cancel()
                with suppress(asyncio.CancelledError, StopAsyncIteration):
                    await pending
    if failure is not None:
        raise failure


def _take(done: asyncio.Future[T], held: list[T]) -> tuple[bool, Exception | None]:
    """Add what was read to what is held; whether the stream is over, and by what failure."""
    try:
        held.append(done.result())
    except StopAsyncIteration:
        return True, None
    except Exception as error:  # noqa: BLE001 - handed on to the reader, behind what is held
        return True, error
    return False, None


def gathered_text(stream: AsyncIterator[ReplyChunk], first_clause_words: int) -> AsyncGenerator[ReplyChunk, None]:
    """A reply: its first token and the end of its first clause as they come, the rest in larger pieces."""
    splitter = ClauseSplitter(first_min_words=first_clause_words)

    def urgent(chunk: ReplyChunk) -> bool:
        if chunk.finish_reason or chunk.tool_call is not None:
            return True
        return splitter.first and bool(splitter.feed(chunk.text))

    return gathered(stream, _join_text, lambda _: TEXT_PATIENCE_S, urgent)


def gathered_speech(stream: AsyncIterator[SpeechChunk]) -> AsyncGenerator[SpeechChunk, None]:
    """A clause: its first audio as it comes, then pieces as large as half of what the listener still has to hear."""
    clock = asyncio.get_running_loop().time
    began_s, sent_bytes = 0.0, 0

    def patience_s(chunk: SpeechChunk) -> float:
        nonlocal began_s, sent_bytes
        began_s = began_s or clock()
        sent_bytes += len(chunk.audio)
        ahead_s = sent_bytes / _BYTES_PER_S - (clock() - began_s)
        return min(max(ahead_s / 2, 0.0), AUDIO_PATIENCE_S)

    return gathered(stream, _join_speech, patience_s, lambda chunk: chunk.last)


def _join_text(chunks: Sequence[ReplyChunk]) -> ReplyChunk:
    """Only the last may carry a tool call or the end: either is urgent."""
    sources = tuple(dict.fromkeys(source for chunk in chunks for source in chunk.sources))
    return replace(chunks[-1], text="".join(chunk.text for chunk in chunks), sources=sources)


def _join_speech(chunks: Sequence[SpeechChunk]) -> SpeechChunk:
    """The last says where the words end."""
    return replace(chunks[-1], audio=b"".join(chunk.audio for chunk in chunks))
