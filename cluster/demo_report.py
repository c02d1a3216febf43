"""What a demo call was: its figures, whether it did what it must, and the files it leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.waterfall import TurnBar, draw

if TYPE_CHECKING:
    from loadtest.place import CallOutcome

_LEAST_TURNS = 5
_GROUNDED = (
    ("the hours on Saturday", ("close at four",)),
    ("the price of a delivery", ("fifteen dollars", "delivery is free")),
    ("paying by card", ("credit card",)),
    ("the address", ("address of our shop",)),
)
"""(question, words of the knowledge base one of which its answer must hold)."""
_LEAST_GROUNDED = 3
_UNKNOWN = "I don't know"
_MATCH_MS = 2500


@dataclass(frozen=True, slots=True)
class TurnReport:
    """One turn: what the platform recorded, and the latency at the ear where it was measured."""

    turn: int
    kind: str
    outcome: str
    caller: str
    agent: str
    heard: str
    confidence: float
    sources: tuple[str, ...]
    times_ms: dict[str, int]
    v2v_self_ms: int | None
    v2v_ear_ms: int | None

    def stage_ms(self, begin: str, end: str) -> int | None:
        """From one stage time to another, None where one of them is missing."""
        if begin in self.times_ms and end in self.times_ms:
            return self.times_ms[end] - self.times_ms[begin]
        return None


@dataclass(frozen=True, slots=True)
class Report:
    """A call, and ``problems``: what it must have done and did not."""

    call: Mapping[str, Any]
    outcome: CallOutcome
    turns: tuple[TurnReport, ...]
    problems: tuple[str, ...]
    simulated: bool


def examine(outcome: CallOutcome, call: Mapping[str, Any], *, simulated: bool) -> Report:
    """Put what was recorded and what was heard side by side."""
    offset_ms = _clock_offset_ms(outcome, call["turn_records"])
    turns = tuple(_turn(record, outcome, offset_ms) for record in call["turn_records"])
    return Report(call, outcome, turns, tuple(_problems(outcome, turns, simulated)), simulated)


def _turn(record: Mapping[str, Any], outcome: CallOutcome, offset_ms: int) -> TurnReport:
    times: dict[str, int] = dict(record["times_ms"])
    return TurnReport(
        turn=record["turn"],
        kind=record["kind"],
        outcome=record["outcome"],
        caller=record["caller_text_pii"],
        agent=record["agent_text_pii"],
        heard=record["heard_text_pii"],
        confidence=record["caller_confidence"],
        sources=tuple(record["sources"]),
        times_ms=times,
        v2v_self_ms=record["v2v_self_ms"],
        v2v_ear_ms=_heard_ms(times, outcome, offset_ms),
    )


def _clock_offset_ms(outcome: CallOutcome, records: Sequence[Mapping[str, Any]]) -> int:
    """The emulator's clock starts when the call is answered, the call's when its media starts: the difference."""
    starts = [
        record["times_ms"]["playout_started_ms"] for record in records if "playout_started_ms" in record["times_ms"]
    ]
    if not starts or outcome.measures.greeting_ms is None:
        return 0
    return int(outcome.measures.greeting_ms - min(starts))


def _heard_ms(times: Mapping[str, int], outcome: CallOutcome, offset_ms: int) -> int | None:
    """The v2v measured at the socket of the turn that began to play nearest to this one."""
    if "playout_started_ms" not in times or "speech_end_ms" not in times:
        return None
    at_ms = times["playout_started_ms"] + offset_ms
    nearest = min(outcome.measures.turns, key=lambda turn: abs(turn.agent_start_ms - at_ms), default=None)
    if nearest is None or abs(nearest.agent_start_ms - at_ms) > _MATCH_MS:
        return None
    return nearest.v2v_ms


def _problems(outcome: CallOutcome, turns: Sequence[TurnReport], simulated: bool) -> Iterator[str]:
    if not outcome.ok:
        yield f"the call was ended by {outcome.ended_by}: {outcome.reason} {' '.join(outcome.stream_errors)}".rstrip()
    answered = [turn for turn in turns if turn.kind in ("reply", "goodbye") and turn.caller]
    if len(answered) < _LEAST_TURNS:
        yield f"{len(answered)} turns were answered, at least {_LEAST_TURNS} are wanted"
    if not outcome.measures.turns:
        yield "no turn could be measured on the audio"
    if not outcome.measures.barge_ins:
        yield "nobody was interrupted: the barge-in is missing"
    if not simulated:
        yield from _content_problems(turns)


def _content_problems(turns: Sequence[TurnReport]) -> Iterator[str]:
    sourced = [turn.agent.lower() for turn in turns if turn.sources]
    missing = [name for name, words in _GROUNDED if not any(word in said for word in words for said in sourced)]
    if len(_GROUNDED) - len(missing) < _LEAST_GROUNDED:
        yield f"at least {_LEAST_GROUNDED} answers from the knowledge base are wanted; missing: {', '.join(missing)}"
    if not any(_UNKNOWN in turn.agent for turn in turns):
        yield f'the question the knowledge base cannot answer was not answered by "{_UNKNOWN}"'
    if not any(turn.kind == "goodbye" or "goodbye" in turn.agent.lower() for turn in turns):
        yield "the agent did not say goodbye"


def write_files(report: Report, run_dir: Path) -> None:
    """Write ``turns.json`` and ``waterfall.png`` beside ``call.wav``, and bring the call's ``events.jsonl`` there."""
    events = run_dir / "calls" / report.outcome.call_sid / "events.jsonl"
    if events.exists():
        shutil.copyfile(events, run_dir / "events.jsonl")
    turns = [
        {
            "turn": turn.turn,
            "kind": turn.kind,
            "outcome": turn.outcome,
            "caller_pii": turn.caller,
            "caller_confidence": turn.confidence,
            "agent_pii": turn.agent,
            "heard_pii": turn.heard,
            "sources": turn.sources,
            "times_ms": turn.times_ms,
            "v2v_self_reported_ms": turn.v2v_self_ms,
            "v2v_at_socket_ms": turn.v2v_ear_ms,
        }
        for turn in report.turns
    ]
    told: dict[str, Any] = {"call_id": report.call["call_id"], "simulated_engines": report.simulated, "turns": turns}
    (run_dir / "turns.json").write_text(
        json.dumps(told | {"measured": report.outcome.as_dict()}, indent=1, default=str)
    )
    bars = [TurnBar(turn.turn, turn.caller or turn.kind, turn.times_ms, turn.v2v_ear_ms) for turn in report.turns]
    label = "simulated engines" if report.simulated else "one call"
    draw(bars, f"{report.call['call_id'][:12]}…  {label}: stages per turn", run_dir / "waterfall.png")
