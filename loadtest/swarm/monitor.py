"""The stack under load, sampled: CPU every few seconds, memory less often, beside the number of calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from loadtest.sampler import StackSampler
from loadtest.swarm.swarm import Swarm

_CPU_EVERY_S = 2.0
_DISCOVER_EVERY = 5
"""Samples between two looks for new processes, which read every process of the machine."""
_REST_S = 0.02
"""Between the memory of two processes."""


@dataclass(frozen=True, slots=True)
class StackSample:
    """One moment. ``at_s`` counts from the first call; ``pss_mb`` is empty where memory was not read."""

    at_s: float
    up: int
    placed: int
    ended: int
    cpu_s: Mapping[str, float]
    pss_mb: Mapping[str, float]
    processes: Mapping[str, int]


class StackMonitor:
    """Samples until cancelled.

    Memory is read when all calls have been placed and each ``memory_every_s`` from then on: it walks the page tables of
    the processes that are measured, and holds them up.
    """

    def __init__(self, sampler: StackSampler, memory_every_s: float) -> None:
        self._sampler = sampler
        self._memory_every_s = memory_every_s
        self.samples: list[StackSample] = []
        self.cost_s = 0.0

    async def run(self, swarm: Swarm) -> None:
        """A hook for ``Swarm.at``."""
        wanted = min(swarm.plan.calls, swarm.plan.most_calls)
        next_memory_s = 0.0
        while True:
            memory = swarm.placed >= wanted and swarm.elapsed_s >= next_memory_s
            if memory:
                next_memory_s = swarm.elapsed_s + self._memory_every_s
            await self.sample(swarm, memory)
            await asyncio.sleep(_CPU_EVERY_S)

    async def sample(self, swarm: Swarm, memory: bool) -> None:
        """Take one sample now."""
        at_s, up, placed, ended = swarm.elapsed_s, swarm.up, swarm.placed, len(swarm.calls)
        cpu_s, pss_mb, processes = await asyncio.to_thread(self._read, memory)
        self.samples.append(StackSample(at_s, up, placed, ended, cpu_s, pss_mb, processes))

    def _read(self, memory: bool) -> tuple[Mapping[str, float], Mapping[str, float], Mapping[str, int]]:
        before_s = time.thread_time()
        try:
            if not memory:
                return self._sampler.cpu(discover=not len(self.samples) % _DISCOVER_EVERY), {}, {}
            usage = self._sampler.usage(_REST_S)
            return usage.cpu_s, usage.pss_mb, usage.processes
        finally:
            self.cost_s += time.thread_time() - before_s
