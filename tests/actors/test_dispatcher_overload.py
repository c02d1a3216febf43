"""Overload over a cluster made of objects: what is measured reaches the actors, newcomers and the status."""

from __future__ import annotations

import asyncio

import pytest
from local_plane import until
from test_dispatcher import Clock, FakeCluster, context_of

from actors.dispatch.dispatcher import Dispatcher
from voice_agent.admission import Admission, Refusal
from voice_agent.overload import HOLD_MS, WAIT_MS


@pytest.fixture
async def bench():
    """A dispatcher with two hosts of five calls, its cluster and its clock."""
    cluster, clock = FakeCluster(5), Clock()
    calls = {"max_calls": 6, "calls_per_actor": 5, "spare_actors": 0, "admit_per_s": 2.0, "queue_s": 9.0}
    dispatcher = Dispatcher(context_of(**calls), cluster, clock)
    assert await dispatcher.ready(5)
    yield dispatcher, cluster, clock
    await dispatcher.stop()


async def test_a_burst_waits_in_line_and_comes_in_at_the_rate(bench):
    dispatcher, _, clock = bench
    answers = [await dispatcher.admit(f"CA{n}", "", "") for n in range(4)]
    assert [isinstance(answer, Admission) for answer in answers] == [True, True, False, False]
    assert answers[2] == Refusal("CA2", "queue", WAIT_MS // 1000, 0)
    assert await dispatcher.call_state("CA2") == "queued"
    clock.now += WAIT_MS / 1000
    assert isinstance(await dispatcher.admit("CA2", "", ""), Admission)
    assert await dispatcher.call_state("CA2") == "reserved"
    await dispatcher.release("CA3", "caller_hung_up")
    assert await dispatcher.call_state("CA3") == "ended:caller_hung_up"
    status = await dispatcher.status()
    assert status["overload"]["waiting"] == 0
    assert status["counts"]["queued"] == 2
    assert status["counts"]["refused"] == 0


async def test_a_caller_who_waited_for_nothing_is_refused_and_counted(bench):
    dispatcher, _, clock = bench
    for n in range(6):
        clock.now += 1
        assert isinstance(await dispatcher.admit(f"CA{n}", "", ""), Admission)
    reasons = []
    for _ in range(3):
        reasons.append((await dispatcher.admit("CA9", "", "")).reason)
        clock.now += WAIT_MS / 1000
    assert reasons == ["queue", "queue", "queue"]
    assert (await dispatcher.admit("CA9", "", "")).reason == "full"
    assert (await dispatcher.status())["overload"]["refused"] == {"full": 1}


async def test_lag_of_an_actor_with_calls_reaches_all_actors_and_keeps_newcomers_waiting(bench):
    dispatcher, cluster, clock = bench
    await dispatcher.check()
    hosts = list(cluster.living.values())
    assert [host.level for host in hosts] == [0, 0]
    address = await _talk(dispatcher)
    talks = cluster.living[address.host_id]
    idle = next(host for host in hosts if host is not talks)
    talks.calls["CA1"] = "gateway-a"
    idle.lag_ms = 900.0
    await dispatcher.check()
    assert (await dispatcher.status())["overload"]["level"] == 0, "nobody is on that one"
    talks.lag_ms = 300.0
    await dispatcher.check()
    overload = (await dispatcher.status())["overload"]
    assert (overload["level"], overload["action"], overload["why"]) == (3, "queue", "actor_lag_ms")
    assert [host.level for host in hosts] == [3, 3]
    assert (await dispatcher.admit("CA2", "", "")).reason == "queue"
    assert isinstance(await dispatcher.admit("CA1", "", ""), Admission), "who is in stays in"
    cluster.lag_ms = 400.0
    await dispatcher.check()
    assert (await dispatcher.admit("CA3", "", "")).reason == "overloaded"
    cluster.lag_ms, clock.now = None, clock.now + 2 * HOLD_MS / 1000
    await dispatcher.check()
    await dispatcher.check()
    assert (await dispatcher.status())["overload"]["level"] == 4, "a gateway too busy to answer is not a calm one"
    talks.lag_ms = cluster.lag_ms = 0.0
    for _ in range(5):
        await dispatcher.check()
        clock.now += HOLD_MS / 1000
    assert (await dispatcher.status())["overload"]["level"] == 0
    assert [host.level for host in hosts] == [0, 0]


async def _talk(dispatcher):
    assert isinstance(await dispatcher.admit("CA1", "", ""), Admission)
    return await dispatcher.claim("CA1")


async def test_an_actor_that_was_not_reached_is_told_later(bench):
    dispatcher, cluster, _ = bench
    await until(lambda: len(cluster.living) == 2)
    first = next(iter(cluster.living.values()))
    tell, first.overload = first.overload, _refuses
    await dispatcher.check()
    assert first.level is None
    first.overload = tell
    await dispatcher.check()
    assert first.level == 0


async def _refuses(_level):
    await asyncio.sleep(0)
    raise TimeoutError
