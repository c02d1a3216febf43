"""``python -m loadtest.bench``: what the platform can do on this machine, in a table and in JSON.

Each plan starts a stack of its own with ``voice-agent up``, measures it idle, places its loads one after the other, and
stops it. Latency is measured at the ear (``loadtest.measure``). CPU is that of the stack's processes during a load;
the idle stack's rate is measured first and shown beside, the generator runs in this process and is counted apart.
Memory of an idle call is its share of a warm call actor; of an active call, what the whole stack grows by on top.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from loadtest.bench_report import BenchResult, LoadResult, PlanResult, print_tables
from loadtest.carrier import CallTarget
from loadtest.measure import Percentiles
from loadtest.place import CallOutcome, CallProgress, place_calls
from loadtest.sampler import CALL_ACTOR, StackSampler, Usage
from loadtest.script import CallerScript, Say, load_script
from loadtest.stack_process import RunningStack, running_stack
from voice_agent.errors import VoiceAgentError

SCRIPT = Path(__file__).parent / "scripts" / "bench.yaml"
Tell = Callable[[str], None]
_SETTLE_S = 5.0
_IDLE_S = 15.0
_RATE_PER_S = 1.0
_MEMORY_AFTER_S = 12.0


@dataclass(frozen=True, slots=True)
class Load:
    """``calls`` at a time, ``rounds`` times over."""

    calls: int
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """A stack and what is done to it. ``simulated`` profiles measure the platform, not models."""

    name: str
    profile: str
    calls_per_actor: int
    max_calls: int
    loads: tuple[Load, ...]

    @property
    def sets(self) -> dict[str, str]:
        """Settings on top of the profile."""
        return {
            "calls.calls_per_actor": str(self.calls_per_actor),
            "calls.max_calls": str(self.max_calls),
            "telemetry.event_log": "false",
        }


PLANS: tuple[Plan, ...] = (
    Plan("embedded", "embedded", 1, 5, (Load(1, rounds=2), Load(5))),
    Plan("dense", "simulated", 10, 10, (Load(10),)),
    Plan("one-to-one", "simulated", 1, 10, (Load(10),)),
)


async def run_bench(
    out_dir: Path, *, data_dir: Path, plans: Sequence[Plan] = PLANS, tell: Tell | None = None, keep_audio: bool = True
) -> BenchResult:
    """Measure every plan; writes ``bench.json``, logs and recordings into ``out_dir``.

    Raises:
        StackFailedError: a stack did not start.
    """
    say = tell or (lambda text: None)
    script = load_script(SCRIPT)
    results = []
    for plan in plans:
        say(f"{plan.name}: starting a stack (profile {plan.profile}, {plan.calls_per_actor} calls per actor)")
        folder = _new_folder(out_dir / plan.name)
        async with running_stack(plan.profile, plan.sets, data_dir, folder / "up.log") as stack:
            results.append(await measure_stack(stack, plan, script, folder, say))
    bench = BenchResult(
        at=datetime.now(UTC).isoformat(timespec="seconds"), machine=describe_machine(), plans=tuple(results)
    )
    _write(bench, out_dir, keep_audio)
    return bench


def _new_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(bench: BenchResult, out_dir: Path, keep_audio: bool) -> None:
    (out_dir / "bench.json").write_text(json.dumps(bench.as_dict(), indent=1) + "\n", encoding="utf-8")
    if not keep_audio:
        for recording in out_dir.glob("*/*/*/call.wav"):
            recording.unlink()


def describe_machine() -> str:
    """Cores and memory, for the report."""
    memory_gb = round(psutil.virtual_memory().total / 2**30)
    return f"{os.cpu_count()} cores, {memory_gb} GB, {platform.machine()}, Python {platform.python_version()}"


async def measure_stack(stack: RunningStack, plan: Plan, script: CallerScript, folder: Path, say: Tell) -> PlanResult:
    """Idle first, then each load."""
    sampler = StackSampler.of_ready_line(stack.pids)
    say(f"{plan.name}: measuring the idle stack for {_IDLE_S:.0f} s")
    await asyncio.sleep(_SETTLE_S)
    before, began_s = sampler.cpu(), time.monotonic()
    await asyncio.sleep(_IDLE_S)
    idle = await asyncio.to_thread(sampler.usage)
    idle_cores = (idle.total_cpu_s - sum(before.values())) / (time.monotonic() - began_s)
    loads = []
    for load in plan.loads:
        say(f"{plan.name}: calls at once: {load.calls}, rounds: {load.rounds}")
        loads.append(await _measure_load(sampler, stack.target, load, script, folder))
    return PlanResult(
        name=plan.name,
        profile=plan.profile,
        simulated=plan.profile == "simulated",
        calls_per_actor=plan.calls_per_actor,
        max_calls=plan.max_calls,
        start_s=float(dict(stack.ready.get("start_s", {})).get("total", 0.0)),
        idle_cores=idle_cores,
        idle_cores_by_kind={kind: (cpu_s - before.get(kind, 0.0)) / _IDLE_S for kind, cpu_s in idle.cpu_s.items()},
        idle_pss_mb=idle.total_pss_mb,
        idle_pss_by_kind=dict(idle.pss_mb),
        processes=dict(idle.processes),
        idle_call_mb=idle_call_mb(idle, plan.calls_per_actor),
        unreadable_processes=sampler.unreadable,
        loads=tuple(result.over_idle(idle_cores, idle.total_pss_mb) for result in loads),
    )


def idle_call_mb(idle: Usage, calls_per_actor: int) -> float:
    """One call's share of a warm call actor."""
    actors = idle.processes.get(CALL_ACTOR, 0)
    return idle.pss_mb.get(CALL_ACTOR, 0.0) / (actors * calls_per_actor) if actors else 0.0


