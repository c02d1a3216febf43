"""Walks a flow. Every step is a pure function of the position and of what happened, so it may be thrown away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final, Literal

from voice_agent.errors import ConfigError
from voice_agent.flow import slots
from voice_agent.flow.checks import problems
from voice_agent.flow.definition import (
    Ask,
    Branch,
    Case,
    Flow,
    HangUp,
    Menu,
    Model,
    Option,
    Say,
    Tool,
    Transfer,
    Waiting,
)
from voice_agent.flow.templates import as_text, filled, speakable, value_of
from voice_agent.plan import FlowPosition, Outcome
from voice_agent.policy.rules import Phrase
from voice_agent.ports import ToolCall

TOOL_TRIES: Final = 2
"""A caller may speak while a tool runs; it is begun again this often, then it counts as failed."""

Action = Literal["listen", "model", "tool", "transfer", "hang_up"]


@dataclass(frozen=True, slots=True)
class FlowStep:
    """What is to be done.

    Attributes:
        position: where the flow stands then.
        say: spoken first; empty for nothing.
        action: then.
        tool: to be run, with action ``tool``.
        target: where to, with ``transfer``; the reason, with ``hang_up``.
        interruptible: the caller may speak over it.
    """

    position: FlowPosition
    say: str
    action: Action
    tool: ToolCall | None = None
    target: str = ""
    interruptible: bool = True


@dataclass(slots=True)
class _Walk:
    """A step in the making, on a position of its own."""

    at: FlowPosition
    said: list[str] = field(default_factory=list)
    interruptible: bool = True
    unanswered: bool = False

    def go(self, node: str) -> None:
        self.at.node, self.at.tries = node, 0

    def step(self, action: Action, *, tool: ToolCall | None = None, target: str = "") -> FlowStep:
        words = " ".join(part for part in self.said if part)
        return FlowStep(self.at, words, action, tool, target, self.interruptible)


class FlowRunner:
    """One flow; keeps nothing of a call.

    Raises:
        ConfigError: the flow cannot be walked.
    """

    def __init__(self, flow: Flow) -> None:
        wrong = problems(flow)
        if wrong:
            listed = "\n".join(f"{flow.name}: {'.'.join(map(str, item.place))}: {item.wanted}" for item in wrong)
            raise ConfigError(listed)
        self.flow = flow
        states = flow.states.values()
        self._kinds = {state.slot: str(state.type.kind) for state in states if isinstance(state, Ask)}

    def begin(self) -> FlowStep:
        """The first words."""
        return self._enter(_Walk(FlowPosition(self.flow.start)))

    def on_caller(self, position: FlowPosition, text: str, digits: str) -> FlowStep:
        """The caller spoke (``text``) or pressed keys (``digits``)."""
        if position.node not in self.flow.states:
            return self.begin()  # the flow was changed under a call that is going on
        walk = _Walk(deepcopy(position))
        state = self.flow.states[position.node]
        if isinstance(state, Tool):
            return self._tool_again(walk, state)
        if not isinstance(state, Waiting):
            return self._enter(walk)
        words = slots.words_of(text)
        if not words and not digits:
            return self._retry(walk, state)
        if isinstance(state, Ask):
            return self._answer(walk, state, text, words, digits)
        return self._choose(walk, state, words, digits)

    def on_tool(self, position: FlowPosition, outcome: Outcome) -> FlowStep:
        """A tool has run; its result is kept under its name."""
        if position.node not in self.flow.states:
            return self.begin()
        walk = _Walk(deepcopy(position))
        result = {name: as_text(value) for name, value in outcome.value.items()}
        about = {"ok": as_text(outcome.ok), "code": outcome.code, "say": outcome.say}
        walk.at.results[outcome.name] = about | result
        state = self.flow.states[position.node]
        if not isinstance(state, Tool) or state.tool != outcome.name:
            walk.said.append(outcome.say)
            return walk.step("listen")
        walk.go(state.next if outcome.ok else state.on_error)
        return self._enter(walk)

    def prompt(self, position: FlowPosition) -> str:
        """The question that is open; empty when there is none."""
        state = self.flow.states.get(position.node)
        return self._words(state.say, position) if isinstance(state, Waiting) else ""

    def keys_wanted(self, position: FlowPosition) -> int:
        """How many keys make an input here; 0: until a pause or ``#``."""
        state = self.flow.states.get(position.node)
        if isinstance(state, Ask):
            return slots.keys_wanted(state.type)
        if isinstance(state, Menu | Model):
            return 1 if any(option.key for option in self._options(state)) else 0
        return 0

    def finished(self, position: FlowPosition, text: str) -> bool | None:
        """Is this all of an answer? False: visibly not yet; None: it cannot be told."""
        state = self.flow.states.get(position.node)
        words = slots.words_of(text)
        if isinstance(state, Ask):
            if _only(self.flow.anywhere, words) is not None:
                return True
            return slots.finished(state.type, text)
        if isinstance(state, Menu) and _said(self._options(state), words) is not None:
            return True
        return None

    # --- what the caller did ---

    def _answer(self, walk: _Walk, state: Ask, text: str, words: Phrase, digits: str) -> FlowStep:
        """A slot: a way on that is all that was said, then a value, then a way on among other words."""
        anywhere = self.flow.anywhere
        value = slots.of_keys(state.type, digits) if digits else slots.of_words(state.type, text)
        option = None if digits else _only(anywhere, words)
        if option is None and value is None:
            option = _keyed(anywhere, digits) if digits else _said(anywhere, words)
        if option is not None:
            return self._take(walk, option)
        if value is None:
            return self._retry(walk, state)
        walk.at.slots[state.slot] = value
        walk.go(state.next)
        return self._enter(walk)

    def _choose(self, walk: _Walk, state: Menu | Model, words: Phrase, digits: str) -> FlowStep:
        listed = self._options(state)
        option = _keyed(listed, digits) if digits else _said(listed, words)
        if option is not None:
            return self._take(walk, option)
        # Keys that mean nothing here are no question for a model.
        walk.unanswered = not digits
        if isinstance(state, Model):
            if digits:
                walk.said.append(self._words(state.say, walk.at))
                return walk.step("listen")
            return self._model(walk, state)
        if state.otherwise and not digits:
            walk.go(state.otherwise)
            return self._enter(walk)
        return self._retry(walk, state)

    def _model(self, walk: _Walk, state: Model) -> FlowStep:
        if state.turns and walk.at.tries >= state.turns:
            walk.go(state.next)
            return self._enter(walk)
        walk.at.tries += 1
        return walk.step("model")

    def _take(self, walk: _Walk, option: Option) -> FlowStep:
        walk.said.append(self._words(option.say, walk.at))
        if option.repeat:
            walk.said.append(self.prompt(walk.at))
            return walk.step("listen")
        if option.forget:
            walk.at.slots, walk.at.results = {}, {}
        walk.go(option.next)
        return self._enter(walk)

    def _retry(self, walk: _Walk, state: Ask | Menu | Model) -> FlowStep:
        """Ask again, or give up."""
        again = ""
        if not isinstance(state, Model):  # there, tries count answers
            walk.at.tries += 1
            again = state.retry
            if walk.at.tries >= state.tries:
                walk.go(state.on_fail or (state.otherwise if isinstance(state, Menu) else ""))
                walk.unanswered = False
                return self._enter(walk)
        walk.said.append(self._words(again or state.say, walk.at))
        walk.interruptible = state.interruptible
        return walk.step("listen")

    def _tool_again(self, walk: _Walk, state: Tool) -> FlowStep:
        walk.at.tries += 1
        if walk.at.tries >= TOOL_TRIES:
            walk.go(state.on_error)
            walk.at.results.setdefault(state.tool, {"ok": "no", "code": "interrupted", "say": ""})
        return self._enter(walk)

    # --- walking ---

    def _enter(self, walk: _Walk) -> FlowStep:
        """Go on from the state the walk is at, until the caller, the model, a tool or the end has the word."""
        while True:
            state = self.flow.states[walk.at.node]
            if isinstance(state, Model) and walk.unanswered:
                return self._model(walk, state)
            walk.said.append(self._words(state.say, walk.at))
            walk.interruptible = walk.interruptible and state.interruptible
            if isinstance(state, Say):
                walk.go(state.next)
            elif isinstance(state, Branch):
                case = next((case for case in state.cases if holds(case, walk.at)), None)
                walk.go(case.next if case is not None else state.otherwise)
            else:
                return self._stop(walk, state)

    def _stop(self, walk: _Walk, state: Waiting | Tool | Transfer | HangUp) -> FlowStep:
        if isinstance(state, Tool):
            arguments = {name: filled(template, walk.at) for name, template in state.arguments.items()}
            return walk.step("tool", tool=ToolCall(state.tool, arguments))
        if isinstance(state, Transfer):
            return walk.step("transfer", target=state.target)
        if isinstance(state, HangUp):
            return walk.step("hang_up", target=state.reason)
        return walk.step("listen")

    def _options(self, state: Menu | Model) -> Sequence[Option]:
        lender = self.flow.states.get(state.options_of) if isinstance(state, Model) else None
        lent = lender.options if isinstance(lender, Menu) else ()
        return (*state.options, *lent, *self.flow.anywhere)

    def _words(self, template: str, position: FlowPosition) -> str:
        return speakable(template, position, self._kinds)


