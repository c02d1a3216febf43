"""The speech of one clause: what a replica that died or stalled began, another one ends; the rest alone is heard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from actors.call.jobs import items_of, next_of
from actors.call.kit import CallKit
from voice_agent.errors import EngineFailedError, ReplicaLostError, ReplicaStalledError
from voice_agent.ports import SpeakRequest, SpeechChunk

logger = logging.getLogger(__name__)

BYTES_PER_MS = 8


async def speech_of(
    kit: CallKit, request: SpeakRequest, ahead_ms: Callable[[], int]
) -> AsyncGenerator[SpeechChunk, None]:
    """Speech of a clause, nothing of it twice.

    When the replica dies or stalls in the middle, and there is another, the clause is asked for again, and as much of
    the second stream is left out as the first gave. An engine that says a text alike each time is heard as if nothing
    had happened. One that does not may be heard to stumble over the word at the seam: where words end is told with the
    last piece, too late to cut between two. The times of words are those of the stream that came to its end.

    Another *engine* has another voice and another pace; a place in its audio is no place in the words, and words that
    are left out are worse than words said twice. So it does not go on: the stream fails, and the dialog has the whole
    clause said again. The same when the rest is late, when replicas fail one after the other and give nothing new, and
    after any other error.

    Args:
        kit: of the actor.
        request: the clause.
        ahead_ms: how much speech the listener still has to hear now.

    Raises:
        DeadlineExceededError: silent for too long; of the rest, until the ear is empty and ``kit.behind_s`` more.
        VoiceAgentError: the stream failed.
    """
    loop = asyncio.get_running_loop()
    given, engine, newest_s, dry_at_s = 0, "", loop.time(), 0.0
    while True:
        known, place = given, 0
        if known:
            request = replace(request, ahead_ms=ahead_ms() - known // BYTES_PER_MS)
        try:
            async with aclosing(items_of(partial(kit.plane.speak, request), kit.patience_s)) as stream:
                while True:
                    late_at_s = min(newest_s + kit.patience_s, dry_at_s + kit.behind_s) if known else None
                    chunk = await next_of(stream, late_at_s)
                    if known and chunk.engine != engine:
                        raise EngineFailedError(f"{engine} broke off, and {chunk.engine} cannot go on for it")
                    fresh = chunk.audio[max(known - place, 0) :]
                    place += len(chunk.audio)
                    if fresh or chunk.last:
                        given, engine, newest_s = given + len(fresh), chunk.engine, loop.time()
                        yield replace(chunk, audio=fresh)
                        dry_at_s = loop.time() + ahead_ms() / 1000
        except StopAsyncIteration:
            return
        except (ReplicaLostError, ReplicaStalledError):
            if given == known:
                raise
            logger.warning("another replica goes on with a clause", extra={"call_id": request.call_id})
