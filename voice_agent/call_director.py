"""The director of a scripted and policed call: policies first, then the flow, then the language model."""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from dataclasses import replace
from typing import Final

from voice_agent.dialog.policy import AgentPhrases
from voice_agent.director import FreeDirector
from voice_agent.flow.runner import FlowRunner, FlowStep
from voice_agent.plan import FAILED, CallerInput, Checked, Memory, Outcome, Plan
from voice_agent.policy.engine import FAILURES, PolicyAction, PolicyEngine

NO_ANSWER: Final = frozenset({"gated", "error", FAILED})
"""Ends of the model's words that leave the caller without an answer."""

REACH_CHARS: Final = 160
"""How far back the output rules look for the beginning of what a clause would complete."""


class CallDirector(FreeDirector):
    """Policies first, then the flow where there is one, then the language model.

    What the caller said is told to the flow as it is, because slots are filled from it; the model and the history see
    it with private data masked.
    """

    def __init__(
        self,
        phrases: AgentPhrases,
        policy: PolicyEngine,
        flow: FlowRunner | None = None,
        transfer_targets: Collection[str] | None = None,
    ) -> None:
        super().__init__(phrases, transfer_targets)
        self._policy = policy
        self._flow = flow

    def opening(self) -> Plan:
        """Disclosures, then the flow's first words or the greeting; what has to be said cannot be talked over."""
        disclosures = " ".join(self._policy.disclosures())
        plan = super().opening() if self._flow is None else self._of_step(Memory(), self._flow.begin(), CallerInput())
        if not disclosures:
            return plan
        return replace(plan, say=_join(disclosures, plan.say), interruptible=False)

    def answer(self, memory: Memory, caller: CallerInput) -> Plan:
        """What a rule demands, else what the flow says, else the model."""
        memory = deepcopy(memory)
        verdict = self._policy.heard(caller.text or " ".join(caller.digits), memory.counts)
        memory.counts = dict(verdict.counts)
        seen = replace(caller, text=verdict.text)
        step = None
        if self._flow is not None and memory.position is not None:
            step = self._flow.on_caller(memory.position, caller.text, caller.digits)
        if verdict.action is not None and not _helps(step, verdict.action):
            plan = self._of_action(memory, verdict.action)
        elif step is not None:
            plan = self._of_step(memory, step, seen)
        else:
            plan = super().answer(memory, seen)
        return replace(plan, model_text=verdict.text, findings=verdict.findings)

    def tool_done(self, memory: Memory, outcome: Outcome) -> Plan:
        """The flow goes on with the result."""
        memory = deepcopy(memory)
        if self._flow is None or memory.position is None:
            return super().tool_done(memory, outcome)
        return self._of_step(memory, self._flow.on_tool(memory.position, outcome), CallerInput())

    def model_done(self, memory: Memory, finish_reason: str) -> Plan:
        """After ``failures`` in a row the policies may hand the call to a human; an answer starts the count again."""
        memory = deepcopy(memory)
        memory.counts[FAILURES] = memory.counts.get(FAILURES, 0) + 1 if finish_reason in NO_ANSWER else 0
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

    def check(self, clause: str, before: str = "") -> Checked:
        """The output rules, on the clause and on where it meets what came before it."""
        verdict = self._policy.about_to_say(clause, before[-REACH_CHARS:])
        return Checked(verdict.text, verdict.action is not None, verdict.findings)

    def redact(self, text: str) -> str:
        """Private data masked."""
        return self._policy.redact(text)

    def _of_action(self, memory: Memory, action: PolicyAction) -> Plan:
        if action.kind == "say":
            # The question that was open still is.
            prompt = self._flow.prompt(memory.position) if self._flow is not None and memory.position else ""
            return Plan(memory, _join(action.say, prompt))
        end_reason = f"transfer:{action.target}" if action.kind == "transfer" else "policy"
        return Plan(memory, action.say, end_reason=end_reason, interruptible=False)

    def _of_step(self, memory: Memory, step: FlowStep, caller: CallerInput) -> Plan:
        memory.position = step.position
        plan = Plan(memory, step.say, interruptible=step.interruptible, tool=step.tool)
        if step.action == "model":
            return replace(plan, ask_model=True, model_text=caller.text)
        if step.action == "transfer":
            return replace(plan, end_reason=f"transfer:{step.target}")
        if step.action == "hang_up":
            return replace(plan, end_reason=step.target)
        return plan


def _helps(step: FlowStep | None, action: PolicyAction) -> bool:
    """A flow that puts the caller through beats a rule that can only talk."""
    return step is not None and step.action == "transfer" and action.kind == "say"


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)
