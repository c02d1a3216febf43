"""A flow as frozen records: what ``configs/flows.py`` reads from YAML and ``FlowRunner`` walks through.

Words that are spoken may hold ``{slot}`` and ``{tool.field}``. Names of states are keys of ``Flow.states``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from voice_agent.policy.rules import Phrase

Kind = Literal["digits", "yes_no", "number", "date", "choice", "text", "phone", "email"]
Test = Literal["equals", "in", "present", "matches", "less", "greater"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A value of a ``choice`` slot: the words that mean it, and the key."""

    value: str
    phrases: tuple[Phrase, ...] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class SlotType:
    """What may fill a slot.

    Attributes:
        kind: see ``voice_agent.flow.slots``.
        shortest: digits of ``digits`` and ``phone``, at least.
        longest: the same, at most.
        low: least ``number``; None: any.
        high: largest ``number``; None: any.
        choices: of ``choice``.
    """

    kind: Kind = "text"
    shortest: int = 1
    longest: int = 40
    low: float | None = None
    high: float | None = None
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """A way on that the caller takes by words or by a key.

    Attributes:
        next: the state it leads to; empty with ``repeat``.
        phrases: any of them, anywhere in what the caller says.
        key: one key of the telephone.
        say: spoken on the way.
        repeat: the question that is open is asked again instead.
        forget: slots and results are dropped.
    """

    next: str = ""
    phrases: tuple[Phrase, ...] = ()
    key: str = ""
    say: str = ""
    repeat: bool = False
    forget: bool = False


@dataclass(frozen=True, slots=True)
class Say:
    """Speaks, and goes on."""

    kind: ClassVar[str] = "say"
    say: str
    next: str
    interruptible: bool = True


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks for a slot until it is validly filled, at most ``tries`` times."""

    kind: ClassVar[str] = "ask"
    say: str
    slot: str
    type: SlotType
    next: str
    on_fail: str
    retry: str = ""
    tries: int = 3
    interruptible: bool = True


@dataclass(frozen=True, slots=True)
class Menu:
    """Offers ways on. What is none of them goes to ``otherwise`` where there is one, else it is asked again."""

    kind: ClassVar[str] = "menu"
    say: str
    options: tuple[Option, ...]
    on_fail: str = ""
    otherwise: str = ""
    retry: str = ""
    tries: int = 3
    interruptible: bool = True


@dataclass(frozen=True, slots=True)
class Model:
    """The language model has the floor until an option, one of the menu ``options_of``, or ``turns`` bring it back."""

    kind: ClassVar[str] = "model"
    say: str
    options: tuple[Option, ...] = ()
    options_of: str = ""
    turns: int = 0
    next: str = ""
    interruptible: bool = True


@dataclass(frozen=True, slots=True)
class Tool:
    """Runs a tool. ``arguments`` are templates; its result is kept under its name."""

    kind: ClassVar[str] = "tool"
    tool: str
    next: str
    on_error: str
    say: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    interruptible: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One line of a branch: ``subject`` is ``slot`` or ``tool.field``; ``operands`` what it is compared with."""

    subject: str
    test: Test
    operands: tuple[str, ...]
    next: str


@dataclass(frozen=True, slots=True)
class Branch:
    """The first case that holds, else ``otherwise``."""

    kind: ClassVar[str] = "branch"
    cases: tuple[Case, ...]
    otherwise: str
    say: str = ""
    interruptible: bool = True


@dataclass(frozen=True, slots=True)
class Transfer:
    """Hands the call to ``target``, a name that the settings know the address of."""

    kind: ClassVar[str] = "transfer"
    target: str
    say: str = ""
    interruptible: bool = False


@dataclass(frozen=True, slots=True)
class HangUp:
    """Ends the call with ``reason``."""

    kind: ClassVar[str] = "hang_up"
    reason: str = "goodbye"
    say: str = ""
    interruptible: bool = False


FlowState = Say | Ask | Menu | Model | Tool | Branch | Transfer | HangUp
Waiting = Ask | Menu | Model
"""States in which the caller has the word."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A dialog. ``anywhere``: ways on that every waiting state has, behind its own."""

    name: str
    start: str
    states: Mapping[str, FlowState]
    anywhere: tuple[Option, ...] = ()
    about: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """A way from one state to another. ``place`` is where it is written in its state; ``label`` is for drawings."""

    target: str
    place: tuple[str | int, ...]
    label: str = ""


def edges(state: FlowState) -> Iterator[Edge]:
    """The ways on that a state names itself, in the order they are written."""
    if isinstance(state, Menu | Model):
        yield from options(state.options, state.kind)
    if isinstance(state, Branch):
        for place, case in enumerate(state.cases):
            yield Edge(case.next, ("branch", place, "next"), told(case))
        yield Edge(state.otherwise, ("otherwise",), "otherwise")
    if isinstance(state, Menu) and state.otherwise:
        yield Edge(state.otherwise, ("otherwise",), "otherwise")
    if isinstance(state, Say | Ask | Tool) or (isinstance(state, Model) and state.next):
        yield Edge(state.next, ("next",), f"after {state.turns} turns" if isinstance(state, Model) else "")
    if isinstance(state, Tool):
        yield Edge(state.on_error, ("on_error",), "error")
    if isinstance(state, Ask) or (isinstance(state, Menu) and state.on_fail):
        yield Edge(state.on_fail, ("on_fail",), f"after {state.tries} tries")


def options(listed: tuple[Option, ...], where: str) -> Iterator[Edge]:
    """The ways on of options."""
    for place, option in enumerate(listed):
        if not option.repeat:
            yield Edge(option.next, (where, place, "next"), shown(option))


def what(state: FlowState) -> str:
    """What a state does, in short: ``ask order_number (digits)``."""
    match state:
        case Ask():
            return f"ask {state.slot} ({state.type.kind})"
        case Tool():
            return f"tool {state.tool}"
        case Transfer():
            return f"transfer to {state.target}"
        case HangUp():
            return f"hang up: {state.reason}"
        case _:
            return state.kind


def shown(option: Option) -> str:
    """How an option is taken, in short: ``1, "order status"``."""
    words = f'"{" ".join(option.phrases[0])}"' if option.phrases else ""
    return ", ".join(part for part in (option.key, words) if part)


def told(case: Case) -> str:
    """A case in words."""
    if case.test == "present":
        return f"{case.subject} is {'there' if case.operands == ('yes',) else 'missing'}"
    return f"{case.subject} {case.test} {', '.join(case.operands)}"