def varied(script: CallerScript, number: int) -> CallerScript:
    """The script of concurrent caller ``number``: the same moments, the questions in another order."""
    says = [step for step in script.steps if isinstance(step, Say)]
    texts = iter([says[(place + number) % len(says)].text for place in range(len(says))])
    steps = tuple(replace(step, text=next(texts)) if isinstance(step, Say) else step for step in script.steps)
    return replace(script, name=f"{script.name}-{number}", seed=script.seed + number, steps=steps)


async def _measure_load(
    sampler: StackSampler, target: CallTarget, load: Load, script: CallerScript, folder: Path
) -> LoadResult:
    """All rounds of a load. Memory is read once in each round, while the calls are in full swing."""
    outcomes: list[CallOutcome] = []
    wall_s, cpu_s, generator_s, sampling_s = 0.0, dict.fromkeys(sampler.cpu(), 0.0), 0.0, 0.0
    memory: list[Usage] = []
    for number in range(load.rounds):
        before, own, began_s = sampler.cpu(), _own_cpu_s(), time.monotonic()
        scripts = [varied(script, number + caller) for caller in range(load.calls)]
        round_folder = folder / f"{load.calls}-calls-{number + 1}"
        async with _memory_reader(sampler, load.calls) as reader:
            placed = await place_calls(target, scripts, round_folder, _RATE_PER_S, reader.progress)
        outcomes += placed
        wall_s += time.monotonic() - began_s
        for kind, used_s in sampler.cpu().items():
            cpu_s[kind] = cpu_s.get(kind, 0.0) + used_s - before.get(kind, 0.0)
        generator_s += _own_cpu_s() - own - reader.cost_s
        sampling_s += reader.cost_s
        memory += reader.found
    return _summarise(load, outcomes, cpu_s, _Costs(wall_s, generator_s, sampling_s, memory))


@dataclass(frozen=True, slots=True)
class _Costs:
    wall_s: float
    generator_s: float
    sampling_s: float
    memory: list[Usage]


