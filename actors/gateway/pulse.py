"""The one clock of a gateway's calls.

With 100 calls 5,000 frames come in each second. Woken for each, and for each piece that goes out, a gateway spends more
on waking than on the work; so sockets are read and playout is moved on for all calls together. A frame waits half a
beat on average, which also lets the windows of all calls be judged in one batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

SHORTEST_S: Final = 0.010
LONGEST_S: Final = 0.020
"""A frame of the carrier: to beat less often would only delay it."""
BEAT_PER_MEMBER_S: Final = 0.0002


class Pulse:
    """Calls every member at each beat, in the order they joined; rests while there are none.

    Beats come each 10 ms with few members, each 20 ms with a hundred. A member is called on the event loop, may leave
    while it is, and must not raise.
    """

    def __init__(self) -> None:
        self._members: dict[Callable[[], None], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    def __len__(self) -> int:
        return len(self._members)

    @property
    def interval_s(self) -> float:
        """Time between two beats."""
        return min(max(len(self._members) * BEAT_PER_MEMBER_S, SHORTEST_S), LONGEST_S)

    def join(self, member: Callable[[], None]) -> None:
        """Call ``member`` from the next beat on. Idempotent."""
        self._members[member] = None
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._due_s = loop.time() + self.interval_s
            self._timer = loop.call_at(self._due_s, self._beat)

    def leave(self, member: Callable[[], None]) -> None:
        """Call it no more. Idempotent."""
        self._members.pop(member, None)

    def _beat(self) -> None:
        self._timer = None
        for member in tuple(self._members):
            if member in self._members:
                member()
        if self._members and self._timer is None:
            loop = asyncio.get_running_loop()
            # Beats that a busy loop has missed are not made up for: a member takes all that has come since.
            self._due_s = max(self._due_s + self.interval_s, loop.time())
            self._timer = loop.call_at(self._due_s, self._beat)
