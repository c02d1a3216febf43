"""A call moves to another shell at any moment, and goes on."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from local_plane import POLICY, FakeGateway, Gate, ListJournal, LocalPlane, kit_of, until

from actors.call.shell import CallShell
from actors.link.messages import Attach
from voice_agent.dialog.events import ClausePlayed, PlayoutStarted, SpeechPaused, SpeechStarted
from voice_agent.dialog.machine import DialogMachine
from voice_agent.dialog.records import TurnRecord
from voice_agent.ports import ReplyChunk

FULL_REPLY = "We open at nine. Come in."


class Site:
    """A gateway that outlives shells, one shell at a time, and a journal."""

    def __init__(self):
        self.plane = LocalPlane()
        self.journal = ListJournal()
        self.gateway = FakeGateway()
        self.kit = kit_of(self.plane, self.journal)
        self.epoch = 0
        self.reported = set()
        self.outbox = asyncio.create_task(self.kit.outbox.run())

    def attach(self, snapshot=b"", *, now_ms=0, **options):
        self.epoch += 1
        attach = Attach("CA1", self.epoch, now_ms, "", "", "", snapshot)
        self.shell = CallShell(attach, self.gateway, self.kit, **options)
        self.run = asyncio.create_task(self.shell.run())

    async def kill(self):
        """The process dies: nothing is said any more."""
        self.run.cancel()
        await asyncio.gather(self.run, return_exceptions=True)
        return self.gateway.snapshots()[-1].state

    def say(self, utterance=1):
        now_ms = self.shell._now_ms()
        self.shell.deliver(SpeechStarted(utterance, now_ms))
        self.shell.audio(utterance, 0, b"\x01" * 8000)
        self.shell.deliver(SpeechPaused(utterance, now_ms))

    async def play_out(self, turn):
        """Report what is played until the turn is on record."""
        while not any(record.turn == turn for record in self.journal.of(TurnRecord)):
            for play in [play for play in self.gateway.plays() if play.turn == turn and play.last]:
                if (turn, play.clause) not in self.reported:
                    self.reported.add((turn, play.clause))
                    self.shell.deliver(PlayoutStarted(turn, play.clause, self.shell._now_ms()))
                    self.shell.deliver(ClausePlayed(turn, play.clause, self.shell._now_ms()))
            await asyncio.sleep(0.005)

    async def close(self):
        self.shell.detach("caller_hung_up")
        await asyncio.gather(self.run, return_exceptions=True)
        self.outbox.cancel()
        await asyncio.gather(self.outbox, return_exceptions=True)


@pytest.fixture
async def site():
    site = Site()
    yield site
    await site.close()
    assert site.plane.open_requests == 0


@pytest.mark.parametrize("stage", ["transcribe", "search", "reply", "reply-middle", "speak", "speak-middle"])
async def test_the_owner_dies_while_a_stage_works(site, stage):
    site.attach()
    await site.play_out(1)
    gate = site.plane.gates[stage] = Gate()
    site.say()
    await until(lambda: gate.waiting > 0)
    await asyncio.sleep(0.25)  # the endpoint passes, so that the reply is released while it is made
    snapshot = await site.kill()
    del site.plane.gates[stage]
    site.attach(snapshot, now_ms=site.shell._now_ms())
    if not site.gateway.controls("close_utterance"):
        site.say()
    await until(lambda: any(play.turn >= 2 for play in site.gateway.plays()))
    await asyncio.wait_for(site.play_out(max(play.turn for play in site.gateway.plays())), 5)
    record = site.journal.of(TurnRecord)[-1]
    assert record.kind == "reply"
    assert record.heard_text_pii == record.agent_text_pii == FULL_REPLY
    assert record.outcome == "completed"


async def test_a_model_that_answers_otherwise_the_second_time_is_not_mixed_with_the_first(site):
    site.attach()
    await site.play_out(1)
    gate = site.plane.gates["reply-middle"] = Gate()
    site.say()
    await until(lambda: gate.waiting > 0)
    await asyncio.sleep(0.25)
    snapshot = await site.kill()
    del site.plane.gates["reply-middle"]
    site.plane.reply_chunks = [ReplyChunk("We are closed. "), ReplyChunk("Sorry.", finish_reason="stop")]
    site.attach(snapshot, now_ms=site.shell._now_ms())
    await until(lambda: any(play.turn >= 2 for play in site.gateway.plays()))
    await asyncio.wait_for(site.play_out(max(play.turn for play in site.gateway.plays())), 5)
    assert site.journal.of(TurnRecord)[-1].heard_text_pii == "We open at nine."


async def test_the_owner_dies_in_the_greeting(site):
    gate = site.plane.gates["speak-middle"] = Gate()
    site.attach()
    await until(lambda: gate.waiting)
    snapshot = await site.kill()
    del site.plane.gates["speak-middle"]
    site.attach(snapshot, now_ms=500)
    await until(lambda: any(play.epoch == 2 and play.last for play in site.gateway.plays()))
    assert len([request for request in site.plane.requests["speak"] if request.turn == 1 and request.clause == 0]) == 2


async def test_deadlines_survive_the_move(site):
    site.attach()
    await site.play_out(1)
    await until(lambda: site.gateway.snapshots())
    await asyncio.sleep(0.02)
    before = site.shell._machine.next_deadline_ms()
    snapshot = await site.kill()
    site.attach(snapshot, now_ms=1000)
    await asyncio.sleep(0.02)
    assert site.shell._machine.next_deadline_ms() == before


async def test_another_gateway_starts_its_clock_again_and_the_caller_is_asked(site):
    site.attach(now_ms=60_000)
    await site.play_out(1)
    await asyncio.sleep(0.15)
    snapshot = await site.kill()
    spoken = len(site.gateway.plays())
    site.attach(snapshot, now_ms=40, reconnected=True)
    await until(lambda: len(site.gateway.plays()) > spoken)
    assert site.shell._machine.now_ms >= 60_000
    await site.play_out(2)
    assert site.journal.of(TurnRecord)[-1].kind == "reprompt"
    now_ms = site.shell._now_ms() - site.shell._shift_ms
    site.shell.from_gateway(SpeechStarted(1, now_ms))
    site.shell.audio(1, 0, b"\x01" * 8000)
    site.shell.from_gateway(SpeechPaused(1, now_ms))
    await asyncio.wait_for(site.play_out(3), 5)
    record = site.journal.of(TurnRecord)[-1]
    assert record.kind == "reply"
    assert record.times.speech_end_ms >= 60_000


async def test_a_call_that_came_back_from_another_gateway_moves_again_without_losing_time(site):
    site.attach(now_ms=60_000)
    await site.play_out(1)
    await asyncio.sleep(0.15)
    site.attach(await site.kill(), now_ms=40, reconnected=True)
    await site.play_out(2)
    await until(lambda: site.gateway.snapshots()[-1].epoch == site.epoch)
    shift_ms = site.shell._shift_ms
    assert shift_ms >= 59_000
    snapshot = await site.kill()
    site.attach(snapshot, now_ms=900)
    assert site.shell._shift_ms == shift_ms
    site.shell.from_gateway(SpeechStarted(1, 950))
    site.shell.audio(1, 0, b"\x01" * 8000)
    site.shell.from_gateway(SpeechPaused(1, 1000))
    await asyncio.wait_for(site.play_out(3), 5)
    assert site.journal.of(TurnRecord)[-1].kind == "reply"


async def test_a_goodbye_that_was_cut_by_a_lost_gateway_ends_the_call(site):
    machine = DialogMachine(POLICY, site.kit.machines.agent, "CA1")
    site.attach()
    await site.play_out(1)
    await site.kill()
    machine = DialogMachine.restore(msgspec.msgpack.decode(site.gateway.snapshots()[-1].state), POLICY, machine.agent)
    machine._say("Bye.", "goodbye", end_reason="goodbye")
    machine.take_commands()
    site.attach(msgspec.msgpack.encode(machine.snapshot()), now_ms=0, reconnected=True)
    await until(lambda: site.run.done())
    assert site.shell.ended
