"""A circuit breaker: closed, open, half-open. Pure; times are ms of any clock that does not run backwards."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

OUTCOMES_KEPT: Final = 256


class BreakerState(Enum):
    """``CLOSED``: requests pass. ``OPEN``: none does. ``HALF_OPEN``: one probe is on its way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When it opens and how it comes back.

    Attributes:
        faults: in the window, at least half of its outcomes being faults, that open the breaker.
        window_ms: outcomes older than this are forgotten.
        cool_down_ms: from opening to the first probe; doubled by each probe that fails.
        longest_ms: longest cool-down.
    """

    faults: int = 3
    window_ms: int = 30_000
    cool_down_ms: int = 5_000
    longest_ms: int = 60_000


class Breaker:
    """Of one replica or engine. Outcomes of requests that began before it opened say nothing about it now."""

    def __init__(self, settings: BreakerSettings | None = None) -> None:
        self._settings = settings or BreakerSettings()
        self._outcomes: deque[tuple[int, bool]] = deque(maxlen=OUTCOMES_KEPT)
        self._state = BreakerState.CLOSED
        self._cool_down_ms = self._settings.cool_down_ms
        self._next_probe_ms = 0
        self.opened = 0

    @property
    def state(self) -> BreakerState:
        """Where it is."""
        return self._state

    @property
    def allows(self) -> bool:
        """Requests pass."""
        return self._state is BreakerState.CLOSED

    def may_probe(self, now_ms: int) -> bool:
        """True once after each cool-down: the caller makes one request and reports its outcome with ``probe=True``.

        A probe that is never reported is given up after another cool-down.
        """
        if self._state is BreakerState.CLOSED or now_ms < self._next_probe_ms:
            return False
        self._state = BreakerState.HALF_OPEN
        self._next_probe_ms = now_ms + self._cool_down_ms
        return True

    def unprobed(self, now_ms: int) -> None:
        """The probe was left before it told anything: the next request may be one."""
        if self._state is BreakerState.HALF_OPEN:
            self._state, self._next_probe_ms = BreakerState.OPEN, now_ms

    def forget(self) -> None:
        """What went well before says nothing any more."""
        self._outcomes = deque(((at_ms, ok) for at_ms, ok in self._outcomes if not ok), maxlen=OUTCOMES_KEPT)

    def success(self, now_ms: int, *, probe: bool = False) -> bool:
        """A request went well. True when this closes the breaker."""
        if self._state is BreakerState.CLOSED:
            self._outcomes.append((now_ms, True))
            return False
        if not probe or self._state is not BreakerState.HALF_OPEN:
            return False
        self._state = BreakerState.CLOSED
        self._cool_down_ms = self._settings.cool_down_ms
        self._outcomes.clear()
        return True

    def fault(self, now_ms: int, *, probe: bool = False) -> bool:
        """A request failed, hung, trickled or gave silence. True when this opens the breaker."""
        if self._state is BreakerState.HALF_OPEN and probe:
            self._cool_down_ms = min(2 * self._cool_down_ms, self._settings.longest_ms)
            self._open(now_ms)
            return False
        if self._state is not BreakerState.CLOSED:
            return False
        self._outcomes.append((now_ms, False))
        recent = [ok for at_ms, ok in self._outcomes if now_ms - at_ms <= self._settings.window_ms]
        faults = len(recent) - sum(recent)
        if faults < self._settings.faults or 2 * faults < len(recent):
            return False
        self.opened += 1
        self._open(now_ms)
        return True

    def _open(self, now_ms: int) -> None:
        self._state = BreakerState.OPEN
        self._next_probe_ms = now_ms + self._cool_down_ms
