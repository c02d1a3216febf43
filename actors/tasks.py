"""Owners of tasks that outlive one call, and a watch on the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final

logger = logging.getLogger(__name__)

LAG_EVERY_S: Final = 1.0
LAG_WINDOW: Final = 30


class TaskKeeper:
    """Owns the long-lived tasks of an actor, whose methods Ray runs in tasks that come and go.

    A task that raises is logged and gone; the others go on. ``aclose`` cancels what is left and waits for it.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run ``work`` until it returns or the keeper is closed."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    async def aclose(self) -> None:
        """Cancel every task and wait until all are over. Idempotent."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("task failed", extra={"task": task.get_name()}, exc_info=error)


class LoopLag:
    """How late the event loop wakes a sleeper, in ms."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque([0.0], maxlen=LAG_WINDOW)

    @property
    def worst_ms(self) -> float:
        """Worst lateness of the last half minute."""
        return round(max(self._samples) * 1000, 1)

    @property
    def recent_ms(self) -> float:
        """What it is now: the median of the newest three, for a single pause is no load."""
        newest = sorted(list(self._samples)[-3:])
        return round(newest[len(newest) // 2] * 1000, 1) if len(newest) == 3 else 0.0

    async def run(self) -> None:
        """Measure, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._samples.append(max(0.0, loop.time() - due_s))
