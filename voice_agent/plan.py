"""What the agent is about to do for what the caller did, and what a dialog remembers between turns.

A plan is computed while the caller may still go on; it changes nothing until its turn is released, when its ``memory``
is taken over. So computing one is free of consequence, and throwing it away leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from voice_agent.ports import ToolCall

FAILED: Final = "failed"
"""Finish reason of a turn that no model came to end: a stage failed, or the caller was not understood."""


@dataclass(frozen=True, slots=True)
class CallerInput:
    """What the caller said, or the keys that were pressed (``digits``); one of the two is empty."""

    text: str = ""
    confidence: float = 1.0
    digits: str = ""


@dataclass(slots=True)
class FlowPosition:
    """Where a scripted flow stands: the state, the slots filled, tries in this state, results of tools by name."""

    node: str
    slots: dict[str, str] = field(default_factory=dict)
    tries: int = 0
    results: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(slots=True)
class Memory:
    """What a dialog remembers beyond its words. ``counts`` are consecutive, by name: failures, abuse."""

    position: FlowPosition | None = None
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The agent's next move.

    Attributes:
        memory: taken over when the turn is released.
        say: words of the agent's own, spoken first; empty for none.
        ask_model: then retrieve, and let the language model answer.
        tool: then run this tool, and plan again with its result.
        end_reason: then end the call: ``goodbye``, ``transfer:<target>`` or another reason; empty: listen.
        interruptible: the caller may speak over it.
        model_text: the caller's words as a model and the history may see them (private data masked).
        findings: ids of the policy rules that matched.
    """

    memory: Memory
    say: str = ""
    ask_model: bool = False
    tool: ToolCall | None = None
    end_reason: str = ""
    interruptible: bool = True
    model_text: str = ""
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a tool gave. ``value`` is JSON-able and flat; ``say`` may be spoken as it is; ``code`` names an error."""

    name: str
    ok: bool
    value: Mapping[str, Any] = field(default_factory=dict)
    say: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """A clause after the output policies: the text to be spoken (empty: nothing), and whether the reply ends here."""

    text: str
    stop: bool = False
    findings: tuple[str, ...] = ()


class Director(Protocol):
    """Decides what the agent does. Pure: the same arguments give the same plan."""

    def opening(self) -> Plan:
        """The first words of the call."""

    def answer(self, memory: Memory, caller: CallerInput) -> Plan:
        """The move after the caller's turn."""

    def tool_done(self, memory: Memory, outcome: Outcome) -> Plan:
        """The move after a tool that a plan asked for."""

    def model_tool(self, memory: Memory, call: ToolCall) -> Plan | None:
        """A tool the language model asked for: a plan when it ends or moves the call, None when it is to be run."""

    def model_done(self, memory: Memory, finish_reason: str) -> Plan:
        """The model has ended its words, the plan's are added; ``gated``, ``error`` and ``FAILED``: no answer."""

    def reprompt(self, memory: Memory) -> str:
        """What is said after silence."""

    def keys_wanted(self, memory: Memory) -> int:
        """How many keys make an input here; 0: until a pause or ``#``."""

    def finished(self, memory: Memory, text: str) -> bool | None:
        """Is this a finished answer to what was asked here? None: nothing was asked, or it cannot be told."""

    def check(self, clause: str, before: str = "") -> Checked:
        """A clause of the agent before it is spoken; ``before``: what the same reply has said already."""

    def redact(self, text: str) -> str:
        """Text as it may be kept."""
