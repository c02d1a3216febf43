"""The call actor over a real link, with scripted engines."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from local_plane import Gate, ListJournal, LocalPlane, until

from actors.call.actor import CallActor, CallEdges
from actors.call.outbox import LogEntries
from actors.link.connection import connect_link
from actors.link.messages import Attach, CallerAudio, CallEvent, Control, Detach, Play, Snapshot
from configs.runtime import StackContext
from configs.settings import Settings
from voice_agent.dialog.events import CarrierStopped, ClausePlayed, PlayoutStarted, SpeechPaused, SpeechStarted
from voice_agent.dialog.records import CallRecord, TurnRecord
from voice_agent.errors import StorageError, VoiceAgentError


class Gateway:
    """A peer on the link."""

    def __init__(self, connection):
        self.connection = connection
        self.got = []
        self.reader = asyncio.create_task(self._read())

    async def _read(self):
        async for message in self.connection:
            self.got.append(message)

    def send(self, *messages):
        for message in messages:
            self.connection.send(message)

    def of(self, kind, call_id):
        return [message for message in self.got if isinstance(message, kind) and message.call_id == call_id]

    def start(self, call_id, epoch=1, snapshot=b""):
        self.send(Attach(call_id, epoch, 0, "+1", "+2", "", snapshot))

    def say(self, call_id, utterance=1, at_ms=2000):
        self.send(
            CallEvent(call_id, SpeechStarted(utterance, at_ms - 1000)),
            CallerAudio(call_id, utterance, 0, b"\x10" * 8000),
            CallEvent(call_id, SpeechPaused(utterance, at_ms)),
        )

    def play(self, call_id):
        for play in self.of(Play, call_id):
            if play.last:
                self.send(
                    CallEvent(call_id, PlayoutStarted(play.turn, play.clause, 500)),
                    CallEvent(call_id, ClausePlayed(play.turn, play.clause, 1500)),
                )

    def hang_up(self, call_id):
        self.send(CallEvent(call_id, CarrierStopped("caller_hung_up")), Detach(call_id, "caller_hung_up"))


class House:
    def __init__(self, calls_per_actor=3, reserve_s=30.0):
        settings = Settings.model_validate(
            {
                "calls": {"calls_per_actor": calls_per_actor, "reserve_s": reserve_s},
                "turn": {"endpoint_ms": 110, "endpoint_short_ms": 100, "endpoint_long_ms": 120},
            }
        )
        run = Path("/nowhere")
        context = StackContext(settings, "r", run, run, "", "secret", "s", "k", "http://w", "ws://m")
        self.plane, self.journal = LocalPlane(), ListJournal()
        self.actor = CallActor(context, "call-host-1", CallEdges(self.plane, self.journal, "127.0.0.1"))
        self.gateways = []

    async def gateway(self, name="gateway-a"):
        address = await self.actor.start()
        gateway = Gateway(await connect_link(address.host, address.port, name=name, secret="secret"))
        self.gateways.append(gateway)
        return gateway

    async def calls(self):
        return (await self.actor.status())["calls"]

    async def calls_are(self, *call_ids):
        async def met():
            return sorted(await self.calls()) == sorted(call_ids)

        await until(met)

    async def close(self):
        for gateway in self.gateways:
            gateway.connection.close("test over")
            await gateway.reader
        await self.actor.stop()


@pytest.fixture
async def house():
    house = House()
    yield house
    await house.close()
    status = await house.actor.status()
    assert (status["tasks"], status["open_requests"], status["calls"]) == (0, 0, {})


async def test_calls_side_by_side_and_nothing_left_afterwards(house):
    gateway = await house.gateway()
    names = ["CA1", "CA2", "CA3"]
    for call_id in names:
        gateway.start(call_id)
    await until(lambda: all(any(p.last and p.clause == 1 for p in gateway.of(Play, c)) for c in names))
    assert (await house.calls())["CA2"] == {"epoch": 1, "gateway": "gateway-a"}
    for call_id in names:
        gateway.play(call_id)
        gateway.say(call_id)
    await until(lambda: all(any(p.turn == 2 for p in gateway.of(Play, c)) for c in names))
    for call_id in names:
        gateway.hang_up(call_id)
    await house.calls_are()
    await until(lambda: len(house.journal.of(CallRecord)) == 3)
    assert house.plane.open_requests == 0
    status = await house.actor.status()
    assert status["tasks"] == 0
    assert house.plane.warmed == 1


async def test_reuse_for_many_calls_keeps_nothing(house):
    gateway = await house.gateway()
    for n in range(20):
        gateway.start(f"CA{n}")
        await house.calls_are(f"CA{n}")
        gateway.hang_up(f"CA{n}")
        await house.calls_are()
    assert not house.actor._kit.outbox._sources
    assert len(house.actor._lives) == 0
    await until(lambda: len(house.journal.of(CallRecord)) == 20)


async def test_one_call_failing_leaves_its_neighbour(house):
    gateway = await house.gateway()
    gateway.start("CA1")
    gateway.start("CA2")
    await house.calls_are("CA1", "CA2")
    house.actor._shells["CA1"]._machine.receive = None
    gateway.say("CA1")
    await house.calls_are("CA2")
    await until(lambda: [control.reason for control in gateway.of(Control, "CA1")][-1:] == ["failed"])
    await until(lambda: any(play.last for play in gateway.of(Play, "CA2")))
    gateway.play("CA2")
    gateway.say("CA2")
    await until(lambda: any(play.turn == 2 for play in gateway.of(Play, "CA2")))


async def test_a_call_too_many_is_hung_up(house):
    gateway = await house.gateway()
    for n in range(4):
        gateway.start(f"CA{n}")
    await until(lambda: gateway.of(Control, "CA3"))
    assert gateway.of(Control, "CA3")[0].reason == "full"
    await house.calls_are("CA0", "CA1", "CA2")


async def test_a_slot_is_free_while_the_last_of_a_call_stops():
    house = House(calls_per_actor=1)
    gateway = await house.gateway()
    gateway.start("CA1")
    await until(lambda: any(play.last and play.clause == 1 for play in gateway.of(Play, "CA1")))
    gateway.play("CA1")
    gateway.say("CA1")
    await until(lambda: house.plane.requests["search"])
    gate = house.plane.ends = Gate()
    gateway.say("CA1", utterance=2, at_ms=9000)
    await until(lambda: house.actor._shells["CA1"]._utterances.open)
    gateway.hang_up("CA1")
    gateway.start("CA2")
    await until(lambda: any(play.last for play in gateway.of(Play, "CA2")))
    assert not gateway.of(Control, "CA2")
    gate.open()
    await house.close()


async def test_detach_at_once_and_news_of_unknown_calls(house):
    gateway = await house.gateway()
    gateway.say("CA7")
    gateway.start("CA1")
    gateway.send(Detach("CA1", "caller_hung_up"))
    gateway.hang_up("CA1")
    await until(lambda: house.journal.of(CallRecord))
    await house.calls_are()


async def test_a_newer_epoch_takes_the_call_from_the_older_one(house):
    gateway = await house.gateway()
    gateway.start("CA1")
    await until(lambda: gateway.of(Snapshot, "CA1"))
    newest = gateway.of(Snapshot, "CA1")[-1].state
    gateway.start("CA1", epoch=2, snapshot=newest)
    await until(lambda: house.actor._shells["CA1"].epoch == 2)
    gateway.start("CA1", epoch=1)
    await asyncio.sleep(0.02)
    assert (await house.calls())["CA1"]["epoch"] == 2
    assert not house.journal.of(CallRecord)


async def test_a_snapshot_of_the_future_ends_the_call_in_words(house):
    gateway = await house.gateway()
    gateway.start("CA1", snapshot=msgspec.msgpack.encode({"version": 99}))
    await until(lambda: gateway.of(Control, "CA1"))
    assert gateway.of(Control, "CA1")[0].verb == "hang_up"


async def test_a_call_comes_back_by_another_gateway(house):
    gateway = await house.gateway()
    gateway.start("CA1")
    await until(lambda: any(play.last and play.clause == 1 for play in gateway.of(Play, "CA1")))
    gateway.play("CA1")
    await until(lambda: house.journal.of(TurnRecord))
    gateway.connection.abort("killed")
    await house.calls_are()
    assert (await house.actor.status())["orphans"] == ["CA1"]
    second = await house.gateway("gateway-b")
    second.start("CA1")
    await until(lambda: any(play.turn == 2 for play in second.of(Play, "CA1")))
    assert (await house.actor.status())["orphans"] == []
    second.hang_up("CA1")
    await house.calls_are()
    await until(lambda: house.journal.of(CallRecord))
    [record] = house.journal.of(CallRecord)
    assert record.counters["reconnects"] == 1


async def test_a_call_nobody_comes_back_for_is_recorded_as_lost():
    house = House(reserve_s=0.1)
    gateway = await house.gateway()
    gateway.start("CA1")
    await until(lambda: gateway.of(Snapshot, "CA1"))
    gateway.connection.abort("killed")
    await until(lambda: house.journal.of(CallRecord))
    assert house.journal.of(CallRecord)[0].end_reason == "gateway_lost"
    assert (await house.actor.status())["orphans"] == []
    await house.close()


async def test_operator_hangs_up_with_a_goodbye(house):
    gateway = await house.gateway()
    gateway.start("CA1")
    await house.calls_are("CA1")
    assert await house.actor.hang_up("CA1", "operator")
    assert not await house.actor.hang_up("CA7", "operator")
    await until(lambda: any(play.turn == 2 and play.last for play in gateway.of(Play, "CA1")))
    assert not any(play.interruptible for play in gateway.of(Play, "CA1") if play.turn == 2)
    async with asyncio.timeout(5):
        while not house.journal.of(CallRecord):
            gateway.play("CA1")
            await asyncio.sleep(0.02)
    assert house.journal.of(CallRecord)[0].end_reason == "operator"


async def test_a_message_of_the_wrong_direction_closes_the_link(house):
    gateway = await house.gateway()
    gateway.send(Snapshot("CA1", 1, b""))
    await asyncio.wait_for(gateway.connection.wait_closed(), 5)


async def test_stop_lets_go_of_calls_and_brings_records_to_the_journal():
    house = House()
    gateway = await house.gateway()
    gate = house.plane.gates["speak-middle"] = Gate()
    gateway.start("CA1")
    await until(lambda: gate.waiting)
    await house.actor.stop()
    await house.actor.stop()
    await asyncio.wait_for(gateway.connection.wait_closed(), 5)
    assert not gateway.of(Control, "CA1")
    assert house.plane.open_requests == 0
    assert house.journal.of(LogEntries)
    await house.close()


async def test_the_journal_away_costs_calls_nothing(house):
    house.journal.away = StorageError("gone")
    gateway = await house.gateway()
    gateway.start("CA1")
    await until(lambda: any(play.last for play in gateway.of(Play, "CA1")))
    assert (await house.actor.status())["journal_waiting"] > 0
    gateway.hang_up("CA1")
    await house.calls_are()
    house.journal.away = None
    await until(lambda: house.journal.of(CallRecord))


async def test_wrong_secret_is_refused(house):
    address = await house.actor.start()
    with pytest.raises(VoiceAgentError):
        await connect_link(address.host, address.port, name="x", secret="wrong")
