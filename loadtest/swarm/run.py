"""A load from beginning to end: swarm, monitor, the platform's own records, and the folder with all of it."""

from __future__ import annotations

import asyncio
import os
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtest.carrier import CallTarget
from loadtest.sampler import StackSampler
from loadtest.swarm import pipe, summary
from loadtest.swarm.monitor import StackMonitor, StackSample
from loadtest.swarm.plan import LoadPlan
from loadtest.swarm.stats import LateTicks
from loadtest.swarm.swarm import Swarm, SwarmResult

Tell = Callable[[str], None]
_TELL_EVERY_S = 5.0
_MEMORY_EVERY_S = 20.0
"""More often only in a load of less than a minute, which is to have three such samples too."""
_RECORDS_AT_ONCE = 4
_WRITTEN_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """A running stack: where it is, what opens its API, which processes it is made of (empty: not measured)."""

    call: CallTarget
    api_key: str
    pids: Mapping[str, list[int]]
    facts: summary.StackFacts
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Everything that is known after a load. ``records`` are the platform's own, by call id."""

    swarm: SwarmResult
    samples: tuple[StackSample, ...]
    records: Mapping[str, Mapping[str, Any]]
    content: Mapping[str, Any]


async def run_load(
    target: LoadTarget, plan: LoadPlan, out_dir: Path, tell: Tell, prepare: Callable[[Swarm], None] | None = None
) -> LoadResult:
    """Put the load on the stack and measure; recordings go to ``out_dir/audio``. ``prepare`` may add hooks.

    Raises:
        ConfigError: the target is another machine and not allowed.
        GeneratorFailedError: a generator process died.
    """
    sampler = StackSampler.of_ready_line(target.pids)
    monitor = StackMonitor(sampler, min(_MEMORY_EVERY_S, plan.steady_s / 3 or _MEMORY_EVERY_S))
    async with Swarm(target.call, plan, out_dir / "audio", foreign=target.foreign) as swarm:
        sampler.without |= {os.getpid(), *(cost.pid for cost in swarm.generators)}
        if target.pids:
            swarm.at(0.0, monitor.run)
        swarm.at(0.0, Progress(tell).run)
        if prepare is not None:
            prepare(swarm)
        result = await swarm.run()
    records = await read_records(target, [call.outcome.call_sid for call in result.calls if call.outcome.streams])
    content = summary.summarise(result, target.facts, monitor.samples, records)
    return LoadResult(result, tuple(monitor.samples), records, content)


class Progress:
    """A line every few seconds: calls up, latency so far, failures."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._unanswered = 0
        self._waits_ms: list[int] = []

    async def run(self, swarm: Swarm) -> None:
        """A hook for ``Swarm.at``."""
        swarm.observe(self._note)
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            self._tell(self._line(swarm))

    def _note(self, message: pipe.Noted | pipe.Ended) -> None:
        if isinstance(message, pipe.Noted):
            self._unanswered += message.kind == "unanswered"
            if message.waited_ms is not None:
                insort(self._waits_ms, message.waited_ms)

    def _line(self, swarm: Swarm) -> str:
        ended = [call.outcome for call in swarm.calls]
        waits, latency = self._waits_ms, "no answer yet"
        if waits:
            p50, p95 = (waits[min(len(waits) - 1, int(share * len(waits)))] for share in (0.5, 0.95))
            latency = f"v2v so far P50 {p50} P95 {p95} ms (n {len(waits)})"
        failed = sum(not outcome.ok for outcome in ended)
        late = LateTicks.of([cost.late for cost in swarm.generators], 0.0)
        return (
            f"{swarm.elapsed_s:6.0f} s  {swarm.up} calls up, {len(ended)} ended, {failed} failed, "
            f"{self._unanswered} unanswered; {latency}; generator late P95 {late.p95_ms} ms"
        )


async def read_records(target: LoadTarget, call_ids: list[str]) -> dict[str, Mapping[str, Any]]:
    """The platform's own records of these calls; those it does not have are left out."""
    found: dict[str, Mapping[str, Any]] = {}
    if not target.api_key:
        return found
    await asyncio.sleep(_WRITTEN_WITHIN_S)
    gate = asyncio.Semaphore(_RECORDS_AT_ONCE)
    async with httpx.AsyncClient(
        base_url=target.call.webhook_url, headers={"X-API-Key": target.api_key}, trust_env=False, timeout=20.0
    ) as http:

        async def read(call_id: str) -> None:
            async with gate:
                answer = await http.get(f"/api/calls/{call_id}")
            if answer.is_success:
                found[call_id] = answer.json()

        async with asyncio.TaskGroup() as tasks:
            for call_id in call_ids:
                tasks.create_task(read(call_id))
    return found
