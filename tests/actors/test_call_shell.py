"""One call in its shell, with scripted engines and a gateway that remembers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
from local_plane import POLICY, FakeGateway, Gate, ListJournal, LocalPlane, kit_of, until

from actors.call.outbox import CallBegan, LogEntries
from actors.call.shell import HANDED_OVER, CallShell
from actors.link.messages import Attach, Snapshot
from engines.simulated import SimulatedTextToSpeech
from voice_agent.dialog import snapshot
from voice_agent.dialog.event_log import event_from
from voice_agent.dialog.events import (
    ClausePlayed,
    PlayoutHeld,
    PlayoutStarted,
    SpeechPaused,
    SpeechStarted,
)
from voice_agent.dialog.machine import DialogMachine
from voice_agent.dialog.records import CallRecord, TurnRecord
from voice_agent.errors import EngineFailedError, EngineUnavailableError
from voice_agent.ports import ReplyChunk, SpeakRequest


class Call:
    """A running shell with its surroundings."""

    def __init__(self, plane=None, *, snapshot=b"", epoch=1, **kit):
        self.plane = plane or LocalPlane()
        self.journal = ListJournal()
        self.gateway = FakeGateway()
        self.kit = kit_of(self.plane, self.journal, **kit)
        attach = Attach("CA1", epoch, 0, "+491", "+492", "00-trace", snapshot)
        self.shell = CallShell(attach, self.gateway, self.kit)
        self.utterance = 0

    async def __aenter__(self):
        self.tasks = [asyncio.create_task(self.kit.outbox.run()), asyncio.create_task(self.shell.run())]
        return self

    async def __aexit__(self, *_):
        self.shell.detach("caller_hung_up")
        await asyncio.wait_for(self.tasks[1], 5)
        await self.kit.outbox.flush(2)
        self.tasks[0].cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def over(self):
        await asyncio.wait_for(asyncio.shield(self.tasks[1]), 5)

    async def played(self, turn):
        """Act as the gateway: report every clause of a turn as played once its last piece came."""
        seen = set()
        while True:
            plays = [play for play in self.gateway.plays() if play.turn == turn and play.last]
            for play in plays:
                if play.clause not in seen:
                    seen.add(play.clause)
                    self.shell.deliver(PlayoutStarted(turn, play.clause, self.shell._now_ms()))
                    self.shell.deliver(ClausePlayed(turn, play.clause, self.shell._now_ms()))
            if any(r.turn == turn for r in self.journal.of(TurnRecord)) or self.shell.ended:
                return
            await asyncio.sleep(0.005)

    def say(self, ms=1000):
        """The caller speaks an utterance and pauses."""
        self.utterance += 1
        now = self.shell._now_ms()
        self.shell.deliver(SpeechStarted(self.utterance, now))
        for offset in range(0, ms * 8, 800):
            self.shell.audio(self.utterance, offset, bytes([self.utterance]) * 800)
        self.shell.from_gateway(SpeechPaused(self.utterance, now))

    def fed(self, name):
        self.shell._log.flush()
        entries = [entry for record in self.journal.of(LogEntries) for entry in record.entries]
        return [entry for entry in entries if entry.get("event") == name]

    async def failed(self, stage):
        await until(lambda: any(e["stage"] == stage for e in self.fed("JobFailed")))
        return next(e for e in self.fed("JobFailed") if e["stage"] == stage)


def jobs_left():
    return [t.get_name() for t in asyncio.all_tasks() if t.get_name().startswith("CA1/")]


async def test_a_whole_call():
    async with Call() as call:
        await call.played(1)
        call.say()
        await until(lambda: any(p.turn == 2 for p in call.gateway.plays()))
        await call.played(2)
        assert call.plane.requests["search"][0].query == "when do you open"
        assert call.plane.requests["reply"][0].passages[0].source == "hours.md"
        clauses = [(p.turn, p.clause) for p in call.gateway.plays()]
        assert clauses == sorted(clauses)
    kinds = [record.kind for record in call.journal.of(TurnRecord)]
    assert kinds == ["greeting", "reply"]
    assert call.journal.of(TurnRecord)[1].heard_text_pii == "We open at nine. Come in."
    [ended] = call.journal.of(CallRecord)
    assert ended.end_reason == "caller_hung_up"
    [began] = call.journal.of(CallBegan)
    assert began.started_at_s == 1_000_000.0
    assert jobs_left() == []
    assert call.plane.open_requests == 0


async def test_event_log_replays_to_the_same_commands():
    async with Call() as call:
        await call.played(1)
        call.say()
        await until(lambda: any(p.turn == 2 for p in call.gateway.plays()))
        await call.played(2)
    entries = [entry for record in call.journal.of(LogEntries) for entry in record.entries]
    assert [entry["n"] for entry in entries] == list(range(1, len(entries) + 1))
    machine, names = DialogMachine(POLICY, call.kit.machines.agent, "CA1"), []
    for entry in entries:
        if "event" in entry:
            machine.receive(event_from(entry), entry["t_ms"])
        elif machine.next_deadline_ms() is not None and machine.next_deadline_ms() <= entry["t_ms"]:
            machine.on_deadline(entry["t_ms"])
        names += [type(command).__name__ for command in machine.take_commands()]
    assert names == [entry["command"] for entry in entries if "command" in entry]


async def test_log_keeps_what_people_say_under_pii_keys():
    async with Call() as call:
        await call.played(1)
        call.say()
        await until(lambda: any(p.turn == 2 for p in call.gateway.plays()))

    def walk(value, path=""):
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, f"{path}.{key}")
        elif isinstance(value, list):
            for item in value:
                yield from walk(item, path)
        else:
            yield path, value

    leaves = [leaf for r in call.journal.of(LogEntries) for e in r.entries for leaf in walk(e)]
    said = [path for path, value in leaves if "when do you open" in str(value) or "+491" in str(value)]
    assert said
    assert all("pii" in path for path in said)
    assert not [path for path, value in leaves if isinstance(value, bytes)]


@pytest.mark.parametrize("stage", ["search", "reply", "reply-middle", "speak", "speak-middle", "transcribe"])
async def test_hang_up_in_every_state_leaves_nothing(stage):
    plane = LocalPlane()
    async with Call(plane) as call:
        await call.played(1)
        gate = plane.gates[stage] = Gate()
        call.say()
        await until(lambda: gate.waiting > 0)
    assert jobs_left() == []
    assert plane.open_requests == 0
    assert gate.waiting == 0
    if stage.split("-")[0] in plane.closed:
        assert plane.closed[stage.split("-")[0]] == 1


async def test_hang_up_before_anything_happened():
    async with Call() as call:
        pass
    assert [record.end_reason for record in call.journal.of(CallRecord)] == ["caller_hung_up"]
    assert jobs_left() == []


async def test_caller_going_on_cancels_the_speculative_reply_down_to_the_engine():
    plane = LocalPlane()
    # An endpoint far away: the caller goes on before it, however busy the machine is.
    async with Call(plane, policy=POLICY.__class__(endpoint_ms=60_000, endpoint_short_ms=60_000)) as call:
        await call.played(1)
        plane.gates["reply-middle"] = gate = Gate()
        call.say()
        await until(lambda: gate.waiting > 0)
        call.say()
        await until(lambda: plane.closed["reply"] == 1)
        del plane.gates["reply-middle"]
    assert not [play for play in call.gateway.plays() if play.turn == 2]


async def test_nothing_is_played_before_release():
    async with Call(policy=POLICY.__class__(endpoint_ms=60_000, endpoint_short_ms=60_000)) as call:
        await call.played(1)
        call.say()
        await until(lambda: call.fed("SpeechSynthesised") and call.fed("SpeechSynthesised")[-1]["turn"] == 2)
        await asyncio.sleep(0.02)
        assert not [play for play in call.gateway.plays() if play.turn == 2]


async def test_barge_in_clears_and_cancels():
    plane = LocalPlane()
    async with Call(plane) as call:
        plane.gates["speak-middle"] = gate = Gate()
        await until(lambda: call.gateway.plays() and gate.waiting)
        call.shell.deliver(PlayoutStarted(1, 0, 10))
        plane.transcripts.append("what about the parking")
        call.shell.deliver(PlayoutHeld(1, 0, 100, call.shell._now_ms()))
        call.say()
        await until(lambda: call.gateway.controls("clear"))
        assert call.gateway.controls("hold")
        assert plane.closed["speak"] == 1
        clear = call.gateway.sent.index(call.gateway.controls("clear")[0])
        assert not [m for m in call.gateway.sent[clear:] if getattr(m, "turn", 2) == 1]


async def test_need_from_sends_the_utterance_again():
    plane = LocalPlane()
    async with Call(plane) as call:
        await call.played(1)
        plane.need_from.append(0)
        call.say(1000)
        await until(lambda: call.fed("PassagesReady"))
    offsets = [(r.offset_samples, len(r.audio)) for r in plane.requests["transcribe"] if not r.end]
    assert offsets[:2] == [(0, 8000), (0, 8000)]


async def test_a_replica_that_never_has_enough_is_given_up():
    plane = LocalPlane()
    async with Call(plane) as call:
        await call.played(1)
        plane.need_from.extend([0] * 20)
        call.say()
        assert (await call.failed("transcribe"))["code"] == "engine_failed"
        plane.need_from.clear()


async def test_partials_are_pushed_one_request_at_a_time():
    plane = LocalPlane(push_interval_ms=100)
    async with Call(plane) as call:
        await call.played(1)
        gate = plane.gates["transcribe"] = Gate()
        call.shell.deliver(SpeechStarted(1, 0))
        call.shell.audio(1, 0, b"\x01" * 800)
        await until(lambda: gate.waiting == 1)
        call.shell.audio(1, 800, b"\x01" * 3200)
        call.shell.deliver(SpeechPaused(1, 0))
        await asyncio.sleep(0.02)
        assert gate.waiting == 1
        gate.open()
        await until(lambda: call.fed("PassagesReady"))
    requests = [r for r in plane.requests["transcribe"] if not r.end]
    assert [r.flush for r in requests] == [False, True]
    assert sum(len(r.audio) for r in requests) == 4000
    assert requests[1].offset_samples == len(requests[0].audio)


async def test_closing_an_utterance_tells_gateway_and_replica():
    plane = LocalPlane()
    async with Call(plane) as call:
        await call.played(1)
        call.say()
        await until(lambda: call.gateway.controls("close_utterance"))
        await until(lambda: any(r.end for r in plane.requests["transcribe"]))
    assert call.gateway.controls("close_utterance")[0].number == 1


@pytest.mark.parametrize(("stage", "event"), [("search", "PassagesReady"), ("reply", "ReplyReceived")])
async def test_one_retry_on_a_dead_replica(stage, event):
    plane = LocalPlane()
    async with Call(plane) as call:
        await call.played(1)
        plane.failures[stage].append(EngineFailedError("died"))
        call.say()
        await until(lambda: call.fed(event))
        assert not call.fed("JobFailed")
    assert len(plane.requests[stage]) == 2


async def test_transcription_is_replayed_whole_on_the_retry():
    plane = LocalPlane(push_interval_ms=100)
    async with Call(plane) as call:
        await call.played(1)
        call.shell.deliver(SpeechStarted(1, 0))
        call.shell.audio(1, 0, b"\x01" * 800)
        await until(lambda: len(plane.requests["transcribe"]) == 1)
        await asyncio.sleep(0.01)
        plane.failures["transcribe"].append(EngineFailedError("died"))
        call.shell.audio(1, 800, b"\x01" * 800)
        await until(lambda: len(plane.requests["transcribe"]) == 3)
    assert [(r.offset_samples, len(r.audio)) for r in plane.requests["transcribe"][:3]] == [
        (0, 800),
        (800, 800),
        (0, 1600),
    ]


async def test_two_failures_end_the_job_once():
    plane = LocalPlane()
    async with Call(plane) as call:
        await call.played(1)
        plane.failures["search"].extend([EngineFailedError("died"), EngineFailedError("died")])
        call.say()
        assert (await call.failed("retrieve"))["code"] == "engine_failed"
        assert len(call.fed("JobFailed")) == 1


async def test_what_cannot_be_helped_is_not_retried():
    plane = LocalPlane()
    async with Call(plane) as call:
        await call.played(1)
        plane.failures["search"].append(EngineUnavailableError("no index"))
        call.say()
        assert (await call.failed("retrieve"))["code"] == "engine_unavailable"
    assert len(plane.requests["search"]) == 1


async def test_a_stream_that_has_given_something_is_not_opened_again():
    plane = LocalPlane()
    plane.reply_chunks = [ReplyChunk("We open at nine. "), ReplyChunk("Never said.", finish_reason="stop")]
    async with Call(plane) as call:
        await call.played(1)
        plane.fail_after_first["reply"] = True
        call.say()
        assert (await call.failed("generate"))["code"] == "engine_failed"
    assert len(plane.requests["reply"]) == 1


async def test_a_stream_without_an_end_is_a_failure():
    plane = LocalPlane()
    plane.reply_chunks = [ReplyChunk("We open")]
    async with Call(plane) as call:
        await call.played(1)
        call.say()
        assert (await call.failed("generate"))["code"] == "engine_failed"


async def spoken_of_turn_2(*deaths, engines=("", "", "")):
    """The audio of a reply whose voice's replicas die, what the dialog was told of it, and the call."""
    plane = LocalPlane()
    plane.reply_chunks = [ReplyChunk("We open at nine every single morning.", finish_reason="stop")]
    async with Call(plane, policy=replace(POLICY, speculate=False)) as call:
        await call.played(1)
        voice = SimulatedTextToSpeech(first_audio_ms=0, speed=1000)
        chunks = [chunk async for chunk in voice.speak(SpeakRequest("", 0, 0, plane.reply_chunks[0].text, "words"))]
        plane.speech.extend([replace(chunk, engine=engine) for chunk in chunks] for engine in engines)
        plane.deaths["speak"].extend(deaths)
        call.say()
        await call.played(2)
        await until(lambda: len(call.journal.of(TurnRecord)) == 2)
        heard = b"".join(play.audio for play in call.gateway.plays() if play.turn == 2)
        told = [event for event in call.fed("SpeechSynthesised") if event["turn"] == 2][-1]
        del told["n"], told["t_ms"]
        return heard, told, call


