"""The circuit breaker, under any order of outcomes and times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from voice_agent.breaker import Breaker, BreakerSettings, BreakerState

SETTINGS = BreakerSettings(faults=3, window_ms=1000, cool_down_ms=200, longest_ms=700)
STEP = st.tuples(st.integers(0, 400), st.sampled_from(["success", "fault", "probe_ok", "probe_fault", "ask"]))


def opened(at_ms: int = 0) -> Breaker:
    breaker = Breaker(SETTINGS)
    assert [breaker.fault(at_ms) for _ in range(3)] == [False, False, True]
    return breaker


@given(st.lists(STEP, max_size=60))
def test_requests_pass_only_while_closed_and_probes_are_one_per_cool_down(steps):
    breaker, now, last_probe = Breaker(SETTINGS), 0, None
    for step, what in steps:
        now += step
        before = breaker.state
        if what == "ask":
            asked = breaker.may_probe(now)
            assert not (asked and before is BreakerState.CLOSED)
            if asked:
                assert last_probe is None or now - last_probe >= SETTINGS.cool_down_ms
                last_probe = now
                assert breaker.state is BreakerState.HALF_OPEN
        elif what.startswith("probe"):
            (breaker.success if what == "probe_ok" else breaker.fault)(now, probe=True)
        else:
            (breaker.success if what == "success" else breaker.fault)(now)
            if before is not BreakerState.CLOSED:
                assert breaker.state is before, "an old request moved an open breaker"
        if breaker.state is BreakerState.CLOSED and before is not BreakerState.CLOSED:
            assert what == "probe_ok"
            last_probe = None
        assert breaker.allows == (breaker.state is BreakerState.CLOSED)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=40))
def test_successes_never_open_it(times):
    breaker = Breaker(SETTINGS)
    for at in sorted(times):
        assert not breaker.success(at)
    assert breaker.allows


@given(st.integers(501, 5000), st.integers(1, 50))
def test_faults_far_apart_do_not_open_it(apart, count):
    breaker = Breaker(SETTINGS)
    assert not any(breaker.fault(number * apart) for number in range(count))


def test_a_few_faults_among_many_successes_do_not_open_it():
    breaker = Breaker(SETTINGS)
    for at in range(100):
        breaker.success(at)
    assert not any(breaker.fault(100 + at) for at in range(50))


def test_a_probe_that_succeeds_closes_it_and_forgets_the_past():
    breaker = opened()
    assert not breaker.may_probe(199)
    assert breaker.may_probe(200)
    assert not breaker.may_probe(201)
    assert breaker.success(210, probe=True)
    assert breaker.allows
    assert not breaker.fault(220)


def test_failing_probes_wait_longer_each_time_up_to_a_limit():
    breaker, now, waits = opened(), 0, []
    for _ in range(4):
        before = now
        while not breaker.may_probe(now):
            now += 1
        waits.append(now - before)
        assert not breaker.fault(now, probe=True)
    assert waits == [200, 400, 700, 700]


def test_a_probe_nobody_reports_is_given_up():
    breaker = opened()
    assert breaker.may_probe(200)
    assert breaker.may_probe(400)


def test_successes_that_say_nothing_any_more_do_not_hold_it():
    breaker = Breaker(SETTINGS)
    for at in range(100):
        breaker.success(at)
    breaker.fault(100)
    breaker.forget()
    assert [breaker.fault(101), breaker.fault(102)] == [False, True]
