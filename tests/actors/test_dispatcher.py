"""Admission, placement, replacement and recovery, over a cluster made of objects."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from local_plane import until

from actors.dispatch.dispatcher import Dispatcher
from actors.dispatch.pool import HostGoneError
from configs.runtime import StackContext
from configs.settings import Settings
from voice_agent.admission import Admission, HostAddress, Refusal
from voice_agent.errors import CapacityError, ProtocolError


def context_of(**calls):
    settings = Settings.model_validate({"calls": calls})
    run = Path("/nowhere")
    return StackContext(settings, "r", run, run, "", "secret", "secret", "key", "http://w", "ws://media")


class FakeHost:
    def __init__(self, host_id, capacity, context=None):
        self.host_id, self.capacity, self.made_from = host_id, capacity, context
        self.calls, self.orphans = {}, []
        self.dead = self.silent = self.stopped = False
        self.lag_ms, self.level = 0.0, None

    def _alive(self):
        if self.dead:
            raise HostGoneError("dead")
        if self.silent:
            raise CapacityError("silent")

    async def start(self):
        self._alive()
        return HostAddress(self.host_id, "10.0.0.1", 7000 + int(self.host_id.rpartition("-")[2]))

    async def status(self):
        self._alive()
        calls = {call_id: {"epoch": 1, "gateway": gateway} for call_id, gateway in self.calls.items()}
        return {
            "capacity": self.capacity,
            "calls": calls,
            "orphans": self.orphans,
            "pid": 1,
            "loop_lag_ms": 0.5,
            "recent_lag_ms": self.lag_ms,
        }

    async def overload(self, level):
        self._alive()
        self.level = level

    async def stop(self):
        self.stopped = True


class FakeCluster:
    def __init__(self, capacity=1):
        self.capacity = capacity
        self.living = {}
        self.gateway_ids = {"gateway-a"}
        self.destroyed = []
        self.refuse = 0
        self.reports, self.lost, self.take_overs = [], [], []
        self.holds = {}
        self.lag_ms = 0.0

    async def create_host(self, host_id, context):
        if self.refuse:
            self.refuse -= 1
            raise CapacityError("no CPUs")
        host = self.living[host_id] = FakeHost(host_id, self.capacity, context)
        return host

    async def hosts(self):
        return dict(self.living)

    async def destroy_host(self, host_id):
        self.destroyed.append(host_id)
        self.living.pop(host_id, None)

    async def gateways(self):
        return dict.fromkeys(self.gateway_ids, "ws://media")

    async def has_call(self, gateway_id, call_id):
        return self.holds.get(call_id, True) if gateway_id in self.gateway_ids else None

    async def gateway_lag_ms(self, gateway_id):
        return self.lag_ms

    async def report(self, status):
        self.reports.append(status)

    async def report_lost(self, call_id, reason):
        self.lost.append((call_id, reason))

    async def report_take_over(self, reason, took_s):
        self.take_overs.append((reason, took_s))


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
async def made():
    """Makes started dispatchers, and stops them."""
    all_of_them = []

    async def make(cluster=None, *, clock=None, wait=True, **calls):
        calls = {"max_calls": 3, "calls_per_actor": 1, "spare_actors": 1, "reserve_s": 30, "queue_s": 0} | calls
        cluster = cluster or FakeCluster(calls["calls_per_actor"])
        dispatcher = Dispatcher(context_of(**calls), cluster, clock or Clock())
        all_of_them.append(dispatcher)
        if wait:
            assert await dispatcher.ready(5)
        return dispatcher, cluster

    yield make
    for dispatcher in all_of_them:
        await dispatcher.stop()


async def live(dispatcher, call_id):
    assert isinstance(await dispatcher.admit(call_id, "+1", "+2"), Admission)
    return await dispatcher.claim(call_id)


async def test_pool_is_what_the_settings_say(made):
    dispatcher, cluster = await made(max_calls=25, calls_per_actor=10, spare_actors=2)
    assert sorted(cluster.living) == [f"call-host-{n}" for n in range(1, 6)]
    status = await dispatcher.status()
    assert status["ready"]
    assert status["free"] == 25


async def test_a_call_from_webhook_to_end(made):
    dispatcher, _ = await made()
    assert await dispatcher.call_state("CA1") == "unknown"
    admission = await dispatcher.admit("CA1", "+1", "+2")
    assert admission == Admission("CA1", "gateway-a", "ws://media")
    assert await dispatcher.call_state("CA1") == "reserved"
    address = await dispatcher.claim("CA1")
    assert await dispatcher.call_state("CA1") == "live"
    assert await dispatcher.claim("CA1") == address
    await dispatcher.release("CA1", "goodbye")
    await dispatcher.release("CA1", "twice")
    assert await dispatcher.call_state("CA1") == "ended:goodbye"
    assert (await dispatcher.status())["free"] == 3


async def test_full_house_then_room_again(made):
    dispatcher, _ = await made()
    for n in range(3):
        await live(dispatcher, f"CA{n}")
    assert await dispatcher.admit("CA9", "", "") == Refusal("CA9", "full")
    await dispatcher.release("CA0", "goodbye")
    assert isinstance(await dispatcher.admit("CA9", "", ""), Admission)


async def test_reservations_count_and_expire(made):
    clock = Clock()
    dispatcher, _ = await made(clock=clock)
    for n in range(3):
        await dispatcher.admit(f"CA{n}", "", "")
    assert (await dispatcher.admit("CA9", "", "")).reason == "full"
    clock.now += 31
    await dispatcher.check()
    assert await dispatcher.call_state("CA0") == "ended:expired"
    assert isinstance(await dispatcher.admit("CA9", "", ""), Admission)


async def test_a_known_call_is_let_in_again_whatever_the_load(made):
    dispatcher, _ = await made(max_calls=1)
    address = await live(dispatcher, "CA1")
    await dispatcher.drain(True)
    assert isinstance(await dispatcher.admit("CA1", "", ""), Admission)
    assert await dispatcher.claim("CA1") == address
    assert (await dispatcher.admit("CA2", "", "")).reason == "draining"
    await dispatcher.drain(False)
    assert (await dispatcher.admit("CA2", "", "")).reason == "full"


async def test_no_gateway_no_call(made):
    cluster = FakeCluster()
    cluster.gateway_ids = set()
    dispatcher, _ = await made(cluster)
    assert (await dispatcher.admit("CA1", "", "")).reason == "no_gateway"
    await dispatcher.register_gateway("gateway-b", "wss://b")
    assert (await dispatcher.admit("CA1", "", "")).media_url == "wss://b"


async def test_not_ready_before_the_first_host(made):
    cluster = FakeCluster()
    cluster.refuse = 1000
    dispatcher, _ = await made(cluster, wait=False)
    assert (await dispatcher.admit("CA1", "", "")).reason == "not_ready"


async def test_calls_spread_over_hosts_and_gateways(made):
    cluster = FakeCluster(2)
    cluster.gateway_ids = {"gateway-a", "gateway-b"}
    dispatcher, _ = await made(cluster, max_calls=4, calls_per_actor=2, spare_actors=0)
    hosts = [(await live(dispatcher, f"CA{n}")).host_id for n in range(4)]
    assert sorted(hosts) == ["call-host-1", "call-host-1", "call-host-2", "call-host-2"]
    assert hosts[0] != hosts[1]
    gateways = [dispatcher._calls.get(f"CA{n}").gateway_id for n in range(4)]
    assert sorted(gateways) == ["gateway-a", "gateway-a", "gateway-b", "gateway-b"]


async def test_a_dead_host_is_replaced_for_its_call_and_in_the_pool(made):
    dispatcher, cluster = await made()
    first = await live(dispatcher, "CA1")
    cluster.living[first.host_id].dead = True
    second = await dispatcher.replace("CA1", first.host_id)
    assert second.host_id != first.host_id
    assert await dispatcher.replace("CA1", first.host_id) == second
    assert await dispatcher.claim("CA1") == second
    await dispatcher.check()
    assert first.host_id in cluster.destroyed
    assert await dispatcher.ready(5)
    assert len(cluster.living) == 4
    assert first.host_id not in cluster.living
    assert await dispatcher.call_state("CA1") == "live"
    assert (await dispatcher.status())["host_deaths"] == 1


async def test_a_suspect_gets_no_calls_until_it_answers(made):
    dispatcher, _ = await made(max_calls=3, spare_actors=0)
    first = await live(dispatcher, "CA1")
    second = await dispatcher.replace("CA1", first.host_id)
    third = await live(dispatcher, "CA2")
    assert len({first.host_id, second.host_id, third.host_id}) == 3
    assert (await dispatcher.admit("CA3", "", "")).reason == "full"
    await dispatcher.check()
    assert (await live(dispatcher, "CA3")).host_id == first.host_id


async def test_a_silent_host_is_given_three_chances(made):
    dispatcher, cluster = await made()
    address = await live(dispatcher, "CA1")
    cluster.living[address.host_id].calls["CA1"] = "gateway-a"
    cluster.living[address.host_id].silent = True
    await dispatcher.check()
    await dispatcher.check()
    assert address.host_id in cluster.living
    await dispatcher.check()
    assert address.host_id in cluster.destroyed
    assert await dispatcher.call_state("CA1") == "lost"


async def test_a_call_nobody_moves_is_lost_in_the_end(made):
    clock = Clock()
    dispatcher, cluster = await made(clock=clock)
    address = await live(dispatcher, "CA1")
    cluster.living[address.host_id].dead = True
    await dispatcher.check()
    assert await dispatcher.call_state("CA1") == "lost"
    clock.now += 31
    await dispatcher.check()
    assert await dispatcher.call_state("CA1") == "ended:lost"
    await until(lambda: cluster.lost == [("CA1", "lost")])


async def test_ends_the_actor_recorded_are_not_reported_again(made):
    dispatcher, cluster = await made()
    await live(dispatcher, "CA1")
    await live(dispatcher, "CA2")
    await dispatcher.admit("CA3", "", "")
    await dispatcher.release("CA1", "caller_hung_up")
    await dispatcher.release("CA3", "caller_hung_up")
    await dispatcher.release("CA2", "failed")
    await until(lambda: cluster.lost == [("CA2", "failed")])


async def test_no_spare_is_a_clear_error(made):
    dispatcher, _ = await made(max_calls=1, spare_actors=0)
    first = await live(dispatcher, "CA1")
    with pytest.raises(CapacityError):
        await dispatcher.replace("CA1", first.host_id)
    await dispatcher.release("CA1", "goodbye")
    with pytest.raises(ProtocolError):
        await dispatcher.replace("CA1", first.host_id)


async def test_a_call_its_host_does_not_know_is_over(made):
    clock = Clock()
    dispatcher, cluster = await made(clock=clock)
    address = await live(dispatcher, "CA1")
    await dispatcher.check()
    await dispatcher.check()
    assert await dispatcher.call_state("CA1") == "live"
    clock.now += 11
    cluster.living[address.host_id].orphans = ["CA1"]
    await dispatcher.check()
    await dispatcher.check()
    assert await dispatcher.call_state("CA1") == "live"
    cluster.living[address.host_id].orphans = []
    await dispatcher.check()
    await dispatcher.check()
    assert await dispatcher.call_state("CA1") == "ended:lost"


async def test_a_restarted_dispatcher_does_not_wait_for_a_host_that_is_slow_to_start(made, monkeypatch):
    monkeypatch.setattr("actors.dispatch.pool.ADOPT_S", 0.05)
    first, cluster = await made()
    await live(first, "CA1")
    slow = next(host for host in cluster.living.values() if not host.calls)
    gate, start = asyncio.Event(), slow.start

    async def start_late():
        await gate.wait()
        return await start()

    slow.start = start_late
    second, _ = await made(cluster, wait=False)
    assert isinstance(await second.admit("CA2", "", ""), Admission)
    assert slow.host_id not in (await second.status())["hosts"]
    gate.set()
    await until(lambda: slow.host_id in [host.host_id for host in second._pool.hosts])
    assert len(cluster.living) == second._pool.wanted, "none was made in its place"


async def test_a_carrier_that_comes_back_is_the_first_to_tell_of_a_lost_gateway(made):
    cluster = FakeCluster()
    cluster.gateway_ids = {"gateway-a", "gateway-b"}
    dispatcher, _ = await made(cluster)
    first = (await dispatcher.admit("CA1", "", "")).gateway_id
    await dispatcher.claim("CA1")
    assert await dispatcher.call_state("CA1") == "live"
    cluster.gateway_ids.discard(first)
    assert await dispatcher.call_state("CA1") == "lost"
    assert (await dispatcher.admit("CA1", "", "")).gateway_id != first


async def test_a_gateway_that_was_restarted_has_lost_its_calls(made):
    dispatcher, cluster = await made()
    await live(dispatcher, "CA1")
    cluster.holds["CA1"] = False
    assert await dispatcher.call_state("CA1") == "lost"
    assert (await dispatcher.admit("CA1", "", "")).gateway_id == "gateway-a"


async def test_a_call_waits_for_the_only_gateway_to_be_back(made):
    dispatcher, cluster = await made()
    await live(dispatcher, "CA1")
    cluster.gateway_ids.clear()
    assert await dispatcher.call_state("CA1") == "lost"
    asking = asyncio.create_task(dispatcher.admit("CA1", "", ""))
    other = asyncio.create_task(dispatcher.admit("CA2", "", ""))
    await asyncio.sleep(0.02)
    assert not asking.done()
    await dispatcher.register_gateway("gateway-a", "ws://again")
    assert await asking == Admission("CA1", "gateway-a", "ws://again")
    assert isinstance(await other, Admission)


async def test_a_lost_gateway_is_seen_and_its_calls_go_to_another(made):
    cluster = FakeCluster()
    cluster.gateway_ids = {"gateway-a"}
    dispatcher, _ = await made(cluster)
    address = await live(dispatcher, "CA1")
    cluster.gateway_ids = {"gateway-b"}
    await dispatcher.check()
    assert await dispatcher.call_state("CA1") == "lost"
    assert (await dispatcher.admit("CA1", "", "")).gateway_id == "gateway-b"
    assert await dispatcher.call_state("CA1") == "live"
    assert await dispatcher.claim("CA1") == address


async def test_a_restarted_dispatcher_learns_everything_again(made):
    dispatcher, cluster = await made()
    address = await live(dispatcher, "CA1")
    await dispatcher.admit("CA2", "", "")
    cluster.living[address.host_id].calls["CA1"] = "gateway-a"
    await dispatcher._tasks.aclose()
    second, _ = await made(cluster)
    assert await second.call_state("CA1") == "live"
    assert await second.claim("CA1") == address
    assert len(cluster.living) == 4
    assert (await second.claim("CA2")).host_id != address.host_id
    await second.release("CA1", "goodbye")
    del cluster.living[address.host_id].calls["CA1"]
    assert (await second.status())["live"] == 1


async def test_dispatcher_and_host_may_die_together(made):
    dispatcher, cluster = await made()
    address = await live(dispatcher, "CA1")
    await dispatcher._tasks.aclose()
    del cluster.living[address.host_id]
    second, _ = await made(cluster, wait=False)
    assert (await second.replace("CA1", address.host_id)).host_id != address.host_id
    assert await second.call_state("CA1") == "live"


async def test_a_host_that_does_not_start_is_tried_again(made, monkeypatch):
    monkeypatch.setattr("actors.dispatch.pool.RETRY_S", 0.01)
    cluster = FakeCluster()
    cluster.refuse = 2
    await made(cluster)
    assert len(cluster.living) == 4


async def test_status_is_reported_for_the_gauges(made, monkeypatch):
    monkeypatch.setattr("actors.dispatch.dispatcher.CHECK_S", 0.01)
    _, cluster = await made()
    await until(lambda: cluster.reports)
    assert cluster.reports[0]["hosts_wanted"] == 4


async def test_stop_ends_every_host(made):
    dispatcher, cluster = await made()
    hosts = list(cluster.living.values())
    await dispatcher.stop()
    assert all(host.stopped for host in hosts)
    assert not cluster.living


async def test_a_lost_stream_keeps_its_slot_and_its_host(made):
    dispatcher, cluster = await made(max_calls=1, spare_actors=1)
    address = await live(dispatcher, "CA1")
    await dispatcher.release("CA1", "stream_lost")
    assert await dispatcher.call_state("CA1") == "lost"
    assert isinstance(await dispatcher.admit("CA2", "", ""), Refusal)
    assert isinstance(await dispatcher.admit("CA1", "", ""), Admission)
    assert await dispatcher.claim("CA1") == address
    assert await dispatcher.call_state("CA1") == "live"
    await dispatcher.release("CA1", "goodbye")
    assert await dispatcher.call_state("CA1") == "ended:goodbye"
    assert cluster.lost == []


async def test_a_lost_stream_without_a_host_is_an_end(made):
    dispatcher, cluster = await made()
    address = await live(dispatcher, "CA1")
    cluster.living[address.host_id].dead = True
    await dispatcher.check()
    await dispatcher.release("CA1", "stream_lost")
    assert await dispatcher.call_state("CA1") == "ended:stream_lost"
    await until(lambda: cluster.lost == [("CA1", "stream_lost")])
