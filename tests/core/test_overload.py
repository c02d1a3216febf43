"""The ladder never flaps and never goes the wrong way; the door keeps its rate, its line and its promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_agent.overload import (
    GONE_MS,
    HOLD_MS,
    LIMITS,
    WAIT_MS,
    Door,
    Level,
    OverloadLadder,
    Signals,
    Verdict,
    level_of,
)

lag = st.floats(0, 800)
signals = st.builds(Signals, lag, lag, st.floats(0, 1))
steps = st.integers(1, 4_000)


def worse(one: Signals, other: Signals) -> Signals:
    return Signals(*(max(getattr(one, name), getattr(other, name)) for name in LIMITS))


@given(signals, signals)
def test_the_level_is_monotone_in_every_signal(one: Signals, other: Signals) -> None:
    assert level_of(worse(one, other))[0] >= max(level_of(one)[0], level_of(other)[0])
    assert level_of(worse(one, other))[0] == max(level_of(one)[0], level_of(other)[0])


@given(st.lists(st.tuples(steps, signals, signals), max_size=60))
def test_a_ladder_that_sees_worse_is_never_lower(history: list[tuple[int, Signals, Signals]]) -> None:
    better, badly, now_ms = OverloadLadder(), OverloadLadder(), 0
    for step_ms, one, other in history:
        now_ms += step_ms
        assert better.feed(one, now_ms) <= badly.feed(worse(one, other), now_ms)


@given(st.lists(st.tuples(steps, signals), max_size=80))
def test_a_level_is_left_only_after_the_hold_and_one_step_at_a_time(history: list[tuple[int, Signals]]) -> None:
    ladder, now_ms, changed_ms = OverloadLadder(), 0, 0
    for step_ms, seen in history:
        now_ms += step_ms
        before = ladder.level
        after = ladder.feed(seen, now_ms)
        assert after >= level_of(seen)[0], "up at once"
        if after < before:
            assert after == before - 1
            assert now_ms - changed_ms >= HOLD_MS
        if after != before:
            changed_ms = now_ms
        assert bool(ladder.why) == (after > 0)


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_each_limit_begins_its_level_and_names_the_signal(name: str) -> None:
    for number, limit in enumerate(LIMITS[name], start=1):
        assert level_of(Signals(**{name: limit})) == (Level(number), name)
        assert level_of(Signals(**{name: limit * 0.99}))[0] == number - 1


def test_at_the_border_nothing_moves_and_calm_brings_it_back() -> None:
    ladder, limit = OverloadLadder(), LIMITS["gateway_lag_ms"][1]
    assert ladder.feed(Signals(gateway_lag_ms=limit), 0) == Level.CHEAP_ENGINES
    for now_ms in range(0, 5 * HOLD_MS, 1000):
        assert ladder.feed(Signals(gateway_lag_ms=limit * 0.9), now_ms) == Level.CHEAP_ENGINES
    begin_ms = 5 * HOLD_MS
    levels = [ladder.feed(Signals(), begin_ms + n * HOLD_MS) for n in range(4)]
    assert levels == [Level.CHEAP_ENGINES, Level.NO_SPECULATION, Level.NORMAL, Level.NORMAL]


# --- the door ---


def test_a_burst_comes_in_at_the_rate_and_the_line_is_served_in_order() -> None:
    door = Door(admit_per_s=2, queue_s=20, most_waiting=10)
    first = [door.ask(f"CA{n}", 10 - min(n, 2), Level.NORMAL, 0).reason for n in range(5)]
    assert first == ["", "", "queue", "queue", "queue"]
    assert door.waiting(0) == 3
    assert door.ask("CA4", 2, Level.NORMAL, WAIT_MS).reason == "queue", "two slots are for the two ahead"
    assert door.ask("CA9", 2, Level.NORMAL, WAIT_MS).reason == "queue", "nobody jumps the line"
    assert door.ask("CA2", 2, Level.NORMAL, WAIT_MS) == Verdict()
    assert door.ask("CA3", 1, Level.NORMAL, WAIT_MS) == Verdict()
    assert door.ask("CA4", 0, Level.NORMAL, WAIT_MS) == Verdict("queue", 2)


def test_nobody_waits_longer_than_the_limit_or_behind_one_who_has_gone() -> None:
    door = Door(admit_per_s=5, queue_s=10, most_waiting=2)
    assert [door.ask(name, 0, Level.NORMAL, 0).reason for name in ("a", "b", "c")] == ["queue", "queue", "full"]
    times_ms = range(WAIT_MS, 10_000 + WAIT_MS, WAIT_MS)
    answers = [door.ask("a", 0, Level.NORMAL, now_ms).reason for now_ms in times_ms]
    assert answers == ["queue", "queue", "full", "queue"], "after the refusal it would be a new call"
    assert door.ask("d", 2, Level.NORMAL, 9_000 + GONE_MS) == Verdict(), "b has not asked again"


def test_what_the_levels_mean_for_newcomers() -> None:
    door = Door(admit_per_s=5, queue_s=20, most_waiting=5)
    assert door.ask("waits", 5, Level.QUEUE, 0).reason == "queue"
    assert door.ask("new", 5, Level.REFUSE, 0).reason == "overloaded"
    assert door.ask("waits", 5, Level.REFUSE, WAIT_MS).reason == "queue", "who waits goes on waiting"
    assert door.ask("waits", 5, Level.CHEAP_ENGINES, 2 * WAIT_MS) == Verdict()
    assert Door(5, 0, 5).ask("a", 0, Level.NORMAL, 0).reason == "full"
    assert Door(5, 0, 5).ask("a", 5, Level.QUEUE, 0).reason == "overloaded"


@given(
    st.lists(
        st.tuples(st.integers(0, 700), st.integers(0, 12), st.integers(0, 6), st.sampled_from(Level)), max_size=120
    )
)
def test_the_rate_and_the_line_are_never_more_than_they_may_be(history: list[tuple[int, int, int, Level]]) -> None:
    door, now_ms, let_in = Door(admit_per_s=3, queue_s=9, most_waiting=4), 0, 0
    began: dict[int, int] = {}
    for step_ms, number, free, level in history:
        now_ms += step_ms
        if number in began and now_ms - began[number] > GONE_MS and not door.waits(f"CA{number}"):
            del began[number]
        verdict = door.ask(f"CA{number}", free, level, now_ms)
        assert door.waiting(now_ms) <= 4
        assert (verdict.reason == "queue") == door.waits(f"CA{number}")
        if verdict.reason == "":
            let_in += 1
            assert free > 0
            assert level < Level.QUEUE
        assert let_in <= 3 + 3 * now_ms / 1000 + 1e-6
