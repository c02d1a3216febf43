"""Synthesised audio of one turn: kept until the turn is released, then sent clause by clause in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from voice_agent.errors import EngineFailedError

MAX_CLAUSE_BYTES = 2 * 60 * 8000
"""Longest clause, two minutes; a synthesiser that gives more is broken."""

MAX_PLAY_BYTES = 64_000
"""Largest piece sent in one message, eight seconds."""

BYTES_PER_MS = 8

SendClause = Callable[[int, bytes, bool, bool], None]
"""Called with clause, mu-law 8 kHz audio, whether it ends the clause, and whether the caller may interrupt it."""


@dataclass(slots=True)
class _Clause:
    number: int
    waiting: bytearray = field(default_factory=bytearray)
    total_bytes: int = 0
    over: bool = False
    needs_end: bool = False


class TurnAudio:
    """Clauses may be synthesised side by side; they leave in the order they were opened.

    ``send`` is called only after ``release``. A clause that fails is closed with an empty last piece when some of it
    has left, so that its mark comes back, and skipped otherwise; so is a clause without any audio.
    """

    def __init__(self, send: SendClause, clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._dry_at_s = 0.0
        self._order: deque[_Clause] = deque()
        self._clauses: dict[int, _Clause] = {}
        self._released = False
        self._interruptible = True

    def open(self, clause: int, *, ahead: bool = False) -> None:
        """Expect audio of a clause; its place in the turn is taken now: the last, or the first that has not begun."""
        record = _Clause(clause)
        self._clauses[clause] = record
        if ahead:
            self._order.insert(int(bool(self._order) and self._order[0].needs_end), record)
        else:
            self._order.append(record)

    def add(self, clause: int, audio: bytes, *, last: bool) -> int:
        """Take audio; returns the duration of the clause so far in ms.

        Raises:
            EngineFailedError: the clause is longer than any clause can be.
        """
        record = self._clauses[clause]
        record.total_bytes += len(audio)
        if record.total_bytes > MAX_CLAUSE_BYTES:
            raise EngineFailedError("the synthesiser gave more than two minutes of audio for one clause")
        self._dry_at_s = max(self._dry_at_s, self._clock()) + len(audio) / (1000 * BYTES_PER_MS)
        record.waiting += audio
        record.over = last
        self._drain()
        return record.total_bytes // BYTES_PER_MS

    @property
    def ahead_ms(self) -> int:
        """Audio given and not heard yet, at the least: as if each piece began to play as soon as it could."""
        return max(0, round((self._dry_at_s - self._clock()) * 1000))

    def given(self, clause: int) -> int:
        """Bytes of a clause so far."""
        return self._clauses[clause].total_bytes

    def fail(self, clause: int) -> None:
        """No more audio of this clause will come; what has not left is dropped."""
        record = self._clauses[clause]
        record.waiting.clear()
        record.over = True
        self._drain()

    def release(self, *, interruptible: bool) -> None:
        """Let audio out, now and as it comes. Idempotent."""
        self._released = True
        self._interruptible = interruptible
        self._drain()

    def _drain(self) -> None:
        while self._released and self._order:
            head = self._order[0]
            self._emit(head)
            if not head.over:
                return
            self._order.popleft()

    def _emit(self, head: _Clause) -> None:
        while head.waiting:
            piece = bytes(head.waiting[:MAX_PLAY_BYTES])
            del head.waiting[:MAX_PLAY_BYTES]
            last = head.over and not head.waiting
            head.needs_end = not last
            self._send(head.number, piece, last, self._interruptible)
        if head.over and head.needs_end:
            self._send(head.number, b"", True, self._interruptible)
