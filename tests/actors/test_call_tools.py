"""Tools inside a call: asked for by the model, run once released, told back, spoken, pressed, refused."""

from __future__ import annotations

import json

import pytest
from local_plane import PHRASES, POLICY, Gate, LocalPlane, until
from test_call_shell import Call

from actors.call.kit import DialogMachines
from actors.call.shell import HANDED_OVER
from voice_agent.audio.dtmf import mulaw_tones
from voice_agent.dialog.commands import Synthesise
from voice_agent.dialog.events import CallStarted
from voice_agent.dialog.machine import DialogMachine
from voice_agent.dialog.records import CallRecord, TurnRecord
from voice_agent.dialog.reply import Clause
from voice_agent.errors import EngineFailedError, EngineUnavailableError
from voice_agent.plan import Outcome
from voice_agent.ports import ReplyChunk, ToolCall

SALES_ONLY = DialogMachines(POLICY, PHRASES, frozenset({"sales"}))


class ToolPlane(LocalPlane):
    """The model asks for one tool, then says something when it is told the result."""

    def __init__(self, name, /, **arguments):
        super().__init__()
        self.call = ToolCall(name, arguments)

    async def reply(self, request):
        self.requests["reply"].append(request)
        if request.messages[-1].role == "tool":
            yield ReplyChunk("There you are.", finish_reason="stop")
        else:
            yield ReplyChunk(tool_call=self.call)
            yield ReplyChunk(finish_reason="tool")

    def told(self):
        return json.loads(self.requests["reply"][-1].messages[-1].content)


async def answered(call):
    await call.played(1)
    call.say()
    await call.played(2)
    return next(record for record in call.journal.of(TurnRecord) if record.turn == 2)


async def test_a_tool_is_run_under_its_key_and_its_result_told_to_the_model():
    plane = ToolPlane("look_up_order", order_number="1001")
    plane.outcomes["look_up_order"] = Outcome("look_up_order", True, {"status": "on its way"})
    async with Call(plane) as call:
        record = await answered(call)
    (request,) = plane.requests["tool"]
    assert (request.idempotency_key, request.call_id, request.traceparent) == ("CA1/2/0", "CA1", "00-trace")
    assert request.arguments == {"order_number": "1001"}
    told = plane.told()
    assert (told["ok"], told["result"], told["arguments"]) == (
        True,
        {"status": "on its way"},
        {"order_number": "1001"},
    )
    assert (record.tool_calls, record.agent_text_pii, record.outcome) == (
        ("look_up_order",),
        "There you are.",
        "completed",
    )


@pytest.mark.parametrize(
    ("failures", "tries", "error"),
    [
        ([EngineFailedError("replica died")], 2, ""),
        ([EngineFailedError("died"), EngineFailedError("died again")], 2, "engine_failed"),
        ([EngineUnavailableError("gone")], 1, "engine_unavailable"),
    ],
)
async def test_a_tool_is_tried_once_more_where_that_may_help(failures, tries, error):
    plane = ToolPlane("look_up_order", order_number="1001")
    plane.failures["tool"].extend(failures)
    async with Call(plane) as call:
        await answered(call)
    assert {request.idempotency_key for request in plane.requests["tool"]} == {"CA1/2/0"}
    assert len(plane.requests["tool"]) == tries
    assert (plane.told()["ok"], plane.told()["error"]) == (not error, error)


async def test_a_tool_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr("actors.call.tool_jobs.TOOL_MARGIN_S", 0.0)
    plane = ToolPlane("look_up_order", order_number="1001")
    plane.gates["tool"] = Gate()
    async with Call(plane) as call:
        await answered(call)
    assert plane.told()["error"] == "deadline_exceeded"
    assert plane.open_requests == 0


async def test_a_tool_nobody_declared_is_told_as_unknown():
    plane = ToolPlane("order_pizza")
    async with Call(plane) as call:
        await answered(call)
    assert not plane.requests["tool"]
    assert plane.told()["error"] == "unknown_tool"


async def test_hang_up_while_a_tool_runs_leaves_nothing():
    plane = ToolPlane("look_up_order", order_number="1001")
    gate = plane.gates["tool"] = Gate()
    async with Call(plane) as call:
        await call.played(1)
        call.say()
        await until(lambda: gate.waiting > 0)
    assert (gate.waiting, plane.open_requests) == (0, 0)