def holds(case: Case, position: FlowPosition) -> bool:
    """Does a case hold? Texts are compared without regard to case; numbers as numbers."""
    value = value_of(position, case.subject).strip().lower()
    if case.test == "present":
        return bool(value) == (case.operands == ("yes",))
    if case.test == "matches":
        # The pattern was checked when the flow was read.
        return any(re.fullmatch(pattern, value[: slots.LONGEST]) for pattern in case.operands)
    wanted = [operand.strip().lower() for operand in case.operands]
    if case.test in ("less", "greater"):
        return _compares(case.test, value, wanted[0])
    return value in wanted


def _compares(test: str, value: str, bound: str) -> bool:
    try:
        left, right = float(value), float(bound)
    except ValueError:
        return False
    return left < right if test == "less" else left > right


def _keyed(listed: Sequence[Option], digits: str) -> Option | None:
    return next((option for option in listed if option.key and option.key == digits), None)


def _said(listed: Sequence[Option], words: Phrase) -> Option | None:
    """The option with the longest phrase in these words; of equals the first."""
    best, size = None, 0
    for option in listed:
        for phrase in option.phrases:
            if len(phrase) > size and slots.contains(words, phrase):
                best, size = option, len(phrase)
    return best


def _only(listed: Sequence[Option], words: Phrase) -> Option | None:
    """The option whose phrase is all that was said."""
    return next((option for option in listed if any(slots.only(words, phrase) for phrase in option.phrases)), None)
