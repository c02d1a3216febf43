"""Is an engine stuck for good? Asked by Serve's health check: what cannot be cancelled is ended with its process.

A coroutine that hangs is cancelled when its caller gives up. A thread is not: it keeps its place in the replica for as
long as it hangs, and a replica of which all threads hang answers nobody, and health checks none the worse.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from voice_agent.errors import EngineFailedError

STUCK_S: Final = 60.0
"""No work on one request takes this long: callers give up after `turn.stage_deadline_s`."""


class Watchdog:
    """The work under way on an engine's threads. ``clock`` gives seconds; used from several threads."""

    def __init__(self, limit_s: float = STUCK_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._began_s: dict[object, float] = {}

    @contextmanager
    def work(self) -> Iterator[None]:
        """Around one piece of work, on the thread that does it."""
        key = object()
        self._began_s[key] = self._clock()
        try:
            yield
        finally:
            del self._began_s[key]

    def check(self) -> None:
        """Raise when work has been under way for longer than the limit.

        Raises:
            EngineFailedError: it has.
        """
        oldest_s = min(list(self._began_s.values()), default=None)
        if oldest_s is not None and self._clock() - oldest_s > self._limit_s:
            raise EngineFailedError(f"the engine has been at one request for more than {self._limit_s:.0f} s")
