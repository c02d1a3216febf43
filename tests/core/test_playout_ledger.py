"""The playout ledger against a carrier that plays in order, forgets at ``clear`` and echoes marks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_agent.dialog.events import ClausePlayed, PlayoutHeld, PlayoutStarted
from voice_agent.playout import (
    SAMPLES_PER_MS,
    PlayoutAction,
    PlayoutLedger,
    PlayoutSettings,
    SendAudio,
    SendClear,
    SendMark,
)


@dataclass
class Carrier:
    """What Twilio does with what it is sent, at the speed of sound, with no delay on the way."""

    ledger: PlayoutLedger
    queue: deque[tuple[int, bytes] | str] = field(default_factory=deque)
    heard: bytearray = field(default_factory=bytearray)
    heard_turns: list[int] = field(default_factory=list)
    events: list[PlayoutAction] = field(default_factory=list)
    echoes: list[str] = field(default_factory=list)
    now_ms: int = 0
    silent_ms: int = 0
    mute_marks: bool = False

    def do(self, actions: list[PlayoutAction]) -> None:
        for action in actions:
            if isinstance(action, SendAudio):
                self.queue.append((action.turn, action.audio))
            elif isinstance(action, SendMark):
                self.queue.append(action.name)
                self._echo_front()
            elif isinstance(action, SendClear):
                self.echoes += [item for item in self.queue if isinstance(item, str)]
                self.queue.clear()
            else:
                self.events.append(action)

    def _echo_front(self) -> None:
        while self.queue and isinstance(self.queue[0], str):
            self.echoes.append(str(self.queue.popleft()))

    def tick(self) -> None:
        """One millisecond of playing, then what is due."""
        budget = SAMPLES_PER_MS
        while budget and self.queue:
            item = self.queue.popleft()
            assert not isinstance(item, str)
            turn, audio = item
            self.heard += audio[:budget]
            self.heard_turns += [turn] * len(audio[:budget])
            if len(audio) > budget:
                self.queue.appendleft((turn, audio[budget:]))
            budget -= len(audio[:budget])
            self._echo_front()
        self.silent_ms += budget == SAMPLES_PER_MS
        self.now_ms += 1
        self.settle()

    def settle(self) -> None:
        while self.echoes and not self.mute_marks:
            self.do(self.ledger.mark_echoed(self.echoes.pop(0), self.now_ms))
        deadline = self.ledger.next_deadline_ms()
        if deadline is not None and deadline <= self.now_ms:
            self.do(self.ledger.advance(self.now_ms))

    def run(self, ms: int) -> None:
        for _ in range(ms):
            self.tick()

    def play(self, turn: int, clause: int, audio: bytes, *, last: bool = True, interruptible: bool = True) -> bool:
        taken = self.ledger.play(turn, clause, audio, last=last, interruptible=interruptible)
        self.do(self.ledger.advance(self.now_ms))
        self.settle()
        return taken

    def hold(self) -> None:
        self.do(self.ledger.hold(self.now_ms))
        self.settle()

    def resume(self) -> None:
        self.do(self.ledger.resume(self.now_ms))
        self.settle()

    def clear(self, turn: int) -> None:
        self.do(self.ledger.clear(turn, self.now_ms))
        self.settle()

    def of(self, kind: type) -> list[PlayoutAction]:
        return [event for event in self.events if isinstance(event, kind)]


def audio_of(ms: int, seed: int = 0) -> bytes:
    """Bytes that differ at each position, so that a repeat or a hole shows."""
    return b"".join((seed * 100_000 + n).to_bytes(4, "big") for n in range(ms * 2))


@pytest.fixture
def carrier() -> Carrier:
    return Carrier(PlayoutLedger(PlayoutSettings()))


def test_a_clause_plays_once_with_its_events_in_order(carrier: Carrier) -> None:
    audio = audio_of(1234)
    carrier.play(1, 0, audio)
    carrier.run(1300)
    assert bytes(carrier.heard) == audio
    assert carrier.events == [PlayoutStarted(1, 0, 0), ClausePlayed(1, 0, 1234)]
    assert carrier.ledger.idle
    assert carrier.ledger.next_deadline_ms() is None
    assert carrier.ledger.statistics.starved == 0


def test_no_more_than_the_lead_is_ever_at_the_carrier(carrier: Carrier) -> None:
    carrier.play(1, 0, audio_of(3000))
    most = 0
    for _ in range(3000):
        most = max(most, sum(len(item[1]) for item in carrier.queue if not isinstance(item, str)))
        carrier.tick()
    assert most == 240 * SAMPLES_PER_MS
    assert carrier.silent_ms == 0


def test_hold_stops_at_once_and_resume_goes_on_at_the_next_sample(carrier: Carrier) -> None:
    audio = audio_of(1000)
    carrier.play(1, 0, audio)
    carrier.run(333)
    carrier.hold()
    assert carrier.events[-1] == PlayoutHeld(1, 0, 333, 333)
    carrier.run(500)
    assert bytes(carrier.heard) == audio[: 333 * SAMPLES_PER_MS]
    assert carrier.ledger.next_deadline_ms() is None
    carrier.resume()
    carrier.run(700)
    assert bytes(carrier.heard) == audio
    assert carrier.of(ClausePlayed) == [ClausePlayed(1, 0, 1500)]
    assert len(carrier.of(PlayoutStarted)) == 1


def test_marks_echoed_by_the_clear_of_a_hold_do_not_count_as_played(carrier: Carrier) -> None:
    carrier.play(1, 0, audio_of(150))
    carrier.run(50)
    carrier.hold()
    assert carrier.of(ClausePlayed) == []
    assert carrier.ledger.statistics.marks_ignored == 1
    carrier.resume()
    carrier.run(100)
    assert carrier.of(ClausePlayed) == [ClausePlayed(1, 0, 150)]


def test_a_hold_reports_clauses_the_clock_says_were_heard(carrier: Carrier) -> None:
    carrier.mute_marks = True
    carrier.play(1, 0, audio_of(100))
    carrier.play(1, 1, audio_of(400, seed=1))
    carrier.run(150)
    carrier.hold()
    assert carrier.events[-2:] == [ClausePlayed(1, 0, 150), PlayoutHeld(1, 1, 50, 150)]


def test_a_hold_between_clauses_keeps_the_next_one_back(carrier: Carrier) -> None:
    carrier.play(1, 0, audio_of(100))
    carrier.run(150)
    carrier.hold()
    assert carrier.of(PlayoutHeld) == []
    carrier.play(1, 1, audio_of(100, seed=1))
    carrier.run(50)
    assert len(carrier.heard) == 100 * SAMPLES_PER_MS
    carrier.resume()
    carrier.run(100)
    assert len(carrier.heard) == 200 * SAMPLES_PER_MS


def test_clear_ends_the_hold_of_its_turn_so_that_the_next_reply_is_heard(carrier: Carrier) -> None:
    for hold_at in (50, 150):  # inside a clause, and after the last one known
        turn = hold_at
        carrier.play(turn, 0, audio_of(100))
        carrier.run(hold_at)
        carrier.hold()
        carrier.clear(turn)
        assert not carrier.ledger.held
        before = len(carrier.heard)
        carrier.play(turn + 1, 0, audio_of(80, seed=2))
        carrier.run(100)
        assert bytes(carrier.heard[before:]) == audio_of(80, seed=2)


def test_clear_of_an_older_turn_leaves_the_hold_of_a_newer_one(carrier: Carrier) -> None:
    carrier.play(2, 0, audio_of(500))
    carrier.run(100)
    carrier.hold()
    carrier.clear(1)
    assert carrier.ledger.held
    carrier.run(100)
    assert len(carrier.heard) == 100 * SAMPLES_PER_MS


def test_clear_of_one_turn_keeps_the_unheard_audio_of_the_next(carrier: Carrier) -> None:
    carrier.play(1, 0, audio_of(100))
    later = audio_of(500, seed=3)
    carrier.play(2, 0, later)
    carrier.run(40)
    carrier.clear(1)
    carrier.run(600)
    assert bytes(carrier.heard[40 * SAMPLES_PER_MS :]) == later


def test_audio_of_a_cleared_turn_is_refused_for_ever(carrier: Carrier) -> None:
    carrier.play(1, 0, audio_of(100), last=False)
    carrier.clear(1)
    assert not carrier.play(1, 0, audio_of(100))
    assert not carrier.play(0, 3, audio_of(100))
    assert carrier.ledger.statistics.refused_bytes == 1600
    carrier.run(50)
    assert carrier.heard == b""


def test_a_mark_that_never_comes_counts_after_its_time_out(carrier: Carrier) -> None:
    carrier.mute_marks = True
    carrier.play(1, 0, audio_of(100))
    carrier.run(2099)
    assert carrier.of(ClausePlayed) == []
    carrier.run(1)
    assert carrier.of(ClausePlayed) == [ClausePlayed(1, 0, 2100)]
    assert carrier.ledger.statistics.marks_timed_out == 1
    assert carrier.ledger.mark_echoed("t1.c0.e0", carrier.now_ms) == []


def test_an_early_echo_moves_the_playout_clock(carrier: Carrier) -> None:
    carrier.mute_marks = True
    carrier.play(1, 0, audio_of(200))
    carrier.do(carrier.ledger.mark_echoed("t1.c0.e0", 60))
    assert carrier.of(ClausePlayed) == [ClausePlayed(1, 0, 60)]
    carrier.now_ms = 60
    carrier.play(1, 1, audio_of(100))
    assert carrier.ledger.position(100) == (1, 1, 40)


def test_late_audio_is_counted_as_starvation_but_a_hold_is_not(carrier: Carrier) -> None:
    carrier.play(1, 0, audio_of(100), last=False)
    carrier.run(130)
    carrier.play(1, 0, audio_of(100, seed=1), last=False)
    assert carrier.ledger.statistics.starved == 1
    assert carrier.ledger.statistics.starved_ms == 30
    carrier.run(50)
    carrier.hold()
    carrier.run(400)
    carrier.resume()
    carrier.run(50)
    assert carrier.ledger.statistics.starved == 1


def test_a_clause_that_dries_up_is_still_playing_and_can_be_held(carrier: Carrier) -> None:
    carrier.play(1, 0, audio_of(100), last=False)
    carrier.run(300)
    assert carrier.ledger.interruptible(carrier.now_ms)
    carrier.hold()
    assert carrier.events[-1] == PlayoutHeld(1, 0, 100, 300)


def test_a_clause_without_audio_is_played_at_once(carrier: Carrier) -> None:
    carrier.play(1, 0, b"")
    carrier.run(1)
    assert carrier.events == [ClausePlayed(1, 0, 0)]


def test_a_new_owner_may_feed_clauses_again(carrier: Carrier) -> None:
    audio = audio_of(600)
    carrier.play(1, 0, audio[:1000], last=False)
    carrier.play(1, 1, b"", last=False)
    carrier.ledger.refeed()
    for at in range(0, len(audio), 700):
        carrier.play(1, 0, audio[at : at + 700], last=at + 700 >= len(audio))
    carrier.play(1, 1, audio_of(50, seed=4))
    carrier.run(700)
    assert bytes(carrier.heard) == audio + audio_of(50, seed=4)
    assert not carrier.play(1, 0, audio)


def test_the_queue_is_bounded_and_a_clause_cut_short_still_ends() -> None:
    carrier = Carrier(PlayoutLedger(PlayoutSettings(max_queued_ms=500)))
    assert carrier.play(1, 0, audio_of(400), last=False)
    assert not carrier.play(1, 0, audio_of(400, seed=1))
    carrier.run(500)
    assert bytes(carrier.heard) == audio_of(400)
    assert carrier.ledger.idle


@pytest.mark.parametrize("lead_ms", [40, 100, 240])
def test_a_chunk_as_long_as_the_lead_does_not_starve(lead_ms: int) -> None:
    carrier = Carrier(PlayoutLedger(PlayoutSettings(lead_ms=lead_ms, chunk_ms=500)))
    carrier.play(1, 0, audio_of(1000))
    carrier.run(1000)
    assert bytes(carrier.heard) == audio_of(1000)


Steps = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(1, 400)),
        st.tuples(st.just("hold"), st.just(0)),
        st.tuples(st.just("resume"), st.just(0)),
        st.tuples(st.just("play"), st.integers(0, 2500)),
        st.tuples(st.just("end"), st.integers(0, 300)),
        st.tuples(st.just("mute"), st.booleans()),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(Steps, st.sampled_from([40, 100, 240, 500]), st.sampled_from([20, 100, 300]))
def test_nothing_is_lost_or_repeated_by_any_holds_and_resumes(
    steps: list[tuple[str, int]], lead_ms: int, chunk_ms: int
) -> None:
    """Clauses of random size in random pieces, held and resumed at random: the caller hears exactly their audio."""
    carrier = Carrier(PlayoutLedger(PlayoutSettings(lead_ms=lead_ms, chunk_ms=chunk_ms)))
    expected = bytearray()
    clause, serial = 0, 0
    for verb, amount in steps:
        if verb == "run":
            carrier.run(amount)
        elif verb == "mute":
            carrier.mute_marks = bool(amount)
        elif verb in ("play", "end"):
            piece = b"".join((serial + n).to_bytes(3, "big") for n in range(amount))
            serial += amount
            expected += piece
            carrier.play(1, clause, piece, last=verb == "end")
            clause += verb == "end"
        else:
            getattr(carrier, verb)()
        assert expected.startswith(bytes(carrier.heard))
        assert carrier.ledger.statistics.sent_bytes >= len(carrier.heard)
    carrier.resume()
    carrier.play(1, clause, b"")
    carrier.run(len(expected) // SAMPLES_PER_MS + 100)
    assert bytes(carrier.heard) == bytes(expected)
    carrier.run(2100)
    assert carrier.ledger.idle
    assert [(e.turn, e.clause) for e in carrier.of(ClausePlayed)] == [(1, n) for n in range(clause + 1)]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["play", "hold", "resume", "clear", "run"]), st.integers(0, 6), st.integers(0, 300)),
        max_size=40,
    )
)
def test_no_audio_of_a_cleared_turn_is_sent_and_heard_positions_only_rise(steps: list[tuple[str, int, int]]) -> None:
    carrier = Carrier(PlayoutLedger(PlayoutSettings()))
    cleared, last_position = -1, (-1, -1, -1)
    for verb, turn, amount in steps:
        if verb == "play":
            carrier.play(turn, amount % 3, bytes(amount * 8), last=bool(amount % 2))
        elif verb == "clear":
            carrier.clear(turn)
            cleared = max(cleared, turn)
        elif verb == "run":
            before = len(carrier.heard)
            carrier.run(amount)
            assert all(heard > cleared for heard in carrier.heard_turns[before:])
        else:
            getattr(carrier, verb)()
        assert all(item[0] > cleared for item in carrier.queue if not isinstance(item, str))
        position = carrier.ledger.position(carrier.now_ms)
        if position is not None and position[:2] == last_position[:2]:
            assert position[2] >= last_position[2]
        last_position = position or last_position
