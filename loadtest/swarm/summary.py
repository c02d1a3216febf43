"""What a load came to, as figures: ``summary.json``. Pure: results in, a mapping out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtest.swarm.monitor import StackSample
from loadtest.swarm.stats import LateTicks, Spread, slope, spread
from loadtest.swarm.swarm import SwarmCall, SwarmResult

LATE_P95_MS = 5.0
LATE_OVER_FRAME_SHARE = 0.001
"""A generator whose ticks are later than this has measured itself: the run is invalid."""
WARM_UP_CALLS = 300
"""Until so many calls have ended, caches fill, and the journal keeps that many: growth is read from there on."""


@dataclass(frozen=True, slots=True)
class StackFacts:
    """What was loaded. ``simulated``: engines with a latency profile instead of models."""

    profile: str
    simulated: bool
    machine: str
    sets: Mapping[str, str] = field(default_factory=dict)


def summarise(
    result: SwarmResult, facts: StackFacts, samples: Sequence[StackSample], records: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """All figures. ``records`` are the platform's own of each call (``/api/calls/{id}``), as far as they were had."""
    late = LateTicks.of([cost.late for cost in result.generators], _largest_late(result))
    seconds = sum(call.outcome.measures.duration_ms for call in result.calls) / 1000
    outcomes = [call.outcome for call in result.calls]
    failures = Counter(failure_of(call) for call in result.calls if not call.outcome.ok)
    starved = [hole for outcome in outcomes for hole in outcome.measures.starved]
    content: dict[str, Any] = {
        "load": result.plan.name,
        "engines": "simulated: figures of the platform, not of models" if facts.simulated else "real",
        "stack": {"profile": facts.profile, "simulated": facts.simulated, "sets": dict(facts.sets)},
        "machine": facts.machine,
        "plan": _plan(result),
        "began_at_s": round(result.began_at_s, 3),
        "full_s": round(result.full_s, 1),
        "steady_end_s": round(result.steady_end_s, 1),
        "wall_s": round(result.wall_s, 1),
        "calls": {
            "placed": len(outcomes),
            "ok": sum(outcome.ok for outcome in outcomes),
            "failed": sum(not outcome.ok for outcome in outcomes),
            "unanswered_lines": sum(outcome.unanswered for outcome in outcomes),
            "call_seconds": round(seconds, 1),
            "cuts": sum(outcome.cuts for outcome in outcomes),
            "streams": sum(outcome.streams for outcome in outcomes),
            "clears": sum(outcome.clears for outcome in outcomes),
        },
        "failures": dict(failures.most_common()),
        "ms": _latencies(result.calls, records),
        "stages_ms": stage_spreads(records),
        "gaps": {
            "starved": len(starved),
            "starved_ms": sum(hole.gap_ms for hole in starved),
            "calls_with_gaps": sum(bool(outcome.measures.starved) for outcome in outcomes),
            "not_counted_generator_was_late": sum(len(outcome.measures.starved_late) for outcome in outcomes),
            "frames_the_server_did_not_read": sum(outcome.dropped_frames for outcome in outcomes),
        },
        "generator": {
            "processes": len(result.generators),
            "speech": result.generators[0].speech if result.generators else "",
            "precedence": result.generators[0].precedence if result.generators else "",
            "cpu_ms_per_call_s": round(1000 * sum(cost.cpu_s for cost in result.generators) / max(seconds, 1e-9), 2),
            "late": asdict(late),
        },
        "cost": cost(result, samples),
    }
    content["invalid"] = invalid(content)
    return content


def _plan(result: SwarmResult) -> dict[str, Any]:
    plan = result.plan
    return {
        "calls_at_once": plan.calls,
        "rate_per_s": plan.rate_per_s,
        "steady_s": plan.steady_s,
        "most_calls": plan.most_calls,
        "seed": plan.seed,
        "callers": {kind.script.name: kind.weight for kind in plan.callers},
        "network": asdict(plan.network),
    }


def failure_of(call: SwarmCall) -> str:
    """Why a call failed, in words without ids."""
    outcome = call.outcome
    return f"{outcome.ended_by}: {outcome.reason} {' '.join(outcome.stream_errors)}".strip()


def _largest_late(result: SwarmResult) -> float:
    return max((cost.late_largest_ms for cost in result.generators), default=0.0)


