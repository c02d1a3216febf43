"""Gateway, link, call actor and dialog together, without Ray: only the engines and the dispatcher are stand-ins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_kit import GATEWAY, Bench, Caller, FakeDispatcher, make_context, silence, until, voice
from local_plane import ListJournal, LocalPlane

from actors.call.actor import CallActor, CallEdges
from actors.gateway.gateway import MediaGateway
from voice_agent.admission import HostAddress
from voice_agent.dialog.records import CallRecord, TurnRecord
from voice_agent.twilio.messages import OutClear, OutMark


class ActorHost:
    """A real call actor where the dispatcher expects a host."""

    def __init__(self, actor: CallActor, host_id: str, address: HostAddress) -> None:
        self.actor = actor
        self.host_id = host_id
        self.address = address


class Stage:
    """A gateway and two call actors."""

    def __init__(self, bench: Bench, hosts: list[ActorHost], plane: LocalPlane, journal: ListJournal) -> None:
        self.bench = bench
        self.hosts = hosts
        self.plane = plane
        self.journal = journal

    async def answer(self) -> Caller:
        """A call whose greeting was heard."""
        caller = await self.bench.dial()
        await caller.start(caller="+15550001")
        await until(lambda: len(caller.of(OutMark)) >= 1)
        await until(lambda: self.turns())
        return caller

    def turns(self) -> list[TurnRecord]:
        found: list[TurnRecord] = self.journal.of(TurnRecord)
        return found


@contextlib.asynccontextmanager
async def staged(tmp_path: Path, **sections: dict[str, Any]) -> AsyncIterator[Stage]:
    before = asyncio.all_tasks()
    turn = {"endpoint_ms": 200, "endpoint_short_ms": 150, "endpoint_long_ms": 300}
    context = make_context(tmp_path, **({"turn": turn, "calls": {"calls_per_actor": 4}} | sections))
    plane, journal = LocalPlane(), ListJournal()
    hosts = []
    for number in range(2):
        actor = CallActor(context, f"call-host-{number}", CallEdges(plane, journal, "127.0.0.1"))
        hosts.append(ActorHost(actor, f"call-host-{number}", await actor.start()))
    dispatcher = FakeDispatcher(hosts)  # type: ignore[arg-type]
    gateway = MediaGateway(context, GATEWAY, dispatcher)
    bench = Bench(gateway, dispatcher, (await gateway.start())["port"])
    try:
        yield Stage(bench, hosts, plane, journal)
    finally:
        for caller in bench.callers:
            await caller.close()
        await bench.until_empty()
        await gateway.stop()
        for host in hosts:
            status = await host.actor.status()
            assert (status["calls"], status["open_requests"]) == ({}, 0)
            await host.actor.stop()
    await until(lambda: asyncio.all_tasks() <= before)


async def ask(caller: Caller) -> None:
    await caller.audio(silence(300) + voice(500) + silence(900), pace=1.0)


async def test_a_conversation(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        caller = await stage.answer()
        assert len(caller.heard()) == 2 * 3200  # the greeting has two clauses
        await ask(caller)
        await until(lambda: len(stage.turns()) == 2)
        reply = stage.turns()[1]
        assert (reply.kind, reply.outcome) == ("reply", "completed")
        assert reply.caller_text_pii == "when do you open"
        assert reply.heard_text_pii == "We open at nine. Come in."
        assert reply.v2v_self_reported_ms is not None
        assert len(caller.heard()) == 4 * 3200
        await caller.stop()
        await stage.bench.until_empty()
        await until(lambda: stage.journal.of(CallRecord))
        assert stage.journal.of(CallRecord)[0].end_reason == "caller_hung_up"
        assert stage.journal.of(CallRecord)[0].caller_pii == "+15550001"


@pytest.mark.parametrize("moment", ["between", "replying"])
async def test_a_lost_stream_comes_back_to_the_same_dialog(tmp_path: Path, moment: str) -> None:
    async with staged(tmp_path) as stage:
        caller = await stage.answer()
        stage.plane.speech_ms = 700
        heard = len(caller.heard())
        await ask(caller)
        if moment == "replying":
            await until(lambda: len(caller.heard()) > heard + 1600)
        else:
            await until(lambda: len(stage.turns()) == 2)
        caller.die()
        await stage.bench.until_empty()
        assert stage.bench.dispatcher.released(caller.call_id) == ["stream_lost"]
        holder = stage.hosts[0].actor
        await until(lambda: holder._orphans is not None and caller.call_id in holder._orphans)
        assert not stage.journal.of(CallRecord)

        again = await stage.bench.dial(call_id=caller.call_id)
        await again.start(caller="+15550001")
        await until(lambda: len(stage.turns()) == 3)
        assert [turn.kind for turn in stage.turns()] == ["greeting", "reply", "reprompt"]
        assert stage.turns()[1].outcome == ("cut" if moment == "replying" else "completed")
        await ask(again)
        await until(lambda: len(stage.turns()) == 4)
        said = [message.content for message in stage.plane.requests["reply"][-1].messages]
        assert said.count("when do you open") == 2, "the history goes on"
        await again.stop()
        await until(lambda: stage.journal.of(CallRecord))
        [record] = stage.journal.of(CallRecord)
        assert (record.end_reason, record.caller_pii) == ("caller_hung_up", "+15550001")
        assert record.counters["reconnects"] == 1


async def test_a_lost_stream_nobody_comes_back_for_is_recorded_as_such(tmp_path: Path) -> None:
    async with staged(tmp_path, calls={"reserve_s": 1.0, "calls_per_actor": 4}) as stage:
        caller = await stage.answer()
        caller.die()
        await until(lambda: stage.journal.of(CallRecord))
        assert [record.end_reason for record in stage.journal.of(CallRecord)] == ["stream_lost"]


async def test_an_interruption_cuts_the_reply_and_is_answered(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        caller = await stage.answer()
        stage.plane.speech_ms = 2500
        await ask(caller)
        await until(lambda: len(caller.heard()) > 8000)
        # Asked for twice: while the caller still speaks over the agent, and at the pause.
        stage.plane.transcripts += ["no tell me where you are"] * 2
        stage.plane.speech_ms = 200
        await ask(caller)
        await until(lambda: len(stage.turns()) >= 3)
        cut, answer = stage.turns()[1], stage.turns()[2]
        assert (cut.outcome, answer.outcome) == ("interrupted", "completed")
        assert answer.caller_text_pii == "no tell me where you are"
        assert caller.of(OutClear)
        assert "We open at nine. Come in.".startswith(cut.heard_text_pii)


async def test_a_nod_only_holds_the_reply_for_a_moment(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        caller = await stage.answer()
        stage.plane.speech_ms = 1500  # a nod on a slow machine still falls into the reply
        await ask(caller)
        await until(lambda: len(caller.heard()) > 8000)
        stage.plane.transcripts.append("mhm")
        # Faster than it is spoken: at its own pace it is longer than a nod where the machine is slow.
        await caller.audio(voice(250) + silence(600), pace=0.25)
        await until(lambda: len(stage.turns()) == 2)
        assert stage.turns()[1].outcome == "completed"
        assert stage.turns()[1].heard_text_pii == "We open at nine. Come in."
        assert len(caller.of(OutClear)) == 1


@pytest.mark.parametrize("moment", ["greeting", "speaking", "thinking", "replying"])
async def test_the_actor_dies_and_the_conversation_goes_on(tmp_path: Path, moment: str) -> None:
    async with staged(tmp_path) as stage:
        first = stage.hosts[0].actor
        stage.plane.speech_ms = 700
        if moment == "greeting":
            caller = await stage.bench.dial()
            await caller.start()
            await until(lambda: len(caller.heard()) > 1600)
            await first.stop()
            await until(lambda: stage.turns())
            assert len(caller.heard()) == 2 * 5600
            await ask(caller)
        else:
            caller = await stage.answer()
            talking = asyncio.create_task(ask(caller))
            mark = len(caller.heard())
            if moment == "speaking":
                await until(lambda: caller.frames > 30)
            elif moment == "thinking":
                await until(lambda: stage.plane.requests["transcribe"])
            else:
                await until(lambda: len(caller.heard()) > mark + 1600)
            await first.stop()
            await talking
        await until(lambda: len(stage.turns()) >= 2)
        reply = stage.turns()[1]
        assert (reply.kind, reply.outcome) == ("reply", "completed")
        assert reply.caller_text_pii == "when do you open"
        assert len(caller.heard()) == 4 * 5600
        if moment == "speaking":
            heard = b""
            for request in stage.plane.requests["transcribe"]:
                if request.epoch == 2:
                    heard = heard[: request.offset_samples] + request.audio
            assert voice(500) in heard, "the new actor's recogniser gets all that was said before it came"
        assert [entry[0] for entry in stage.bench.dispatcher.asked].count("replace") == 1
