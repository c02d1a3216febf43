"""The director of a free call: every turn is the language model's."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from voice_agent.dialog.policy import AgentPhrases
from voice_agent.plan import CallerInput, Checked, Memory, Outcome, Plan
from voice_agent.ports import ToolCall

END_CALL: Final = "end_call"
TRANSFER: Final = "transfer"


class FreeDirector:
    """No flow, no policies: every turn is the language model's.

    ``transfer_targets``: names a model may transfer to; None: it may name any, and the carrier's side decides.
    """

    def __init__(self, phrases: AgentPhrases, transfer_targets: Collection[str] | None = None) -> None:
        self._phrases = phrases
        self._transfer_targets = transfer_targets

    def opening(self) -> Plan:
        """The greeting."""
        return Plan(Memory(), self._phrases.greeting)

    def answer(self, memory: Memory, caller: CallerInput) -> Plan:
        """Ask the model; keys are read out to it."""
        text = caller.text or " ".join(caller.digits)
        return Plan(memory, ask_model=True, model_text=text)

    def tool_done(self, memory: Memory, outcome: Outcome) -> Plan:
        """Say what the tool says."""
        return Plan(memory, outcome.say)

    def model_tool(self, memory: Memory, call: ToolCall) -> Plan | None:
        """``end_call`` and ``transfer`` end the call; everything else is run.

        So is a transfer to somebody who is not listed: it fails, and the model is told.
        """
        if call.name == END_CALL:
            return Plan(memory, end_reason="goodbye")
        target = str(call.arguments.get("target", ""))
        if call.name == TRANSFER and (self._transfer_targets is None or target in self._transfer_targets):
            return Plan(memory, end_reason=f"transfer:{target}")
        return None

    def model_done(self, memory: Memory, finish_reason: str) -> Plan:
        """Leave it at the model's own words."""
        return Plan(memory)

    def reprompt(self, memory: Memory) -> str:
        """The agent's own phrase."""
        return self._phrases.reprompt

    def keys_wanted(self, memory: Memory) -> int:
        """Until a pause."""
        return 0

    def finished(self, memory: Memory, text: str) -> bool | None:
        """Nothing was asked."""
        return None

    def check(self, clause: str, before: str = "") -> Checked:
        """Everything may be said."""
        return Checked(clause)

    def redact(self, text: str) -> str:
        """Everything may be kept."""
        return text
