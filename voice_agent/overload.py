"""Overload: how far down the ladder the stack has to go, and who may come in meanwhile. Times are ms of any clock.

The order of the ladder is the order of what callers notice least: nothing is prepared in vain, then cheaper engines
answer, then newcomers wait, then they are refused. Nobody who is in a call is ever sent away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

HOLD_MS: Final = 6_000
"""Calm of this length is needed for each step back. Up it goes at once, by as many steps as are called for."""
CALM_SHARE: Final = 0.8
"""A step back needs signals below this share of what led up: at the border nothing moves."""
WAIT_MS: Final = 3_000
"""A waiting caller asks again after this."""
GONE_MS: Final = 3 * WAIT_MS
"""A waiting caller who has not asked for this long has hung up."""
RATE_SHARES: Final = (1.0, 0.5, 0.25)
"""Of ``calls.admit_per_s``, by level: each new call is work for those that talk."""


class Level(IntEnum):
    """What is done; each includes those before it."""

    NORMAL = 0
    NO_SPECULATION = 1
    CHEAP_ENGINES = 2
    QUEUE = 3
    REFUSE = 4


@dataclass(frozen=True, slots=True)
class Signals:
    """What is measured. Lags are how late an event loop wakes, ms; ``plane_load`` is 0 idle to 1 at its limit."""

    gateway_lag_ms: float = 0.0
    actor_lag_ms: float = 0.0
    plane_load: float = 0.0


LIMITS: Final[Mapping[str, tuple[float, ...]]] = {
    # A gateway sends audio 400 ms ahead, and hears the caller in frames of 20 ms.
    "gateway_lag_ms": (40.0, 80.0, 160.0, 320.0),
    "actor_lag_ms": (60.0, 120.0, 250.0, 500.0),
    # It stops at 1; what may be refused for it alone is nothing.
    "plane_load": (0.5, 0.8, 0.95),
}
"""By signal: where each level begins."""


def level_of(signals: Signals, share: float = 1.0) -> tuple[Level, str]:
    """The level that the worst signal calls for, and which signal that is; empty when all are well.

    Args:
        signals: the measurement.
        share: of the limits that is to count as the limit.
    """
    found = [
        (sum(getattr(signals, name) >= share * limit for limit in limits), name) for name, limits in LIMITS.items()
    ]
    steps, name = max(found, key=lambda item: item[0])
    return Level(steps), name if steps else ""


class OverloadLadder:
    """The level in time: up at once, back one step after each ``hold_ms`` of calm."""

    def __init__(self, hold_ms: int = HOLD_MS) -> None:
        self._hold_ms = hold_ms
        self._calm_since_ms: int | None = None
        self.level = Level.NORMAL
        self.why = ""

    def feed(self, signals: Signals, now_ms: int) -> Level:
        """Take a measurement; gives the level from now on."""
        wanted, why = level_of(signals)
        calm = level_of(signals, CALM_SHARE)[0] < self.level
        if wanted > self.level:
            self.level, self.why, self._calm_since_ms = wanted, why, None
        elif not calm:
            self._calm_since_ms = None
        elif self._calm_since_ms is None:
            self._calm_since_ms = now_ms
        elif now_ms - self._calm_since_ms >= self._hold_ms:
            self.level, self._calm_since_ms = Level(self.level - 1), now_ms
            self.why = self.why if self.level else ""
        return self.level


@dataclass(frozen=True, slots=True)
class Verdict:
    """Empty ``reason``: come in; else queue, full or overloaded. ``asked`` counts earlier questions of this call."""

    reason: str = ""
    asked: int = 0


@dataclass(slots=True)
class _Waiting:
    since_ms: int
    seen_ms: int
    asked: int = 0


class Door:
    """Who may come in: a bounded rate, and a bounded line of those who wait for it, first come first in.

    Args:
        admit_per_s: new calls in a second at level 0; as many may come at once after a quiet second.
        queue_s: longest wait of a caller; 0: nobody waits.
        most_waiting: callers in the line.
    """

    def __init__(self, admit_per_s: float, queue_s: float, most_waiting: int) -> None:
        self._per_s = admit_per_s
        self._queue_ms = round(1000 * queue_s)
        self._most_waiting = most_waiting
        self._line: dict[str, _Waiting] = {}
        self._tokens = max(1.0, admit_per_s)
        self._counted_ms: int | None = None

    def waiting(self, now_ms: int) -> int:
        """Callers in the line."""
        for call_id in [call_id for call_id, one in self._line.items() if now_ms - one.seen_ms > GONE_MS]:
            del self._line[call_id]
        return len(self._line)

    def waits(self, call_id: str) -> bool:
        """Whether a call is in the line."""
        return call_id in self._line

    def leave(self, call_id: str) -> None:
        """The caller is gone. Idempotent."""
        self._line.pop(call_id, None)

    def ask(self, call_id: str, free: int, level: Level, now_ms: int) -> Verdict:
        """May this call come in, with ``free`` slots? Each caller further ahead in the line keeps one of them."""
        self.waiting(now_ms)
        self._refill(level, now_ms)
        known = self._line.get(call_id)
        ahead = list(self._line).index(call_id) if known is not None else len(self._line)
        if level < Level.QUEUE and free > ahead and self._tokens >= 1:
            self._tokens -= 1
            self.leave(call_id)
            return Verdict()
        full = "overloaded" if level >= Level.QUEUE else "full"
        if known is None:
            if level >= Level.REFUSE or self._queue_ms < WAIT_MS or len(self._line) >= self._most_waiting:
                return Verdict(full)
            known = self._line[call_id] = _Waiting(now_ms, now_ms)
        else:
            known.seen_ms, known.asked = now_ms, known.asked + 1
        if now_ms - known.since_ms + WAIT_MS > self._queue_ms:
            self.leave(call_id)
            return Verdict(full)
        return Verdict("queue", known.asked)

    def _refill(self, level: Level, now_ms: int) -> None:
        passed_ms = max(0, now_ms - self._counted_ms) if self._counted_ms is not None else 0
        self._counted_ms = now_ms
        share = RATE_SHARES[level] if level < Level.QUEUE else 0.0
        self._tokens = min(max(1.0, self._per_s), self._tokens + passed_ms / 1000 * self._per_s * share)
