"""The director: scripted flow, policies and the language model in one call, as pure decisions."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from voice_agent.dialog.policy import AgentPhrases
from voice_agent.plan import CallerInput, Checked, Memory, Outcome, Plan
from voice_agent.ports import ToolCall

if TYPE_CHECKING:
    from voice_agent.flow.runner import FlowRunner, FlowStep
    from voice_agent.policy.engine import PolicyAction, PolicyEngine

END_CALL: Final = "end_call"
TRANSFER: Final = "transfer"


class FreeDirector:
    """No flow, no policies: every turn is the language model's."""

    def __init__(self, phrases: AgentPhrases) -> None:
        self._phrases = phrases

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
        """``end_call`` and ``transfer`` end the call; everything else is run."""
        if call.name == END_CALL:
            return Plan(memory, end_reason="goodbye")
        if call.name == TRANSFER:
            return Plan(memory, end_reason=f"transfer:{call.arguments.get('target', '')}")
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

    def check(self, clause: str) -> Checked:
        """Everything may be said."""
        return Checked(clause)

    def redact(self, text: str) -> str:
        """Everything may be kept."""
        return text


class CallDirector(FreeDirector):
    """Policies first, then the flow where there is one, then the language model."""

    def __init__(
        self, phrases: AgentPhrases, policy: PolicyEngine, flow: FlowRunner | None = None, *, escalate_to: str = ""
    ) -> None:
        super().__init__(phrases)
        self._policy = policy
        self._flow = flow
        self._escalate_to = escalate_to

    def opening(self) -> Plan:
        """Disclosures, then the flow's first words or the greeting."""
        disclosures = " ".join(self._policy.disclosures())
        plan = super().opening() if self._flow is None else self._of_step(Memory(), self._flow.begin(), CallerInput())
        return replace(plan, say=_join(disclosures, plan.say))

    def answer(self, memory: Memory, caller: CallerInput) -> Plan:
        """What a rule demands, else what the flow says, else the model."""
        memory = deepcopy(memory)
        verdict = self._policy.heard(caller.text, memory.counts)
        memory.counts = dict(verdict.counts)
        if verdict.action is not None:
            return replace(self._of_action(memory, verdict.action), model_text=verdict.text, findings=verdict.findings)
        if self._flow is not None and memory.position is not None:
            step = self._flow.on_caller(memory.position, caller.text, caller.digits)
            return replace(self._of_step(memory, step, caller), model_text=verdict.text, findings=verdict.findings)
        plan = super().answer(memory, replace(caller, text=verdict.text))
        return replace(plan, findings=verdict.findings)

    def tool_done(self, memory: Memory, outcome: Outcome) -> Plan:
        """The flow goes on with the result."""
        memory = deepcopy(memory)
        if self._flow is None or memory.position is None:
            return super().tool_done(memory, outcome)
        return self._of_step(memory, self._flow.on_tool(memory.position, outcome), CallerInput())

    def model_done(self, memory: Memory, finish_reason: str) -> Plan:
        """After ``failures`` in a row the policies may hand the call to a human; an answer starts the count again."""
        memory = deepcopy(memory)
        memory.counts["failures"] = memory.counts.get("failures", 0) + 1 if finish_reason == "gated" else 0
        action = self._policy.after_failures(memory.counts)
        return self._of_action(memory, action) if action is not None else Plan(memory)

    def reprompt(self, memory: Memory) -> str:
        """The question the flow waits on, else the agent's own phrase."""
        prompt = self._flow.prompt(memory.position) if self._flow is not None and memory.position is not None else ""
        return prompt or super().reprompt(memory)

    def keys_wanted(self, memory: Memory) -> int:
        """One at a menu, the slot's length at a slot."""
        if self._flow is None or memory.position is None:
            return 0
        return self._flow.keys_wanted(memory.position)

    def finished(self, memory: Memory, text: str) -> bool | None:
        """Whether the slot that was asked for is filled."""
        if self._flow is None or memory.position is None:
            return None
        return self._flow.finished(memory.position, text)

    def check(self, clause: str) -> Checked:
        """The output rules."""
        verdict = self._policy.about_to_say(clause)
        return Checked(verdict.text, verdict.action is not None, verdict.findings)

    def redact(self, text: str) -> str:
        """Private data masked."""
        return self._policy.redact(text)

    def _of_action(self, memory: Memory, action: PolicyAction) -> Plan:
        kinds: dict[str, Callable[[], str]] = {
            "end_call": lambda: "policy",
            "transfer": lambda: f"transfer:{action.target or self._escalate_to}",
        }
        end_reason = kinds.get(action.kind, str)()
        return Plan(memory, action.say, end_reason=end_reason, interruptible=not end_reason)

    def _of_step(self, memory: Memory, step: FlowStep, caller: CallerInput) -> Plan:
        memory.position = step.position
        plan = Plan(memory, step.say, interruptible=step.interruptible, tool=step.tool)
        if step.action == "model":
            return replace(plan, ask_model=True, model_text=caller.text or " ".join(caller.digits))
        if step.action == "transfer":
            return replace(plan, end_reason=f"transfer:{step.target}")
        if step.action == "hang_up":
            return replace(plan, end_reason=step.target or "goodbye")
        return plan


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)