async def test_a_voice_whose_replica_dies_in_the_middle_of_a_clause_goes_on_with_the_rest():
    whole, told, _ = await spoken_of_turn_2()
    heard, told_again, call = await spoken_of_turn_2(3, 5)
    assert (heard, told_again) == (whole, told)
    assert told["word_ends_ms"][-1] == told["duration_ms"] == len(whole) // 8
    record = call.journal.of(TurnRecord)[1]
    assert (record.heard_text_pii, record.failed_stages) == ("We open at nine every single morning.", ())


async def test_where_another_engine_answers_the_whole_clause_is_said_again():
    whole, *_ = await spoken_of_turn_2()
    heard, _, call = await spoken_of_turn_2(3, engines=("coqui", "flite", "flite"))
    assert heard.endswith(whole)
    assert heard[: -len(whole)] == whole[: 3 * 1600]
    assert [request.again for request in call.plane.requests["speak"]][-2:] == [False, True]
    record = call.journal.of(TurnRecord)[1]
    assert (record.heard_text_pii, record.failed_stages) == ("We open at nine every single morning.", ("synthesise",))


@pytest.mark.parametrize(
    ("gate", "stage"),
    [("search", "retrieve"), ("reply", "generate"), ("reply-middle", "generate"), ("transcribe", "transcribe")],
)
async def test_a_silent_stage_runs_into_its_deadline(gate, stage):
    plane = LocalPlane()
    async with Call(plane, patience_s=0.1) as call:
        await call.played(1)
        plane.gates[gate] = Gate()
        call.say()
        assert (await call.failed(stage))["code"] == "deadline_exceeded"
        del plane.gates[gate]
    assert plane.open_requests == 0


