"""How long a call was without an actor: from the loss of the link to the first word of the next actor."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TakeOver:
    """A call that moved. ``lost_at_s`` is Unix time; ``found_ms`` and ``listening_ms`` count from there.

    Found: the dispatcher named another actor and its link is open. Listening: that actor has the call's state and the
    open utterance, and said so by its first snapshot.
    """

    call_id: str
    host_id: str
    reason: str
    lost_at_s: float
    found_ms: float
    listening_ms: float


class TakeOverClock:
    """Times the take-overs of one call."""

    def __init__(self, call_id: str) -> None:
        self._call_id = call_id
        self._reason = ""
        self._host_id = ""
        self._lost_at_s = 0.0
        self._found_ms = 0.0

    def lost(self, reason: str) -> None:
        """The actor is gone. A second loss before the call is back counts from the first."""
        if not self._lost_at_s:
            self._reason, self._lost_at_s = reason, time.time()

    def found(self, host_id: str) -> None:
        """Another actor is linked."""
        self._host_id = host_id
        self._found_ms = (time.time() - self._lost_at_s) * 1000

    def listening(self) -> TakeOver | None:
        """An actor spoke; the take-over that this ended, if it ended one."""
        if not self._lost_at_s:
            return None
        listening_ms = (time.time() - self._lost_at_s) * 1000
        over = TakeOver(
            self._call_id,
            self._host_id,
            self._reason,
            self._lost_at_s,
            round(self._found_ms, 1),
            round(listening_ms, 1),
        )
        self._lost_at_s = 0.0
        return over
