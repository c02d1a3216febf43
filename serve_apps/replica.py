"""What the replicas share: the border where an engine's failure becomes one of our errors."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

from voice_agent.errors import EngineFailedError, VoiceAgentError

logger = logging.getLogger(__name__)
T = TypeVar("T")


def as_ours(error: Exception, stage: str, call_id: str) -> VoiceAgentError:
    """The error a caller sees: ours as it is, anything else as EngineFailedError; logged with its stack.

    Errors cross processes: a library's own exception may not unpickle where the library is not installed.
    """
    if isinstance(error, VoiceAgentError):
        return error
    logger.error("engine failed", exc_info=error, extra={"stage": stage, "call_id": call_id})
    return EngineFailedError(f"The {stage} engine failed: {type(error).__name__}: {error}")


def engines_of(engine: Any) -> dict[str, dict[str, Any]]:
    """What a fallback engine says of the engines it wraps, their breakers first of all; empty for any other engine."""
    ladder = getattr(engine, "ladder", None)
    states: dict[str, dict[str, Any]] = ladder.states() if ladder is not None else {}
    return states


async def guarded(stream: AsyncIterator[T], stage: str, call_id: str) -> AsyncGenerator[T, None]:
    """Pass an engine's stream on; when the reader goes away the engine's iterator is closed at once."""
    closing: Any = stream
    try:
        async with aclosing(closing):
            async for item in stream:
                yield item
    except Exception as error:  # the border of a replica request
        raise as_ours(error, stage, call_id) from error