async def test_a_fault_in_one_call_is_a_hang_up_and_a_record():
    async with Call() as call:
        call.shell._machine.receive = None
        call.say()
        await call.over()
        await until(lambda: call.journal.of(CallRecord))
    assert [c.reason for c in call.gateway.controls("hang_up")] == ["failed"]
    assert [record.end_reason for record in call.journal.of(CallRecord)] == ["failed"]
    assert jobs_left() == []


async def test_an_engine_bug_that_escapes_the_plane_ends_only_the_call():
    plane = LocalPlane()
    async with Call(plane) as call:
        await call.played(1)
        plane.failures["search"].append(ZeroDivisionError())
        call.say()
        await call.over()
    assert [record.end_reason for record in call.journal.of(CallRecord)] == ["failed"]
    assert plane.open_requests == 0


async def test_hand_over_keeps_the_dialog_and_records_nothing():
    async with Call() as call:
        await call.played(1)
        await until(lambda: call.gateway.snapshots())
        call.shell.detach(HANDED_OVER)
        await call.over()
        assert not call.gateway.controls("hang_up")
    assert not call.journal.of(CallRecord)
    newest = call.gateway.snapshots()[-1].state
    assert msgspec.msgpack.decode(newest)["call_id"] == "CA1"
    async with Call(snapshot=newest, epoch=2) as second:
        second.utterance = 1
        second.say()
        await until(lambda: any(p.turn == 2 for p in second.gateway.plays()))
        assert second.gateway.plays()[0].epoch == 2
        assert not second.journal.of(CallBegan)