def _summarise(load: Load, outcomes: Sequence[CallOutcome], cpu_s: dict[str, float], costs: _Costs) -> LoadResult:
    measures = [outcome.measures for outcome in outcomes]
    lateness = [measured.lateness_ms for measured in measures]
    return LoadResult(
        calls=load.calls,
        rounds=load.rounds,
        ok=sum(outcome.ok for outcome in outcomes),
        failures=tuple(
            f"{outcome.ended_by}: {outcome.reason} {' '.join(outcome.stream_errors)}".strip()
            for outcome in outcomes
            if not outcome.ok
        ),
        unanswered=sum(outcome.unanswered for outcome in outcomes),
        v2v_ms=Percentiles.of([turn.v2v_ms for measured in measures for turn in measured.turns]),
        barge_in_ms=Percentiles.of([item.latency_ms for measured in measures for item in measured.barge_ins]),
        greeting_ms=Percentiles.of([m.greeting_ms for m in measures if m.greeting_ms is not None]),
        starved_holes=sum(len(measured.starved) for measured in measures),
        starved_ms=sum(measured.starved_ms for measured in measures),
        pauses_ms=Percentiles.of([hole.gap_ms for measured in measures for hole in measured.pauses]),
        call_seconds=sum(measured.duration_ms for measured in measures) / 1000,
        wall_s=costs.wall_s,
        cpu_s_by_kind=cpu_s,
        generator_cpu_s=costs.generator_s,
        generator_late_p95_ms=max((late.p95 for late in lateness), default=0.0),
        generator_late_max_ms=max((late.largest for late in lateness), default=0.0),
        active_pss_mb=max((usage.total_pss_mb for usage in costs.memory), default=0.0),
        active_pss_by_kind=dict(costs.memory[-1].pss_mb) if costs.memory else {},
        recordings=tuple(str(outcome.wav) for outcome in outcomes),
    )


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system


class _MemoryReader:
    """Reads the stack's memory once, when every call of a load has been talking for a while."""

    def __init__(self, sampler: StackSampler, calls: int) -> None:
        self._sampler = sampler
        self._wanted = calls
        self._talking: set[str] = set()
        self._all_talk = asyncio.Event()
        self.found: list[Usage] = []
        self.cost_s = 0.0

    def progress(self, happened: CallProgress) -> None:
        """Follow the calls."""
        if happened.kind == "agent_speaks":
            self._talking.add(happened.call_sid)
        if len(self._talking) >= self._wanted:
            self._all_talk.set()

    async def run(self) -> None:
        """Wait for the calls, read, end."""
        await self._all_talk.wait()
        await asyncio.sleep(_MEMORY_AFTER_S)
        before_s = time.thread_time()
        self.found.append(await asyncio.to_thread(self._timed))
        self.cost_s += time.thread_time() - before_s

    def _timed(self) -> Usage:
        before_s = time.thread_time()
        usage = self._sampler.usage()
        self.cost_s += time.thread_time() - before_s
        return usage


@contextlib.asynccontextmanager
async def _memory_reader(sampler: StackSampler, calls: int) -> AsyncIterator[_MemoryReader]:
    """A reader whose task ends with the block."""
    reader = _MemoryReader(sampler, calls)
    reading = asyncio.create_task(reader.run())
    try:
        yield reader
    finally:
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading


# --- command line ---------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. 0 when every call went through."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench", description="Measure the platform on this machine."
    )
    names = [plan.name for plan in PLANS]
    parser.add_argument("plans", nargs="*", metavar="PLAN", help=f"which to run, of {', '.join(names)}; default: all")
    parser.add_argument("--out", type=Path, help="folder for bench.json and recordings; default: runs/bench-<time>")
    parser.add_argument("--data-dir", type=Path, default=Path("var/bench"), help="data folder of the measured stacks")
    parser.add_argument("--drop-audio", action="store_true", help="do not keep the recordings")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.plans if name not in names]
    if unknown:
        parser.error(f"unknown plan {', '.join(unknown)}; allowed: {', '.join(names)}")
    plans = [plan for plan in PLANS if plan.name in (options.plans or names)]
    out_dir = options.out or Path("runs") / f"bench-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    try:
        bench = asyncio.run(
            run_bench(
                out_dir,
                data_dir=options.data_dir,
                plans=plans,
                tell=lambda text: print(text, file=sys.stderr, flush=True),
                keep_audio=not options.drop_audio,
            )
        )
    except VoiceAgentError as error:
        print(error.message, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print_tables(bench)
    print(f"\n{out_dir / 'bench.json'}")
    return 0 if all(load.ok == load.calls * load.rounds for plan in bench.plans for load in plan.loads) else 1


if __name__ == "__main__":
    sys.exit(main())
