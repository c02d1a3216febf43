"""The 20 ms clock of all calls of a process.

Calls tick in phases, one each 4 ms, as unrelated callers do: frames of a hundred calls that leave in the same
millisecond would wait for one another at the server, and that wait would be the generator's doing. More phases would
only wake it up more often. One timer serves all.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from loadtest.playout import FRAME_MS

PHASES = 5
_STEP_S = FRAME_MS / 1000 / PHASES


class Ticks(Protocol):
    """Something that ticks each 20 ms."""

    def tick(self, late_ms: float) -> None:
        """Go on by one frame, ``late_ms`` after its time."""


class Lateness:
    """How late ticks were: ticks by tenths of a millisecond, up to a second. Cheap enough for every frame."""

    def __init__(self) -> None:
        self.tenths: dict[int, int] = {}
        self.largest_ms = 0.0

    def add(self, late_ms: float, ticks: int = 1) -> None:
        """Count ticks that were as late as this."""
        tenth = min(int(late_ms * 10), 10_000)
        self.tenths[tenth] = self.tenths.get(tenth, 0) + ticks
        self.largest_ms = max(self.largest_ms, late_ms)


class Ticker:
    """Ticks lines on absolute deadlines: a late tick is followed at once by the next, the clock never drifts."""

    def __init__(self) -> None:
        self._phases: list[list[Ticks]] = [[] for _ in range(PHASES)]
        self._some = asyncio.Event()
        self.lateness = Lateness()

    def add(self, line: Ticks) -> None:
        """Tick ``line`` from now on, in the phase with the fewest others."""
        min(self._phases, key=len).append(line)
        self._some.set()

    def remove(self, line: Ticks) -> None:
        """Stop ticking ``line``; nothing when it does not tick."""
        for lines in self._phases:
            if line in lines:
                lines.remove(line)
        if not any(self._phases):
            self._some.clear()

    async def run(self) -> None:
        """Tick until cancelled. What a line raises ends the clock."""
        while True:
            await self._some.wait()
            await self._while_some()

    async def _while_some(self) -> None:
        begin_s, step = time.monotonic(), 0
        while self._some.is_set():
            step += 1
            lines = self._phases[step % PHASES]
            if not lines:
                continue
            deadline_s = begin_s + step * _STEP_S
            # Sleeping even when late lets the receivers run between two ticks.
            await asyncio.sleep(max(0.0, deadline_s - time.monotonic()))
            late_ms = max(0.0, (time.monotonic() - deadline_s) * 1000)
            due = tuple(lines)
            for line in due:
                line.tick(late_ms)
            self.lateness.add(late_ms, len(due))
