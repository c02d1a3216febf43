"""How a call runs tools: those that change only the call itself here, all others on the model plane."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from actors.call.jobs import answer_of
from actors.call.plane import ModelPlane
from voice_agent import tools
from voice_agent.dialog.commands import RunTool
from voice_agent.plan import Outcome
from voice_agent.tools import BadArgumentsError, ToolRequest, ToolSpec

TOOL_MARGIN_S: Final = 1.5
"""Beyond a tool's own timeout: the way there and back, and one more try at another replica."""


async def outcome_of(plane: ModelPlane, call_id: str, traceparent: str, command: RunTool, *, epoch: int = 0) -> Outcome:
    """Run a tool for the owner of the call that ``epoch`` numbers, and give its outcome.

    Raises:
        DeadlineExceededError: no answer within the tool's timeout and a margin.
        VoiceAgentError: what the second try raised.
    """
    spec = plane.tool_specs.get(command.name)
    if spec is None:
        return Outcome(command.name, False, code=tools.UNKNOWN_TOOL)
    if spec.kind in tools.IN_CALL:
        return _in_call(spec, command)
    request = ToolRequest(
        call_id=call_id,
        turn=command.turn,
        index=command.index,
        name=command.name,
        arguments=command.arguments,
        idempotency_key=tools.idempotency_key(call_id, command.turn, command.index),
        traceparent=traceparent,
        epoch=epoch,
    )
    give_up_at_s = asyncio.get_running_loop().time() + spec.timeout_ms / 1000 + TOOL_MARGIN_S
    return await answer_of(lambda: plane.run_tool(request), give_up_at_s)


def _in_call(spec: ToolSpec, command: RunTool) -> Outcome:
    if spec.kind == tools.SEND_DTMF:
        return _keys(spec, command.arguments)
    if spec.kind == tools.TRANSFER:
        return _not_transferred(spec, command.arguments)
    return Outcome(spec.name, True)


def _keys(spec: ToolSpec, arguments: Mapping[str, Any]) -> Outcome:
    """The keys that the dialog has pressed after what the turn has said so far."""
    try:
        return Outcome(spec.name, True, {"keys": tools.dtmf_digits(arguments)})
    except BadArgumentsError as error:
        return tools.bad_arguments(spec, error)


def _not_transferred(spec: ToolSpec, arguments: Mapping[str, Any]) -> Outcome:
    """A transfer that can be done ends the call by a plan and never comes here."""
    known = [choice for parameter in spec.parameters for choice in parameter.choices]
    if arguments.get("target") in known:
        return Outcome(spec.name, False, {"reason": "a call is transferred by a plan of its own"}, code=tools.REFUSED)
    return Outcome(spec.name, False, {"known": ", ".join(known)}, tools.CANNOT_TRANSFER, tools.UNKNOWN_TARGET)
