"""The echo guard: no echo gets past it, a caller does, and it finds out how much the line returns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from voice_agent.audio.g711 import mulaw_encode
from voice_agent.echo import ECHO_WITHIN_MS, LEAST_LOSS_DB, MARGIN_DB, USUAL_LOSS_DB, EchoGuard

CHUNK_MS = 100
WINDOW_MS = 32
NOISE_DB = -64.0
SYLLABLES = st.lists(st.sampled_from([-18.0, -21.0, -26.0, -33.0, -60.0]), min_size=20, max_size=60)
DELAYS_MS = st.integers(0, ECHO_WITHIN_MS - CHUNK_MS)


def tone(level_db: float) -> bytes:
    """100 ms of a square wave."""
    level = round(32768 * 10 ** (level_db / 20))
    return mulaw_encode(np.tile(np.array([level] * 4 + [-level] * 4, dtype=np.int16), CHUNK_MS))


class Line:
    """A telephone that returns the agent's voice: levels only, one chunk of the agent's speech after the other."""

    def __init__(self, loss_db: float, delay_ms: int) -> None:
        self.guard = EchoGuard()
        self.loss_db, self.delay_ms = loss_db, delay_ms
        self.said: list[tuple[int, float]] = []
        self.now_ms = 0
        self.over: list[int] = []
        """When the echo was above the limit."""

    def agent(self, levels_db: Sequence[float], caller_db: float = NOISE_DB) -> None:
        for level in levels_db:
            self.guard.sent(self.now_ms, tone(level))
            self.said.append((self.now_ms, level))
            self.pass_time(CHUNK_MS, caller_db)

    def pass_time(self, ms: int, caller_db: float = NOISE_DB) -> None:
        until_ms = self.now_ms + ms
        while self.now_ms < until_ms:
            self.window(max(self.echo_db(self.now_ms), caller_db))
            self.now_ms += min(WINDOW_MS, until_ms - self.now_ms)

    def window(self, level_db: float) -> None:
        if self.echo_db(self.now_ms) > max(self.guard.limit_db(self.now_ms), NOISE_DB):
            self.over.append(self.now_ms)
        if self.guard.expected:
            self.guard.heard(self.now_ms, self.now_ms + WINDOW_MS, level_db)

    def echo_db(self, at_ms: int) -> float:
        """Loudest echo in the window that begins then."""
        begin, end = at_ms - self.delay_ms, at_ms - self.delay_ms + WINDOW_MS
        sounding = [level for start, level in self.said if start < end and start + CHUNK_MS > begin]
        return max(sounding, default=-120.0) - self.loss_db


@given(SYLLABLES, DELAYS_MS, st.floats(USUAL_LOSS_DB, 50.0))
def test_no_echo_of_a_usual_line_is_ever_above_the_limit(syllables: list[float], delay_ms: int, loss_db: float) -> None:
    line = Line(loss_db, delay_ms)
    line.agent(syllables)
    line.pass_time(1000)
    assert line.over == []


@given(DELAYS_MS, st.floats(LEAST_LOSS_DB, USUAL_LOSS_DB))
def test_a_line_that_returns_more_is_learnt(delay_ms: int, loss_db: float) -> None:
    line = Line(loss_db, delay_ms)
    line.agent([-18.0, -24.0, -18.0] * 20)
    learnt_ms = line.now_ms
    line.agent([-18.0, -24.0, -18.0] * 20)
    assert [at for at in line.over if at > learnt_ms] == []


@given(SYLLABLES, DELAYS_MS, st.floats(0.0, 50.0), st.integers(0, 5000))
def test_a_caller_as_loud_as_the_agent_is_always_heard(
    syllables: list[float], delay_ms: int, loss_db: float, at_ms: int
) -> None:
    line = Line(loss_db, delay_ms)
    line.agent(syllables)
    assert line.guard.limit_db(at_ms) <= max(syllables) - LEAST_LOSS_DB + MARGIN_DB + 0.5


@given(SYLLABLES)
def test_on_a_line_without_echo_even_a_faint_caller_is_heard(syllables: list[float]) -> None:
    line = Line(120.0, 0)
    line.agent([-18.0] * 30)
    line.agent(syllables)
    assert line.guard.limit_db(line.now_ms) < NOISE_DB + 20.0


@given(DELAYS_MS, st.floats(USUAL_LOSS_DB, 40.0), st.floats(-30.0, -15.0))
def test_a_caller_who_speaks_over_the_agent_does_not_spoil_what_is_known(
    delay_ms: int, loss_db: float, caller_db: float
) -> None:
    line = Line(loss_db, delay_ms)
    line.agent([-18.0] * 40)
    known_db = line.guard.loss_db
    line.agent([-18.0] * 20, caller_db)
    assert line.guard.loss_db == known_db


def test_what_was_cut_does_not_come_back() -> None:
    guard = EchoGuard()
    for at in range(0, 1000, CHUNK_MS):
        guard.sent(at, tone(-18.0))
    guard.cut(250)
    assert guard.limit_db(250 + ECHO_WITHIN_MS) > -60.0
    assert guard.limit_db(250 + ECHO_WITHIN_MS + 1) == guard.limit_db(10_000) == -120.0


def test_a_silent_agent_tells_nothing_and_limits_nothing() -> None:
    line = Line(20.0, 100)
    line.agent([-110.0] * 40)
    assert line.guard.loss_db == USUAL_LOSS_DB
    assert line.guard.limit_db(line.now_ms) < NOISE_DB


def test_what_is_long_past_is_forgotten() -> None:
    line = Line(30.0, 100)
    line.agent([-18.0] * 20)
    line.pass_time(4000)
    assert not line.guard.expected


@given(
    st.lists(st.sampled_from([-18.0, -33.0, -60.0]), max_size=11), st.sampled_from([-18.0, -60.0]), st.integers(8, 800)
)
def test_audio_is_judged_in_pieces_however_it_comes(levels: list[float], last: float, samples: int) -> None:
    pieces = [*map(tone, levels), tone(last)[:samples]]
    together, apart = EchoGuard(), EchoGuard()
    together.sent(0, b"".join(pieces))
    for number, piece in enumerate(pieces):
        apart.sent(number * CHUNK_MS, piece)
    for at_ms in range(0, (len(pieces) + 8) * CHUNK_MS, 30):
        assert together.limit_db(at_ms) == apart.limit_db(at_ms)
    first = (levels or [last])[0]
    assert abs(together.limit_db(0) - (first - USUAL_LOSS_DB + MARGIN_DB)) < 0.5


def test_a_cut_takes_away_what_nobody_has_asked_for_yet() -> None:
    guard = EchoGuard()
    guard.sent(0, tone(-33.0) + tone(-18.0))
    guard.cut(CHUNK_MS)
    assert guard.limit_db(CHUNK_MS) < -33.0 - USUAL_LOSS_DB + MARGIN_DB + 0.5