async def test_keys_are_pressed_in_the_agents_audio_and_the_turn_goes_on():
    plane = ToolPlane("send_dtmf", digits="1 5 #")
    async with Call(plane) as call:
        record = await answered(call)
    audio = {}
    for play in call.gateway.plays():
        if play.turn == 2:
            audio[play.clause] = audio.get(play.clause, b"") + play.audio
    assert audio[0] == mulaw_tones("15#")
    assert len(audio) == 2
    assert not plane.requests["tool"]
    assert (record.agent_text_pii, record.heard_text_pii) == ("There you are.", "There you are.")


async def test_keys_a_telephone_does_not_have_are_told_as_bad_arguments():
    plane = ToolPlane("send_dtmf", digits="12x")
    async with Call(plane) as call:
        await answered(call)
    assert plane.told()["error"] == "bad_arguments"


async def test_a_transfer_ends_the_call_with_its_target():
    plane = ToolPlane("transfer", target="sales")
    async with Call(plane, machines=SALES_ONLY) as call:
        await call.played(1)
        call.say()
        await call.over()
    assert [control.reason for control in call.gateway.controls("hang_up")] == ["transfer:sales"]
    assert [record.end_reason for record in call.journal.of(CallRecord)] == ["transfer:sales"]


async def test_a_transfer_to_somebody_who_is_not_listed_is_refused_and_told():
    plane = ToolPlane("transfer", target="+4912345")
    async with Call(plane, machines=SALES_ONLY) as call:
        await answered(call)
    assert (plane.told()["error"], plane.told()["result"]) == ("unknown_target", {"known": "sales"})
    assert [record.end_reason for record in call.journal.of(CallRecord)] == ["caller_hung_up"]


async def test_whoever_takes_the_call_over_asks_under_the_same_key():
    plane = ToolPlane("look_up_order", order_number="1001")
    gate = plane.gates["tool"] = Gate()
    async with Call(plane) as call:
        await call.played(1)
        call.say()
        await until(lambda: gate.waiting > 0)
        snapshot = call.gateway.snapshots()[-1].state
        call.shell.detach(HANDED_OVER)
        await call.over()
    del plane.gates["tool"]
    async with Call(plane, snapshot=snapshot, epoch=2) as heir:
        await heir.played(2)
    assert [request.idempotency_key for request in plane.requests["tool"]] == ["CA1/2/0", "CA1/2/0"]
    assert plane.told()["ok"]


async def test_a_tool_that_has_run_is_not_asked_for_again_after_a_take_over():
    plane = ToolPlane("look_up_order", order_number="1001")
    gate = Gate()

    async def reply(request):
        plane.requests["reply"].append(request)
        if request.messages[-1].role != "tool":
            yield ReplyChunk(tool_call=plane.call)
            yield ReplyChunk(finish_reason="tool")
            return
        await gate()
        yield ReplyChunk("There you are.", finish_reason="stop")

    plane.reply = reply
    async with Call(plane) as call:
        await call.played(1)
        call.say()
        await until(lambda: gate.waiting > 0)
        call.shell.detach(HANDED_OVER)
        await call.over()
    gate.open()
    async with Call(plane, snapshot=call.gateway.snapshots()[-1].state, epoch=2) as heir:
        await heir.played(2)
    assert len(plane.requests["tool"]) == 1
    assert [record.agent_text_pii for record in heir.journal.of(TurnRecord) if record.turn == 2] == ["There you are."]


def test_keys_that_were_to_be_pressed_are_pressed_by_whoever_takes_over():
    machine = DialogMachine(POLICY, PHRASES, "CA1")
    machine.receive(CallStarted("CA1"), 0)
    machine._s.reply.clauses[1:] = [Clause("", asked=True, keys="15#")]
    machine._s.jobs.add(("synthesise", 1, 1))
    heir = DialogMachine.restore(machine.snapshot(), POLICY, PHRASES)
    heir.reopen()
    assert Synthesise(1, 1, "", "15#") in heir.take_commands()
