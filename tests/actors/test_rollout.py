"""New code for living calls, over a cluster made of objects: canary, hand-over, way back, restart."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace

import pytest
from test_dispatcher import Clock, FakeCluster, FakeHost, context_of, live

from actors.dispatch import rollout
from actors.dispatch.dispatcher import Dispatcher
from actors.link.messages import FAULT
from configs import runtime
from configs.runtime import CodeVersion
from voice_agent.errors import CapacityError, ProtocolError

NEW = CodeVersion(version="new", package="gcs://new.zip")


class CodeHost(FakeHost):
    """A call actor that knows its code. ``turns``: whether its calls come to the end of a turn."""

    turns = True

    async def status(self):
        return await super().status() | {"code": {"number": self.made_from.code.number, "version": "v"}}

    async def context(self):
        return self.made_from

    async def await_turn(self, call_id, within_s):
        self._alive()
        return self.turns


class CodeCluster(FakeCluster):
    """A cluster whose gateways hand calls over. ``broken``: code that does not start; ``blind``: that cannot read."""

    def __init__(self):
        super().__init__()
        self.broken, self.blind = set(), set()
        self.dispatcher = None
        self.moves = []

    async def create_host(self, host_id, context):
        if context.code.number in self.broken:
            raise CapacityError("it does not import")
        host = self.living[host_id] = CodeHost(host_id, self.capacity, context)
        return host

    async def move_call(self, gateway_id, call_id, address):
        self.moves.append((call_id, address.host_id))
        if self.living[address.host_id].made_from.code.number in self.blind:
            return await self._refused(call_id, address)
        for host in self.living.values():
            host.calls.pop(call_id, None)
        self.living[address.host_id].calls[call_id] = gateway_id
        return address.host_id

    async def _refused(self, call_id, address):
        other = await self.dispatcher.replace(call_id, address.host_id, "unreadable")
        return other.host_id


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(rollout, "POLL_S", 0.01)
    monkeypatch.setattr("actors.dispatch.dispatcher.TICK_S", 0.01)
    monkeypatch.setattr("actors.dispatch.pool.RETRY_S", 0.01)


@pytest.fixture
async def stack():
    cluster = CodeCluster()
    dispatcher = Dispatcher(context_of(max_calls=4, calls_per_actor=1, spare_actors=1), cluster, Clock())
    cluster.dispatcher = dispatcher
    assert await dispatcher.ready(5)
    yield dispatcher, cluster
    await dispatcher.stop()


async def calls_on(dispatcher, cluster, *call_ids):
    for call_id in call_ids:
        address = await live(dispatcher, call_id)
        cluster.living[address.host_id].calls[call_id] = "gateway-a"


def wanted(dispatcher):
    return replace(dispatcher._context, code=NEW)


async def reached(dispatcher, condition):
    """The dispatcher's status, once it meets ``condition``."""
    async with asyncio.timeout(10):
        while not condition(status := await dispatcher.status()):  # noqa: ASYNC110 - any condition, polled
            await asyncio.sleep(0.01)
        return status


async def phase(dispatcher, *phases):
    return await reached(dispatcher, lambda status: status["rollout"]["phase"] in phases)


def codes(status):
    return {host["code"] for host in status["hosts"].values()}


async def test_all_calls_come_to_new_code_and_old_actors_end(stack):
    dispatcher, cluster = stack
    await calls_on(dispatcher, cluster, "CA1", "CA2", "CA3")
    assert await dispatcher.deploy(wanted(dispatcher), 0.05, 1.0) == 2
    status = await phase(dispatcher, "done", "failed")
    assert (status["rollout"]["phase"], status["rollout"]["moved"]) == ("done", 3)
    assert status["rollout"]["between_turns"] == 3
    assert codes(status) == {2}
    assert sorted(call for host in status["hosts"].values() for call in host["calls"]) == ["CA1", "CA2", "CA3"]
    assert len({call for call, _ in cluster.moves}) == 3
    assert status["code"]["version"] == "new"
    assert status["host_deaths"] == 0
    for call_id in ("CA1", "CA2", "CA3"):
        assert await dispatcher.call_state(call_id) == "live"


async def test_new_calls_go_to_new_code_while_old_calls_wait_for_the_end_of_a_turn(stack):
    dispatcher, cluster = stack
    await calls_on(dispatcher, cluster, "CA1")
    CodeHost.turns = False
    try:
        await dispatcher.deploy(wanted(dispatcher), 0.0, 1.0)
        status = await phase(dispatcher, "done")
        assert (status["rollout"]["moved"], status["rollout"]["between_turns"]) == (1, 0)
    finally:
        CodeHost.turns = True
    address = await live(dispatcher, "CA2")
    assert cluster.living[address.host_id].made_from.code == replace(NEW, number=2)


async def test_the_pool_never_grows_by_more_than_its_surge(stack):
    dispatcher, cluster = stack
    most = 0
    await calls_on(dispatcher, cluster, "CA1", "CA2", "CA3", "CA4")
    await dispatcher.deploy(wanted(dispatcher), 0.0, 0.0)
    while (await dispatcher.status())["rollout"]["phase"] != "done":
        most = max(most, len(cluster.living))
        await asyncio.sleep(0.005)
    assert 5 < most <= 5 + 2


async def test_code_that_does_not_start_changes_nothing(stack):
    dispatcher, cluster = stack
    await calls_on(dispatcher, cluster, "CA1")
    cluster.broken = {2}
    await dispatcher.deploy(wanted(dispatcher), 0.05, 1.0)
    status = await phase(dispatcher, "failed", "done")
    assert status["rollout"]["phase"] == "failed"
    assert "does not import" in status["rollout"]["why"]
    assert codes(status) == {1}
    assert cluster.moves == []


