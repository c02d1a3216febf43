"""Results of the benchmark as records, JSON and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from loadtest.measure import Percentiles


@dataclass(frozen=True, slots=True)
class LoadResult:
    """One load on one stack, all rounds together.

    Attributes:
        ok: calls that went through, of ``calls * rounds``.
        v2v_ms: at the ear, over all turns of all calls.
        starved_holes: silence starved inside a clause.
        pauses_ms: holes between clauses.
        call_seconds: sum of the lengths of the calls.
        cpu_s_by_kind: CPU seconds of the stack during the load, the idle stack's included.
        generator_cpu_s: CPU seconds of the emulated carrier and callers, not the stack's.
        active_pss_mb: memory of the whole stack with all calls talking.
        cpu_ms_per_call_s: CPU of the stack for one second of one call, gross.
        net_cpu_ms_per_call_s: the same without what the idle stack uses anyway.
        active_call_mb: what the stack grew by for each active call, on top of the warm stack.
    """

    calls: int
    rounds: int
    ok: int
    failures: tuple[str, ...]
    unanswered: int
    v2v_ms: Percentiles
    barge_in_ms: Percentiles
    greeting_ms: Percentiles
    starved_holes: int
    starved_ms: int
    pauses_ms: Percentiles
    call_seconds: float
    wall_s: float
    cpu_s_by_kind: Mapping[str, float]
    generator_cpu_s: float
    generator_late_p95_ms: float
    generator_late_max_ms: float
    active_pss_mb: float
    active_pss_by_kind: Mapping[str, float]
    recordings: tuple[str, ...]
    cpu_ms_per_call_s: float = 0.0
    net_cpu_ms_per_call_s: float = 0.0
    active_call_mb: float = 0.0

    def over_idle(self, idle_cores: float, idle_pss_mb: float) -> LoadResult:
        """With the figures that need the idle stack's."""
        cpu_s = sum(self.cpu_s_by_kind.values())
        net_s = cpu_s - idle_cores * self.wall_s
        per_call_s = 1000 / self.call_seconds if self.call_seconds else 0.0
        grown_mb = self.active_pss_mb - idle_pss_mb if self.active_pss_mb else 0.0
        return replace(
            self,
            cpu_ms_per_call_s=cpu_s * per_call_s,
            net_cpu_ms_per_call_s=net_s * per_call_s,
            active_call_mb=grown_mb / self.calls,
        )

    @property
    def generator_ms_per_call_s(self) -> float:
        """CPU of the generator for one second of one call."""
        return 1000 * self.generator_cpu_s / self.call_seconds if self.call_seconds else 0.0


@dataclass(frozen=True, slots=True)
class PlanResult:
    """One stack: idle, then under its loads.

    ``idle_call_mb`` is one call's share of a warm call actor. ``idle_cores`` is the CPU of the idle stack.
    """

    name: str
    profile: str
    simulated: bool
    calls_per_actor: int
    max_calls: int
    start_s: float
    idle_cores: float
    idle_cores_by_kind: Mapping[str, float]
    idle_pss_mb: float
    idle_pss_by_kind: Mapping[str, float]
    processes: Mapping[str, int]
    idle_call_mb: float
    unreadable_processes: int
    loads: tuple[LoadResult, ...]


@dataclass(frozen=True, slots=True)
class BenchResult:
    """A whole benchmark."""

    at: str
    machine: str
    plans: tuple[PlanResult, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        content: dict[str, Any] = _rounded(asdict(self))
        return content


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def print_tables(bench: BenchResult) -> None:
    """To standard output."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(f"\n{bench.machine}; plans with simulated engines measure the platform, not models", style="dim")
    for table in (_latency_table(bench), _cost_table(bench), _kinds_table(bench)):
        console.print()
        console.print(table)
    for plan in bench.plans:
        for load in plan.loads:
            for failure in load.failures:
                console.print(f"{plan.name}, {load.calls} calls: {failure}", style="red", markup=False)


_WIDTH = 130


def _table(title: str, *columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0)
    return table


def _rows(bench: BenchResult) -> Iterator[tuple[PlanResult, LoadResult, list[str]]]:
    """Each load with the cells that name it."""
    for plan in bench.plans:
        engines = "simulated" if plan.simulated else "real"
        for load in plan.loads:
            calls = f"{load.calls}" + (f" x{load.rounds}" if load.rounds > 1 else "")
            yield plan, load, [f"{plan.name} ({engines})", calls]


def _latency_table(bench: BenchResult) -> Any:
    """Latency and gaps at the ear."""
    table = _table(
        "At the ear, ms (starved: silence inside a clause; late: P95 of the generator's own ticks)",
        "plan (engines)",
        "calls",
        "ok",
        "turns",
        "v2v P50",
        "P95",
        "barge-ins",
        "P50",
        "P95",
        "greeting",
        "starved",
        "unanswered",
        "late",
    )
    for _, load, name in _rows(bench):
        table.add_row(
            *name,
            f"{load.ok}/{load.calls * load.rounds}",
            str(load.v2v_ms.count),
            f"{load.v2v_ms.p50:.0f}",
            f"{load.v2v_ms.p95:.0f}",
            str(load.barge_in_ms.count),
            f"{load.barge_in_ms.p50:.0f}",
            f"{load.barge_in_ms.p95:.0f}",
            f"{load.greeting_ms.p50:.0f}",
            f"{load.starved_ms} ({load.starved_holes})",
            str(load.unanswered),
            f"{load.generator_late_p95_ms:.1f}",
        )
    return table


def _cost_table(bench: BenchResult) -> Any:
    """CPU and memory of a call."""
    table = _table(
        "CPU in ms per call-second (net: without the idle stack), memory as PSS in MB",
        "plan (engines)",
        "calls",
        "per actor",
        "CPU net",
        "gross",
        "generator",
        "idle cores",
        "warm call",
        "active adds",
        "stack idle",
        "active",
        "start s",
    )
    for plan, load, name in _rows(bench):
        table.add_row(
            *name,
            str(plan.calls_per_actor),
            f"{load.net_cpu_ms_per_call_s:.1f}",
            f"{load.cpu_ms_per_call_s:.1f}",
            f"{load.generator_ms_per_call_s:.1f}",
            f"{plan.idle_cores:.3f}",
            f"{plan.idle_call_mb:.1f}",
            f"{load.active_call_mb:.1f}",
            f"{plan.idle_pss_mb:.0f}",
            f"{load.active_pss_mb:.0f}",
            f"{plan.start_s:.0f}",
        )
    return table


def _kinds_table(bench: BenchResult) -> Any:
    """Where CPU and memory go: the last load of each plan."""
    table = _table(
        "By kind of process, last load of each plan",
        "plan",
        "kind",
        "processes",
        "CPU ms/call-s",
        "idle cores",
        "PSS MB",
    )
    for plan in bench.plans:
        load = plan.loads[-1]
        for kind in sorted(load.cpu_s_by_kind, key=lambda name: -load.cpu_s_by_kind[name]):
            cpu_ms = 1000 * load.cpu_s_by_kind[kind] / load.call_seconds if load.call_seconds else 0.0
            table.add_row(
                plan.name,
                kind,
                str(plan.processes.get(kind, 0)),
                f"{cpu_ms:.2f}",
                f"{plan.idle_cores_by_kind.get(kind, 0.0):.3f}",
                f"{load.active_pss_by_kind.get(kind, 0.0):.0f}",
            )
        table.add_section()
    return table
