"""What came of a run of ``loadtest.chaos``: figures, a verdict, JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from loadtest.chaos_verdict import CallVerdict
from loadtest.measure import Percentiles
from loadtest.place import CallOutcome
from loadtest.sampler import CALL_ACTOR

ACTOR_P95_MS: Final = 500.0
"""Until a call whose actor was killed is listened to again."""
STOPPED: Final = "stopped"
"""The moment of a strike that stops a process instead of killing it."""
FROZEN_P95_MS: Final = 1500.0
"""The same of an actor that was stopped: its silence has to be noticed first (``media.actor_silence_ms``)."""


@dataclass(frozen=True, slots=True)
class Strike:
    """A process that was killed or stopped. ``at_s`` is Unix time; ``recovered_ms`` is None when that was not in time.

    Of one that was stopped it counts until others have taken its work.
    """

    kind: str
    moment: str
    at_s: float
    calls: tuple[str, ...]
    recovered_ms: Sequence[float] | None


@dataclass(frozen=True, slots=True)
class KindResult:
    """All strikes at one kind of process, of call actors at one moment."""

    kind: str
    strikes: int
    calls: int
    never: int
    recovery_ms: Percentiles


@dataclass(frozen=True, slots=True)
class ChaosReport:
    """A run. ``missed`` are planned strikes for which there was no victim."""

    machine: str
    strikes: tuple[Strike, ...]
    kinds: tuple[KindResult, ...]
    calls: tuple[CallVerdict, ...]
    v2v_ms: Percentiles
    greeting_ms: Percentiles
    missed: tuple[str, ...] = ()

    @property
    def totals(self) -> dict[str, int]:
        """Sums over the calls."""
        names = (
            "asked", "answered", "excused", "caller_ms", "caller_ms_lost", "repeated", "cut", "skipped", "words_twice",
            "words_missing", "fillers", "apologies", "records_missing",
        )  # fmt: skip
        sums = {name: sum(int(getattr(call, name)) for call in self.calls) for name in names}
        return {"calls": len(self.calls), "lost": sum(bool(call.lost) for call in self.calls), **sums}

    @property
    def failures(self) -> list[str]:
        """Why the verdict is bad; empty when it is good."""
        totals = self.totals
        wrong = [
            f"{totals[name]} {words}"
            for name, words in (
                ("lost", "calls lost"),
                ("caller_ms_lost", "ms of the callers' words lost"),
                ("repeated", "answers repeated"),
                ("cut", "sentences cut or with a hole"),
                ("skipped", "lines without an answer"),
                ("words_twice", "words heard twice"),
                ("words_missing", "words not heard"),
                ("records_missing", "records missing"),
            )
            if totals[name]
        ]
        wrong += [f"nothing to strike: {name}" for name in self.missed]
        wrong += [f"{kind.kind} did not come back ({kind.never} times)" for kind in self.kinds if kind.never]
        actors = [strike for strike in self.strikes if strike.kind == CALL_ACTOR]
        killed = [ms for strike in actors if strike.moment != STOPPED for ms in strike.recovered_ms or ()]
        frozen = [ms for strike in actors if strike.moment == STOPPED for ms in strike.recovered_ms or ()]
        return (
            wrong
            + (_late("call actors", killed, ACTOR_P95_MS) if any(s.moment != STOPPED for s in actors) else [])
            + (_late("frozen call actors", frozen, FROZEN_P95_MS) if any(s.moment == STOPPED for s in actors) else [])
        )

    @property
    def good(self) -> bool:
        """Nothing was lost, and all came back in time."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "simulated": True,
            "machine": self.machine,
            "good": self.good,
            "failures": self.failures,
            "totals": self.totals,
            "v2v_ms": asdict(self.v2v_ms),
            "greeting_ms": asdict(self.greeting_ms),
            "kinds": [asdict(kind) for kind in self.kinds],
            "strikes": [asdict(strike) for strike in self.strikes],
            "calls": [asdict(call) for call in self.calls],
        }

    def write(self, folder: Path) -> None:
        """``summary.json`` and ``summary.md``."""
        (folder / "summary.json").write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        (folder / "summary.md").write_text(self.markdown() + "\n", encoding="utf-8")

    def markdown(self) -> str:
        """For people."""
        totals = self.totals
        rows = [
            f"| {kind.kind} | {kind.strikes} | {kind.calls} | {kind.recovery_ms.p50:.0f} | {kind.recovery_ms.p95:.0f} "
            f"| {kind.recovery_ms.largest:.0f} | {kind.never} |"
            for kind in self.kinds
        ]
        told = [f"* {name.replace('_', ' ')}: {count}" for name, count in totals.items()]
        verdict = "good" if self.good else "; ".join(self.failures)
        return "\n".join(
            [
                f"Chaos with simulated engines on {self.machine}. Verdict: **{verdict}**.",
                "",
                "| killed or stopped | times | calls on it | back P50, ms | P95 | longest | never |",
                "|---|---|---|---|---|---|---|",
                *rows,
                "",
                *told,
                f"* voice-to-voice P50 / P95 / longest: {self.v2v_ms.p50:.0f} / {self.v2v_ms.p95:.0f} / "
                f"{self.v2v_ms.largest:.0f} ms",
                *(f"* {call.call_sid}: {note}" for call in self.calls for note in (call.lost, *call.notes) if note),
            ]
        )


def summarise(
    machine: str, strikes: Sequence[Strike], verdicts: Sequence[CallVerdict], outcomes: Sequence[CallOutcome]
) -> ChaosReport:
    """Put a run together."""
    names = dict.fromkeys(f"{strike.kind} {strike.moment}".strip() for strike in strikes)
    return ChaosReport(
        machine=machine,
        strikes=tuple(strikes),
        kinds=tuple(
            _kind(name, [s for s in strikes if f"{s.kind} {s.moment}".strip() == name]) for name in sorted(names)
        ),
        calls=tuple(verdicts),
        v2v_ms=Percentiles.of([turn.v2v_ms for outcome in outcomes for turn in outcome.measures.turns]),
        greeting_ms=Percentiles.of(
            [outcome.measures.greeting_ms for outcome in outcomes if outcome.measures.greeting_ms is not None]
        ),
    )


def _late(what: str, recovered_ms: Sequence[float], allowed_ms: float) -> list[str]:
    p95 = Percentiles.of(recovered_ms).p95
    if recovered_ms and p95 <= allowed_ms:
        return []
    return [f"{what}: P95 {p95:.0f} ms over {len(recovered_ms)} calls, {allowed_ms:.0f} allowed"]


def _kind(name: str, strikes: Sequence[Strike]) -> KindResult:
    return KindResult(
        kind=name,
        strikes=len(strikes),
        calls=sum(len(strike.calls) for strike in strikes),
        never=sum(strike.recovered_ms is None for strike in strikes),
        recovery_ms=Percentiles.of([ms for strike in strikes for ms in strike.recovered_ms or ()]),
    )