async def test_snapshots_only_when_the_state_moved():
    async with Call() as call:
        await call.played(1)
        await asyncio.sleep(0.15)
        before = len(call.gateway.snapshots())
        call.shell._wake.set()
        await asyncio.sleep(0.02)
        assert len(call.gateway.snapshots()) == before
    states = [snapshot.state for snapshot in call.gateway.snapshots()]
    assert all(a != b for a, b in pairwise(states))


async def test_a_request_to_an_engine_alone_does_not_hurry_the_state():
    async with Call() as call:
        await call.played(1)
        await until(lambda: call.shell._snapshot_due_s is None and not call.shell._events)
        before = len(call.gateway.snapshots())
        call.say()
        for _ in range(10):
            await asyncio.sleep(0)
            if call.shell._machine._s.jobs:
                break
        assert len(call.gateway.snapshots()) == before
        await until(lambda: len(call.gateway.snapshots()) > before)


async def test_what_must_not_be_done_twice_is_told_at_once():
    async with Call() as call:
        await call.played(1)
        call.say()
        await until(lambda: any(play.turn == 2 for play in call.gateway.plays()))
        first = next(n for n, message in enumerate(call.gateway.sent) if getattr(message, "turn", 0) == 2)
        state = next(m.state for m in call.gateway.sent[first:] if isinstance(m, Snapshot))
        assert msgspec.msgpack.decode(state)["state"]["reply"]["released"]
        call.shell.detach("handed_over")
        await call.over()
        kept, _ = snapshot.load(msgspec.msgpack.decode(call.shell.snapshot))
        assert kept == call.shell._machine._s


async def test_events_without_end_fail_the_call():
    async with Call() as call:
        for _ in range(5000):
            call.shell.deliver(ClausePlayed(9, 9, 0))
        await call.over()
    assert [record.end_reason for record in call.journal.of(CallRecord)] == ["failed"]


async def test_a_busy_plane_prepares_nothing_that_may_be_thrown_away():
    plane = LocalPlane()
    async with Call(plane, policy=POLICY.__class__(endpoint_ms=60_000, endpoint_short_ms=60_000)) as call:
        await call.played(1)
        plane.load = 0.95
        call.say()
        await until(lambda: call.fed("TranscriptReady"))
        await asyncio.sleep(0.02)
        assert [event["level"] for event in call.fed("LoadChanged")] == [0.95]
        assert not call.fed("PassagesReady")