async def test_code_that_cannot_read_a_call_gives_it_back(stack):
    dispatcher, cluster = stack
    await calls_on(dispatcher, cluster, "CA1", "CA2")
    cluster.blind = {2}
    await dispatcher.deploy(wanted(dispatcher), 0.05, 1.0)
    status = await phase(dispatcher, "failed", "done")
    assert status["rollout"]["phase"] == "failed"
    assert "cannot read" in status["rollout"]["why"]
    assert codes(status) == {1}
    assert len(cluster.moves) == 1
    assert await dispatcher.call_state("CA1") == "live"
    assert await dispatcher.call_state("CA2") == "live"


async def test_code_that_fails_on_a_call_gives_it_back(stack):
    dispatcher, cluster = stack
    await calls_on(dispatcher, cluster, "CA1")
    await dispatcher.deploy(wanted(dispatcher), 5.0, 1.0)
    await reached(dispatcher, lambda _: cluster.moves)
    call_id, host_id = cluster.moves[0]
    del cluster.living[host_id].calls[call_id]
    address = await dispatcher.replace(call_id, host_id, FAULT)
    status = await phase(dispatcher, "failed", "done")
    assert status["rollout"]["phase"] == "failed"
    assert "failed on the first call" in status["rollout"]["why"]
    assert status["hosts"][address.host_id]["code"] == 1
    assert codes(status) == {1}
    with pytest.raises(ProtocolError, match="no other code"):
        await dispatcher.replace(call_id, address.host_id, FAULT)


async def test_a_canary_whose_actor_dies_ends_the_deploy(stack):
    dispatcher, cluster = stack
    await calls_on(dispatcher, cluster, "CA1")
    await dispatcher.deploy(wanted(dispatcher), 5.0, 1.0)
    await reached(dispatcher, lambda _: cluster.moves)
    call_id, host_id = cluster.moves[0]
    cluster.living[host_id].dead = True
    await dispatcher.check()
    await dispatcher.replace(call_id, host_id)
    status = await phase(dispatcher, "failed", "done")
    assert status["rollout"]["phase"] == "failed"
    assert codes(status) == {1}


async def test_rollback_brings_calls_back_to_the_code_before(stack):
    dispatcher, cluster = stack
    await calls_on(dispatcher, cluster, "CA1", "CA2")
    await dispatcher.deploy(wanted(dispatcher), 0.0, 1.0)
    await phase(dispatcher, "done")
    assert await dispatcher.rollback(1.0) == 3
    await reached(dispatcher, lambda status: codes(status) == {3})
    status = await phase(dispatcher, "done")
    assert status["code"]["package"] == ""
    assert status["rollout"]["moved"] == 2


async def test_after_a_rollback_calls_that_the_old_code_cannot_read_stay_where_they_are(stack):
    dispatcher, cluster = stack
    await calls_on(dispatcher, cluster, "CA1")
    await dispatcher.deploy(wanted(dispatcher), 0.0, 1.0)
    await phase(dispatcher, "done")
    cluster.blind = {3}
    await dispatcher.rollback(1.0)
    await reached(dispatcher, lambda status: status["rollout"]["kept"] == 1)
    assert await dispatcher.call_state("CA1") == "live"
    address = await live(dispatcher, "CA2")
    assert cluster.living[address.host_id].made_from.code.number == 3
    for host in cluster.living.values():
        host.calls.pop("CA1", None)
    await dispatcher.release("CA1", "caller_hung_up")
    assert codes(await phase(dispatcher, "done")) == {3}


async def test_one_deploy_at_a_time_and_no_way_back_without_one(stack):
    dispatcher, cluster = stack
    await calls_on(dispatcher, cluster, "CA1")
    with pytest.raises(ProtocolError, match="no deploy"):
        await dispatcher.rollback(1.0)
    await dispatcher.deploy(wanted(dispatcher), 5.0, 1.0)
    with pytest.raises(ProtocolError, match="under way"):
        await dispatcher.deploy(wanted(dispatcher), 0.0, 1.0)
    await dispatcher.rollback(0.0)
    await reached(dispatcher, lambda status: codes(status) == {1})


async def test_a_dispatcher_that_comes_back_goes_on_with_the_deploy(stack):
    dispatcher, cluster = stack
    await calls_on(dispatcher, cluster, "CA1", "CA2")
    await dispatcher._tasks.aclose()
    newer = replace(dispatcher._context, code=replace(NEW, number=2))
    cluster.living["call-host-90"] = CodeHost("call-host-90", 1, newer)
    restarted = Dispatcher(dispatcher._context, cluster, Clock())
    cluster.dispatcher = restarted
    try:
        await restarted.start()
        status = await phase(restarted, "done")
        assert codes(status) == {2}
        assert status["code"]["version"] == "new"
        assert await restarted.call_state("CA1") == "live"
    finally:
        await restarted.stop()


def test_a_context_crosses_versions_with_all_that_either_knows() -> None:
    context = context_of(max_calls=7)
    context = replace(context, code=NEW)
    again = pickle.loads(pickle.dumps(context))
    assert again == replace(context, foreign=again.foreign)
    function, (plain,) = context.__reduce__()
    plain["settings"]["calls"]["mood"] = "fine"
    plain["settings"]["later"] = {"a": 1}
    plain["shoe_size"] = 9
    del plain["settings"]["turn"]["endpoint_ms"]
    foreign = function(plain)
    assert foreign.settings == context.settings
    passed_on = foreign.__reduce__()[1][0]["settings"]
    assert passed_on["calls"]["mood"] == "fine"
    assert passed_on["later"] == {"a": 1}
    assert function is runtime._context_of
