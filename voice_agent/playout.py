"""The playout ledger: what the agent's audio is, what of it was sent, and what of it was heard.

The carrier plays what it gets in order, cannot pause, and drops everything at ``clear``. So audio is sent only a little
ahead of the ear (the lead), by absolute deadlines of a playout clock; to hold, the carrier is cleared and what it had
not played yet goes back to the queue. On a connection that keeps order this is exact: audio and ``clear`` travel the
same way, so what was played when ``clear`` arrives is the time between sending the two.

Behind each clause goes a mark. An echo of a mark means played *or* cleared, so its name carries an epoch that rises
with every ``clear``; echoes of older epochs are ignored.

The clock is an argument, in integer milliseconds; inside, positions and times are counted in samples at 8 kHz (one
mu-law byte, an eighth of a millisecond), so nothing is ever rounded away.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from voice_agent.dialog.events import ClausePlayed, PlayoutHeld, PlayoutStarted

SAMPLES_PER_MS = 8


@dataclass(frozen=True, slots=True)
class PlayoutSettings:
    """Sizes and times of playout.

    Attributes:
        lead_ms: how far ahead of the ear audio is sent, at most.
        chunk_ms: size of one message to the carrier.
        mark_timeout_ms: an echo missing this long after its audio should have ended counts as come.
        max_queued_ms: audio kept unheard, over all clauses; more is refused (policy: drop newest, counted).
    """

    lead_ms: int = 240
    chunk_ms: int = 100
    mark_timeout_ms: int = 2000
    max_queued_ms: int = 300_000


@dataclass(frozen=True, slots=True)
class SendAudio:
    """Send these mu-law bytes to the carrier. By the playout clock they are heard from ``heard_at_ms`` on."""

    turn: int
    audio: bytes
    heard_at_ms: int


@dataclass(frozen=True, slots=True)
class SendMark:
    """Send a mark of this name to the carrier."""

    name: str


@dataclass(frozen=True, slots=True)
class SendClear:
    """Tell the carrier to drop everything it has not played."""


PlayoutAction = SendAudio | SendMark | SendClear | PlayoutStarted | ClausePlayed | PlayoutHeld


@dataclass(slots=True)
class PlayoutStatistics:
    """Counters of a call.

    ``starved`` and ``starved_ms`` count silences inside a clause because its audio came too late; ``refused_bytes`` is
    audio of cleared turns, of clauses already complete, or over the size limit.
    """

    sent_bytes: int = 0
    clauses_played: int = 0
    holds: int = 0
    clears: int = 0
    starved: int = 0
    starved_ms: int = 0
    marks_timed_out: int = 0
    marks_ignored: int = 0
    refused_bytes: int = 0


@dataclass(slots=True)
class _Clause:
    """Audio of one clause. ``heard <= sent <= len(audio)``, all in bytes."""

    turn: int
    number: int
    interruptible: bool
    audio: bytearray = field(default_factory=bytearray)
    complete: bool = False
    fed: int = 0
    sent: int = 0
    heard: int = 0
    started: bool = False
    ends_at: int | None = None
    """When its last sample should be heard, in samples on the call's clock; set when its mark was sent."""


@dataclass(slots=True)
class _Flight:
    """A piece of a clause at the carrier: bytes [offset, offset + size) are heard from ``starts_at`` on."""

    clause: _Clause
    offset: int
    size: int
    starts_at: int