def invalid(content: Mapping[str, Any]) -> list[str]:
    """Why the figures are the generator's rather than the stack's; empty when they are not."""
    late = content["generator"]["late"]
    found = []
    if late["p95_ms"] > LATE_P95_MS:
        found.append(f"the generator's ticks were late: P95 {late['p95_ms']:.1f} ms, allowed {LATE_P95_MS:.0f}")
    share = late["over_frame"] / max(1, late["ticks"])
    if share > LATE_OVER_FRAME_SHARE:
        found.append(
            f"{late['over_frame']} of {late['ticks']} ticks were late by more than a frame, allowed "
            f"{LATE_OVER_FRAME_SHARE:.1%}"
        )
    return found


def _latencies(calls: Sequence[SwarmCall], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    measures = [call.outcome.measures for call in calls]
    opened = [call.outcome for call in calls if call.outcome.streams]
    groups: dict[str, list[list[float]]] = {
        "v2v_at_the_ear": [[turn.v2v_ms for turn in item.turns] for item in measures],
        "v2v_self_reported": [self_reported(record) for record in records.values()],
        "barge_in": [[barge_in.latency_ms for barge_in in item.barge_ins] for item in measures],
        "greeting": [[item.greeting_ms] for item in measures if item.greeting_ms is not None],
        "webhook_answered": [[outcome.answer_ms] for outcome in opened],
        "stream_opened": [[outcome.open_ms] for outcome in opened],
        "accepted": [[outcome.answer_ms + outcome.open_ms] for outcome in opened],
        "pause_between_clauses": [[hole.gap_ms for hole in item.pauses] for item in measures],
    }
    return {name: as_dict(spread(values)) for name, values in groups.items()}


def self_reported(record: Mapping[str, Any]) -> list[float]:
    """v2v of a call's turns as the platform sees it."""
    found = [turn.get("v2v_self_ms") for turn in record.get("turn_records", ())]
    return [float(value) for value in found if value is not None]


def as_dict(found: Spread | None) -> dict[str, Any] | None:
    """For JSON, rounded to tenths."""
    return _rounded(asdict(found)) if found is not None else None


def _rounded(value: Any, digits: int = 1) -> Any:
    if isinstance(value, float):
        return round(value, digits)
    return {key: _rounded(item, digits) for key, item in value.items()} if isinstance(value, Mapping) else value


STAGE_FIELDS = (
    "pause_ms",
    "transcript_ms",
    "retrieved_ms",
    "first_token_ms",
    "first_clause_ms",
    "first_audio_ms",
    "endpoint_ms",
    "released_ms",
    "playout_started_ms",
)
"""Moments of a turn in their usual order, told as ms after the caller's last sound."""


def stage_spreads(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """When each stage of a turn was done, ms after the caller's last sound, by the platform's own record."""
    groups: dict[str, list[list[float]]] = {name: [] for name in STAGE_FIELDS}
    for record in records.values():
        found: dict[str, list[float]] = {name: [] for name in STAGE_FIELDS}
        for turn in record.get("turn_records", ()):
            times = turn.get("times_ms", {})
            origin = times.get("speech_end_ms")
            for name in STAGE_FIELDS:
                if origin is not None and times.get(name) is not None:
                    found[name].append(float(times[name] - origin))
        for name, values in found.items():
            groups[name].append(values)
    return {name: as_dict(spread(values)) for name, values in groups.items()}


# --- cost -----------------------------------------------------------------------------------------------------


def cost(result: SwarmResult, samples: Sequence[StackSample]) -> dict[str, Any]:
    """CPU and memory of the stack while all calls were up (over the whole run where there was no steady state)."""
    begin_s, end_s = (result.full_s, result.steady_end_s) if result.plan.steady_s else (0.0, result.wall_s)
    window = [sample for sample in samples if begin_s <= sample.at_s <= end_s]
    if len(window) < 2:
        return {}
    first, last = window[0], window[-1]
    seconds = call_seconds(result, first.at_s, last.at_s)
    by_kind = {kind: used - first.cpu_s.get(kind, 0.0) for kind, used in last.cpu_s.items()}
    memory = [sample for sample in window if sample.pss_mb]
    newest = memory[-1].pss_mb if memory else {}
    totals = [sum(sample.pss_mb.values()) for sample in memory]
    return {
        "window_s": [round(first.at_s, 1), round(last.at_s, 1)],
        "call_seconds": round(seconds, 1),
        "cores": round(sum(by_kind.values()) / max(1e-9, last.at_s - first.at_s), 3),
        "cpu_ms_per_call_s": round(1000 * sum(by_kind.values()) / max(1e-9, seconds), 2),
        "cpu_ms_per_call_s_by_kind": {
            kind: round(1000 * used / max(1e-9, seconds), 3)
            for kind, used in sorted(by_kind.items(), key=lambda item: -item[1])
        },
        "pss_mb": round(max(totals, default=0.0), 1),
        "pss_mb_per_call": round(max(totals, default=0.0) / result.plan.calls, 2),
        "pss_mb_by_kind": {kind: round(value, 1) for kind, value in sorted(newest.items(), key=lambda item: -item[1])},
        "processes": dict(memory[-1].processes) if memory else {},
        "growth": growth(memory),
    }


def growth(memory: Sequence[StackSample]) -> dict[str, Any]:
    """Memory per call that has ended, in KB, of each kind of process and of all, with its 95 % interval.

    The first ``WARM_UP_CALLS`` are left out where as many more have ended.
    """
    settled = [sample for sample in memory if sample.ended >= WARM_UP_CALLS]
    if not settled or settled[-1].ended < 2 * WARM_UP_CALLS:
        settled = list(memory)
    ended = [float(sample.ended) for sample in settled]
    found = {}
    for kind in sorted({kind for sample in settled for kind in sample.pss_mb}):
        found[kind] = slope(ended, [1000 * sample.pss_mb.get(kind, 0.0) for sample in settled])
    found["all"] = slope(ended, [1000 * sum(sample.pss_mb.values()) for sample in settled])
    return {f"{kind}": _rounded(asdict(item), 2) for kind, item in found.items() if item is not None}


def call_seconds(result: SwarmResult, begin_s: float, end_s: float) -> float:
    """Seconds of calls between two moments after the first call."""
    total = 0.0
    for call in result.calls:
        if call.outcome.audio_at_s:
            start_s = call.outcome.audio_at_s - result.began_at_s
            stop_s = start_s + call.outcome.measures.duration_ms / 1000
            total += max(0.0, min(stop_s, end_s) - max(start_s, begin_s))
    return total


def lines(content: Mapping[str, Any]) -> list[str]:
    """The summary in words, for a terminal or a job's log."""
    calls, late = content["calls"], content["generator"]["late"]
    found = [
        f"load {content['load']}, engines {content['engines']}; {content['machine']}",
        f"calls: {calls['ok']} of {calls['placed']} ok, {content['plan']['calls_at_once']} at once, "
        f"{calls['call_seconds']:.0f} call-seconds, {calls['unanswered_lines']} lines unanswered, {calls['cuts']} cuts",
    ]
    found += [f"  failed {count}x: {reason}" for reason, count in content["failures"].items()]
    for name, item in content["ms"].items():
        if item is not None:
            found.append(
                f"{name.replace('_', ' '):<22} P50 {_told(item['p50'])}  P95 {_told(item['p95'])}  "
                f"max {item['largest']:.0f} ms  (n {item['count']})"
            )
    gaps = content["gaps"]
    found.append(
        f"gaps: {gaps['starved']} starved ({gaps['starved_ms']} ms) in {gaps['calls_with_gaps']} calls; "
        f"{gaps['not_counted_generator_was_late']} more while the generator was late"
    )
    found.append(
        f"generator: {content['generator']['cpu_ms_per_call_s']} ms CPU per call-second, ticks late P50 "
        f"{late['p50_ms']} P95 {late['p95_ms']} max {late['largest_ms']:.1f} ms, {late['over_frame']} of "
        f"{late['ticks']} by more than a frame; before other processes: {content['generator']['precedence']}"
    )
    found += _cost_lines(content["cost"])
    found += [f"INVALID: {reason}" for reason in content["invalid"]]
    return found


def _cost_lines(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    kinds = ", ".join(f"{kind} {used:.2f}" for kind, used in list(found["cpu_ms_per_call_s_by_kind"].items())[:9])
    memory = ", ".join(f"{kind} {used:.0f}" for kind, used in list(found["pss_mb_by_kind"].items())[:9])
    lines_ = [
        f"stack: {found['cpu_ms_per_call_s']} ms CPU per call-second ({found['cores']} cores): {kinds}",
        f"memory: {found['pss_mb']:.0f} MB PSS, {found['pss_mb_per_call']} per call: {memory}",
    ]
    whole = found["growth"].get("all")
    if whole:
        lines_.append(
            f"memory per ended call: {whole['value']:+.1f} KB (95 %: {whole['low']:+.1f} .. {whole['high']:+.1f})"
        )
    return lines_


def _told(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.0f} ({estimate['low']:.0f}..{estimate['high']:.0f})"
