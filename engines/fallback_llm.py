"""A language model that falls back: an engine that wraps engines, judged by time and by words."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from engines.ladder import Ladder, Rung, joint_capabilities, timed
from voice_agent.errors import DeadlineExceededError, EngineFailedError, VoiceAgentError
from voice_agent.ports import Capabilities, ReplyChunk, ReplyRequest

JUDGED_AFTER_S: Final = 2.0
PROBE_WORDS: Final = 5


class FallbackLanguageModel:
    """Asks the first engine whose breaker is closed, and the next when it fails before any word was given.

    A fault is: an error; no word within ``first_s``; ``next_s`` between two; an answer without a word or a tool.
    A model slower than ``words_per_s`` over two seconds is let finish, since its words are being spoken, and counts as
    at fault. A skipped engine is probed by a speculative request, which has the next rung behind it and nobody waiting,
    or in the background of one that counts.
    """

    def __init__(
        self,
        *,
        engines: Sequence[Mapping[str, Any]],
        first_s: float = 1.5,
        next_s: float = 1.5,
        words_per_s: float = 2.0,
        breaker: Mapping[str, float] | None = None,
    ) -> None:
        self.ladder = Ladder("llm", engines, breaker)
        self._first_s = first_s
        self._next_s = next_s
        self._words_per_s = words_per_s

    @property
    def capabilities(self) -> Capabilities:
        """Those of the first engine; simulated when any is."""
        return joint_capabilities(self.ladder)

    async def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        """Stream the reply; each chunk says which engine gave it."""
        due = self.ladder.due()
        rungs = self.ladder.usable(cheap=request.cheap)
        if due is not None and request.speculative:
            rungs = [due, *(rung for rung in rungs if rung is not due)]
        elif due is not None:
            self.ladder.probe(due, self._begin(due, request))
        for rung in rungs:
            given, probe = False, rung is due
            try:
                async with aclosing(self._judged(rung, request, in_time=rung is not rungs[-1])) as stream:
                    async for chunk in stream:
                        given = True
                        yield replace(chunk, engine=rung.name)
                self.ladder.succeeded(rung, probe=probe)
                return
            except _SlowError as slow:
                self.ladder.failed(rung, slow, probe=probe)
                return
            except VoiceAgentError as error:
                self.ladder.failed(rung, error, probe=probe)
                if given or rung is rungs[-1]:
                    raise

    async def _begin(self, rung: Rung, request: ReplyRequest) -> None:
        """A probe: the first words are enough to know."""
        words = 0
        async with aclosing(self._judged(rung, request, in_time=True)) as stream:
            async for chunk in stream:
                words += len(chunk.text.split())
                if words >= PROBE_WORDS:
                    return

    async def _judged(self, rung: Rung, request: ReplyRequest, *, in_time: bool) -> AsyncGenerator[ReplyChunk, None]:
        """The reply of one engine.

        Raises:
            _SlowError: behind the last chunk, of a model too slow to speak.
        """
        took_s, words, worth = 0.0, 0, False

        def patience_s(given: int, _: ReplyChunk | None, since_s: float) -> float | None:
            nonlocal took_s
            took_s = since_s if given else 0.0
            if not in_time:
                return None
            return self._next_s if worth else self._first_s

        held: list[ReplyChunk] = []
        async with aclosing(timed(rung.engine.reply(request), patience_s, "llm")) as stream:
            async for chunk in stream:
                words += len(chunk.text.split())
                worth = worth or bool(chunk.text.strip()) or chunk.tool_call is not None
                if worth:
                    for waiting in held:
                        yield waiting
                    held.clear()
                    yield chunk
                elif chunk.finish_reason:
                    raise EngineFailedError("the llm engine gave no word and no tool")
                else:
                    held.append(chunk)
        if in_time and took_s >= JUDGED_AFTER_S and words < took_s * self._words_per_s:
            raise _SlowError("the llm engine is slower than speech")


class _SlowError(DeadlineExceededError):
    """Told only inside: the reply is whole, its engine is slow."""