class PlayoutLedger:
    """Playout of one call. Each verb returns what is to be done, in order."""

    def __init__(self, settings: PlayoutSettings) -> None:
        self._lead = settings.lead_ms * SAMPLES_PER_MS
        # Half the lead at most: the next chunk must be due before the ear has run dry.
        self._chunk = min(settings.chunk_ms, settings.lead_ms // 2) * SAMPLES_PER_MS
        self._mark_timeout = settings.mark_timeout_ms * SAMPLES_PER_MS
        self._max_queued = settings.max_queued_ms * SAMPLES_PER_MS
        self._clauses: deque[_Clause] = deque()
        self._flights: deque[_Flight] = deque()
        self._ends_at = 0
        self._epoch = 0
        self._cleared = -1
        self._played_turn = -1
        self._played: set[int] = set()
        self._held_turn: int | None = None
        self._queued = 0
        self.statistics = PlayoutStatistics()

    # --- what is going on ---

    @property
    def held(self) -> bool:
        """Nothing is sent until ``resume``, or ``clear`` of the turn it was held in."""
        return self._held_turn is not None

    @property
    def epoch(self) -> int:
        """Epoch in the names of marks sent now."""
        return self._epoch

    @property
    def idle(self) -> bool:
        """Nothing queued, in flight or waiting for a mark."""
        return not self._clauses

    def playing(self, now_ms: int) -> bool:
        """The agent is being heard, or would be if its audio came in time; not while held."""
        if self.held or not self._clauses:
            return False
        self._listen(now_ms)
        return any(not _all_heard(clause) and clause.started for clause in self._clauses)

    def interruptible(self, now_ms: int) -> bool:
        """``playing``, and the clause may be interrupted."""
        return self.playing(now_ms) and next(c for c in self._clauses if not _all_heard(c)).interruptible

    def position(self, now_ms: int) -> tuple[int, int, int] | None:
        """(turn, clause, ms heard of it) of the clause being heard or next to be heard; None when there is none."""
        self._listen(now_ms)
        for clause in self._clauses:
            if not _all_heard(clause):
                return clause.turn, clause.number, clause.heard // SAMPLES_PER_MS
        return None

    def next_deadline_ms(self) -> int | None:
        """When ``advance`` must be called next; None when only new audio or a verb can change anything."""
        deadlines = []
        clause = self._sendable()
        if clause is not None:
            lead = self._lead - self._chunk if self._has_chunk(clause) else self._chunk
            deadlines.append(self._ends_at - lead)
        waiting = next((c for c in self._clauses if c.ends_at is not None), None)
        if waiting is not None and waiting.ends_at is not None:
            deadlines.append(waiting.ends_at + self._mark_timeout)
        return max(0, -(-min(deadlines) // SAMPLES_PER_MS)) if deadlines else None

    # --- verbs ---

    def play(self, turn: int, clause: int, audio: bytes, *, last: bool, interruptible: bool) -> bool:
        """Take audio of a clause; ``advance`` sends it. False when it is refused.

        Refused are turns that were cleared, clauses that were played, and audio over the size limit. After
        ``refeed`` a clause may be given again from its beginning; what is known of it is not taken twice.
        """
        if turn <= self._cleared or self._was_played(turn, clause):
            self.statistics.refused_bytes += len(audio)
            return False
        entry = self._entry(turn, clause, interruptible)
        known = len(entry.audio) - entry.fed
        entry.fed += len(audio)
        fresh = audio[max(known, 0) :]
        if (entry.complete and fresh) or self._queued + len(fresh) > self._max_queued:
            self.statistics.refused_bytes += len(fresh)
            entry.fed = min(entry.fed, len(entry.audio))
            # A clause cut by the limit still has to end, or playout would wait for its rest for ever.
            entry.complete = entry.complete or last
            return False
        entry.audio += fresh
        self._queued += len(fresh)
        entry.complete = entry.complete or last
        return True

    def refeed(self) -> None:
        """A new owner may give the queued clauses again from their beginnings."""
        for clause in self._clauses:
            clause.fed = 0

    def advance(self, now_ms: int) -> list[PlayoutAction]:
        """Send what is due and settle marks that are overdue. Call at deadlines and after ``play`` and ``resume``."""
        now = now_ms * SAMPLES_PER_MS
        actions: list[PlayoutAction] = []
        self._settle_overdue(now, actions)
        while (clause := self._sendable()) is not None and self._due(clause, now):
            self._send(clause, now, now_ms, actions)
        return actions

    def mark_echoed(self, name: str, now_ms: int) -> list[PlayoutAction]:
        """A mark came back: its clause was heard to its end, if the mark is of this epoch."""
        clause = next((c for c in self._clauses if c.ends_at is not None and self._mark(c) == name), None)
        if clause is None:
            self.statistics.marks_ignored += 1
            return []
        self._catch_up((clause.ends_at or 0) - now_ms * SAMPLES_PER_MS)
        self._listen(now_ms)
        actions: list[PlayoutAction] = []
        while self._clauses and self._clauses[0] is not clause:
            self._finish(self._clauses[0], now_ms, actions)
        self._finish(clause, now_ms, actions)
        return [*actions, *self.advance(now_ms)]

    def hold(self, now_ms: int) -> list[PlayoutAction]:
        """Stop at once and keep what was not heard; between clauses, keep back what comes next.

        Nothing happens when it is held already. Clauses the clock says were heard to their end are reported as played:
        their marks cannot be trusted after a ``clear``.
        """
        if self.held:
            return []
        actions: list[PlayoutAction] = []
        if self.playing(now_ms):
            self._rewind(now_ms, actions)
        waiting = next((clause for clause in self._clauses if not _all_heard(clause)), None)
        self._held_turn = waiting.turn if waiting is not None else self._played_turn
        self.statistics.holds += 1
        if waiting is not None:
            actions.append(PlayoutHeld(waiting.turn, waiting.number, waiting.heard // SAMPLES_PER_MS, now_ms))
        return actions

    def resume(self, now_ms: int) -> list[PlayoutAction]:
        """Go on at the first sample that was not heard."""
        self._held_turn = None
        return self.advance(now_ms)

    def clear(self, turn: int, now_ms: int) -> list[PlayoutAction]:
        """Drop all audio of turns up to ``turn`` and refuse it from now on. Ends a hold in one of them."""
        self._cleared = max(self._cleared, turn)
        actions: list[PlayoutAction] = []
        if any(clause.turn <= turn for clause in self._clauses):
            self._listen(now_ms)
            if any(c.turn <= turn and c.sent for c in self._clauses):
                self._rewind(now_ms, actions)
            self._clauses = deque(c for c in self._clauses if c.turn > turn)
            self._flights = deque(f for f in self._flights if f.clause.turn > turn)
            self._queued = sum(len(c.audio) for c in self._clauses)
            self.statistics.clears += 1
        if self._held_turn is not None and self._held_turn <= turn:
            self._held_turn = None
        return [*actions, *self.advance(now_ms)]

    # --- inside ---

    def _entry(self, turn: int, number: int, interruptible: bool) -> _Clause:
        for clause in self._clauses:
            if (clause.turn, clause.number) == (turn, number):
                return clause
        entry = _Clause(turn, number, interruptible)
        self._clauses.append(entry)
        return entry

    def _was_played(self, turn: int, clause: int) -> bool:
        # Not by order alone: a phrase that broke a silence was played before clauses of lower number.
        return turn < self._played_turn or (turn == self._played_turn and clause in self._played)

    def _mark(self, clause: _Clause) -> str:
        return f"t{clause.turn}.c{clause.number}.e{self._epoch}"

    def _sendable(self) -> _Clause | None:
        """The clause to send from next: the first not sent to its end, if it has something; never past it."""
        if self.held:
            return None
        clause = next((c for c in self._clauses if c.ends_at is None), None)
        return clause if clause is not None and (clause.sent < len(clause.audio) or clause.complete) else None

    def _has_chunk(self, clause: _Clause) -> bool:
        return clause.complete or len(clause.audio) - clause.sent >= self._chunk

    def _due(self, clause: _Clause, now: int) -> bool:
        """A whole chunk goes when it fits in the lead; less than one only when the ear is about to run dry."""
        return self._ends_at - now <= (self._lead - self._chunk if self._has_chunk(clause) else self._chunk)

    def _send(self, clause: _Clause, now: int, now_ms: int, actions: list[PlayoutAction]) -> None:
        size = min(self._chunk, len(clause.audio) - clause.sent)
        if size:
            self._count_starvation(clause, now)
            if not clause.started:
                clause.started = True
                actions.append(PlayoutStarted(clause.turn, clause.number, now_ms))
            starts_at = max(now, self._ends_at)
            self._flights.append(_Flight(clause, clause.sent, size, starts_at))
            audio = bytes(clause.audio[clause.sent : clause.sent + size])
            actions.append(SendAudio(clause.turn, audio, starts_at // SAMPLES_PER_MS))
            clause.sent += size
            self._ends_at = starts_at + size
            self.statistics.sent_bytes += size
        if clause.complete and clause.sent == len(clause.audio):
            clause.ends_at = max(now, self._ends_at)
            actions.append(SendMark(self._mark(clause)))

    def _count_starvation(self, clause: _Clause, now: int) -> None:
        # Behind a hold or a clear there is no flight, and the silence there is wanted.
        if self._flights and self._flights[-1].clause is clause and now > self._ends_at:
            self.statistics.starved += 1
            self.statistics.starved_ms += (now - self._ends_at) // SAMPLES_PER_MS

    def _listen(self, now_ms: int) -> None:
        """Bring ``heard`` up to now."""
        now = now_ms * SAMPLES_PER_MS
        for flight in self._flights:
            heard = min(flight.size, now - flight.starts_at)
            if heard <= 0:
                break
            flight.clause.heard = max(flight.clause.heard, flight.offset + heard)
        while len(self._flights) > 1 and self._flights[0].starts_at + self._flights[0].size <= now:
            self._flights.popleft()

    def _catch_up(self, early: int) -> None:
        """The carrier is ahead of the playout clock by ``early`` samples, if positive: it knows better."""
        if early > 0:
            self._ends_at -= early
            for flight in self._flights:
                flight.starts_at -= early
            for clause in self._clauses:
                if clause.ends_at is not None:
                    clause.ends_at -= early

    def _rewind(self, now_ms: int, actions: list[PlayoutAction]) -> None:
        """Clear the carrier; everything not heard is unsent again."""
        self._listen(now_ms)
        while self._clauses and _all_heard(self._clauses[0]):
            self._finish(self._clauses[0], now_ms, actions)
        for clause in self._clauses:
            clause.sent = clause.heard
            clause.ends_at = None
        self._flights.clear()
        self._epoch += 1
        self._ends_at = now_ms * SAMPLES_PER_MS
        actions.insert(0, SendClear())

    def _finish(self, clause: _Clause, now_ms: int, actions: list[PlayoutAction]) -> None:
        clause.heard = clause.sent = len(clause.audio)
        self._clauses.remove(clause)
        self._flights = deque(f for f in self._flights if f.clause is not clause)
        self._queued -= len(clause.audio)
        if clause.turn > self._played_turn:
            self._played_turn = clause.turn
            self._played.clear()
        if clause.turn == self._played_turn:
            self._played.add(clause.number)
        self.statistics.clauses_played += 1
        actions.append(ClausePlayed(clause.turn, clause.number, now_ms))

    def _settle_overdue(self, now: int, actions: list[PlayoutAction]) -> None:
        while self._clauses and (ends_at := self._clauses[0].ends_at) is not None:
            if now < ends_at + self._mark_timeout:
                break
            self.statistics.marks_timed_out += 1
            self._finish(self._clauses[0], now // SAMPLES_PER_MS, actions)


def _all_heard(clause: _Clause) -> bool:
    return clause.complete and clause.heard == len(clause.audio)
