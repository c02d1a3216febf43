"""How busy the model plane is, as its callers feel it: the time a request spends beside the engine's own work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LIMIT_MS: Final = 250.0
"""Waiting of this length on average is load 1: a caller would hear it."""
FORGET_S: Final = 5.0
_WEIGHT: Final = 0.2


@dataclass(slots=True)
class ClusterLoad:
    """The level of overload as the dispatcher told it last; see ``voice_agent.overload``."""

    level: int = 0


class PlaneLoad:
    """A moving average over the requests of a process. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waited_ms = 0.0
        self._noted_s = float("-inf")

    def note(self, took_ms: float, engine_ms: float) -> None:
        """A request took ``took_ms``, of which the engine worked ``engine_ms``; the rest was queues and transport."""
        self._waited_ms += _WEIGHT * (max(0.0, took_ms - engine_ms) - self._waited_ms)
        self._noted_s = self._clock()

    @property
    def level(self) -> float:
        """0 idle, 1 at the limit. What was long ago says nothing."""
        if self._clock() - self._noted_s > FORGET_S:
            self._waited_ms = 0.0
        return min(1.0, self._waited_ms / LIMIT_MS)
