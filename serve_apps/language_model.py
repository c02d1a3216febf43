"""LanguageModel: streams replies; a reader that goes away cancels the work down to the model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from engines import registry
from serve_apps.gather import gathered_text
from serve_apps.replica import engines_of, guarded
from voice_agent.ports import Capabilities, LanguageModelEngine, ReplyChunk, ReplyRequest


class LanguageModel:
    """The deployment. ``first_clause_words``: where the calls cut the first clause; until then nothing is gathered."""

    def __init__(self, engine: str, options: Mapping[str, Any] | None = None, *, first_clause_words: int = 0) -> None:
        self._engine: LanguageModelEngine = registry.load("llm", engine, options)
        self._first_clause_words = first_clause_words

    async def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._engine.capabilities

    async def engines(self) -> dict[str, dict[str, Any]]:
        """The engines of this replica, where it has a fallback: breaker, uses, faults."""
        return engines_of(self._engine)

    async def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        """Stream the reply; the last chunk carries ``finish_reason``.

        Raises:
            EngineFailedError: the engine failed.
        """
        chunks = guarded(self._engine.reply(request), "llm", request.call_id)
        async with aclosing(gathered_text(chunks, self._first_clause_words)) as stream:
            async for chunk in stream:
                yield chunk
