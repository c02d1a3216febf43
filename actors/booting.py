"""Actors that start by themselves. Small, for whoever looks one of them up by its name imports this module."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from configs import logs
from configs.process import begin_work
from voice_agent.errors import VoiceAgentError

logger = logging.getLogger(__name__)


def self_starting(kind: type[Any], log_level: str) -> type[Any]:
    """``kind`` with a constructor that also begins ``start``: of a restarted actor Ray re-runs nothing else."""

    async def construct(self: Any, *arguments: Any) -> None:
        logs.set_up(log_level)
        kind.__init__(self, *arguments)
        self._boot = asyncio.create_task(_boot(self), name="boot")

    return type(kind.__name__, (kind,), {"__init__": construct, "__doc__": kind.__doc__})


async def _boot(actor: Any) -> None:
    try:
        await actor.start()
    except (VoiceAgentError, OSError) as error:
        # Whoever waits for the actor calls ``start`` again and is told the same.
        logger.warning("actor did not start", extra={"actor": type(actor).__name__, "reason": str(error)})
    begin_work()
