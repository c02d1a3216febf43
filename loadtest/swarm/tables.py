"""Raw data of a load as Parquet: a row for each call, each turn, each sample of the stack."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.measure import TurnMeasure
from loadtest.swarm.monitor import StackSample
from loadtest.swarm.summary import STAGE_FIELDS, failure_of
from loadtest.swarm.swarm import SwarmCall, SwarmResult

_SAME_TURN_MS = 600


def parquet_missing() -> str:
    """Why there can be no Parquet here; empty when there can."""
    return "" if importlib.util.find_spec("polars") else "polars is not installed: pip install '.[load]'"


def write_parquet(
    folder: Path, result: SwarmResult, samples: Sequence[StackSample], records: Mapping[str, Mapping[str, Any]]
) -> list[Path]:
    """Write ``calls``, ``turns`` and ``samples``; a table without rows is left out. Needs polars."""
    import polars

    tables = {
        "calls": [call_row(call) for call in result.calls],
        "turns": turn_rows(result.calls, records),
        "samples": list(sample_rows(samples)),
    }
    written = []
    for name, rows in tables.items():
        if rows:
            written.append(folder / f"{name}.parquet")
            # A column may be null in all rows polars would look at to find out its type.
            polars.from_dicts(rows, infer_schema_length=None).write_parquet(written[-1])
    return written


def call_row(call: SwarmCall) -> dict[str, Any]:
    """One call."""
    outcome = call.outcome
    return {
        "number": call.number,
        "call_sid": outcome.call_sid,
        "caller": outcome.script,
        "at_s": call.at_s,
        "ok": outcome.ok,
        "failure": "" if outcome.ok else failure_of(call),
        "ended_by": outcome.ended_by,
        "reason": outcome.reason,
        "duration_ms": outcome.measures.duration_ms,
        "answer_ms": outcome.answer_ms,
        "open_ms": outcome.open_ms,
        "greeting_ms": outcome.measures.greeting_ms,
        "streams": outcome.streams,
        "cuts": outcome.cuts,
        "clears": outcome.clears,
        "unanswered": outcome.unanswered,
        "turns": len(outcome.measures.turns),
        "barge_ins": len(outcome.measures.barge_ins),
        "starved": len(outcome.measures.starved),
        "starved_ms": outcome.measures.starved_ms,
        "late_p95_ms": outcome.measures.lateness_ms.p95,
        "late_largest_ms": outcome.measures.lateness_ms.largest,
    }


def turn_rows(calls: Sequence[SwarmCall], records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turns and interruptions as heard, turns beside what the platform wrote of them."""
    rows = []
    for call in calls:
        outcome = call.outcome
        head = {"number": call.number, "call_sid": outcome.call_sid, "caller": outcome.script}
        kept = list(records.get(outcome.call_sid, {}).get("turn_records", ()))
        for turn in outcome.measures.turns:
            rows.append(
                {
                    **head,
                    "kind": "turn",
                    "at_s": call.at_s + turn.caller_end_ms / 1000,
                    "caller_end_ms": turn.caller_end_ms,
                    "ear_ms": turn.v2v_ms,
                    **_platform(turn, kept, outcome.media_start_ms),
                }
            )
        for item in outcome.measures.barge_ins:
            rows.append(
                {
                    **head,
                    "kind": "barge_in",
                    "at_s": call.at_s + item.caller_start_ms / 1000,
                    "caller_end_ms": item.caller_start_ms,
                    "ear_ms": item.latency_ms,
                    **_platform(None, (), 0),
                }
            )
    return rows


def _platform(
    turn: TurnMeasure | None, kept: Sequence[Mapping[str, Any]], media_start_ms: int
) -> dict[str, int | None]:
    """The platform's record of the turn that ended nearest, its stages in ms after the caller's last sound."""
    found: Mapping[str, Any] = {}
    if turn is not None:
        ends = [(abs(_end_ms(record) + media_start_ms - turn.caller_end_ms), n) for n, record in enumerate(kept)]
        distance, at = min(ends, default=(_SAME_TURN_MS, 0))
        found = kept[at] if distance < _SAME_TURN_MS else {}
    times = found.get("times_ms", {})
    origin = times.get("speech_end_ms")
    stages = {
        name: None if origin is None or times.get(name) is None else int(times[name] - origin) for name in STAGE_FIELDS
    }
    return {"turn": found.get("turn"), "self_ms": found.get("v2v_self_ms"), **stages}


def _end_ms(record: Mapping[str, Any]) -> float:
    end_ms = record.get("times_ms", {}).get("speech_end_ms")
    return float("inf") if end_ms is None else float(end_ms)


def sample_rows(samples: Sequence[StackSample]) -> Iterator[dict[str, Any]]:
    """A row for each moment and kind of process; ``pss_mb`` is null where memory was not read."""
    for sample in samples:
        for kind, cpu_s in sample.cpu_s.items():
            yield {
                "at_s": sample.at_s,
                "calls_up": sample.up,
                "calls_placed": sample.placed,
                "calls_ended": sample.ended,
                "kind": kind,
                "processes": sample.processes.get(kind),
                "cpu_s": cpu_s,
                "pss_mb": sample.pss_mb.get(kind),
            }
