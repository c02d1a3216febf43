"""Flows from YAML files. Whatever is wrong is told with file, line, key, value, and what is wanted instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

from configs import patterns
from configs.node_reader import NodeReader
from configs.settings import Settings
from configs.tool_files import load_tools
from configs.yaml_nodes import Document, Keys, read_document
from voice_agent.errors import ConfigError
from voice_agent.flow.checks import problems
from voice_agent.flow.definition import (
    Ask,
    Branch,
    Case,
    Choice,
    Flow,
    FlowState,
    HangUp,
    Kind,
    Menu,
    Model,
    Option,
    Say,
    SlotType,
    Test,
    Tool,
    Transfer,
)
from voice_agent.flow.templates import as_text
from voice_agent.policy.phrases import expand
from voice_agent.policy.rules import Phrase
from voice_agent.tools import ToolSpec

SHIPPED: Final = Path(__file__).parent / "flows"

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_KEYS: Final = "0123456789*"
_FLOW_KEYS: Final = ("flow", "about", "start", "anywhere", "states")
_OPTION_KEYS: Final = ("words", "key", "say", "next", "repeat", "forget")
_CHOICE_KEYS: Final = ("value", "words", "key")
_SLOT_KEYS: Final = ("type", "length", "shortest", "longest", "low", "high", "choices")
_TESTS: Final[tuple[str, ...]] = get_args(Test)
_KINDS: Final[tuple[str, ...]] = get_args(Kind)
_STATE_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "ask": ("ask", "say", *_SLOT_KEYS, "retry", "tries", "next", "on_fail", "interruptible"),
    "menu": ("menu", "say", "retry", "tries", "on_fail", "otherwise", "interruptible"),
    "model": ("model", "say", "options_of", "turns", "next", "interruptible"),
    "tool": ("tool", "say", "with", "next", "on_error"),
    "branch": ("branch", "otherwise"),
    "transfer": ("transfer", "say"),
    "hang_up": ("hang_up", "say"),
    "say": ("say", "next", "interruptible"),
}
"""Keys of a state by its kind; the first of these kinds whose name is a key of a state is its kind."""


def found(path: Path) -> Path:
    """The file a setting names: ``order_status`` is a flow that ships with the program."""
    return SHIPPED / f"{path}.yaml" if str(path) in shipped() else path


def shipped() -> list[str]:
    """Names of the flows that come with the program."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_flow(path: Path, *, probe: bool = True) -> Flow:
    """Read and check a flow.

    Args:
        path: of the file.
        probe: try its patterns on the texts that are worst for them; not needed again where that was done before.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    reader = _Reader(read_document(path), probe=probe)
    flow = reader.flow()
    if not reader.wrong and flow is not None:
        for item in problems(flow):
            reader.refuse(item.place, item.wanted)
    reader.raise_if_wrong()
    if flow is None:
        raise ConfigError(f"{path}: this is no flow")
    return flow


def of(settings: Settings, *, probe: bool = False) -> Flow | None:
    """The flow that the settings name, None for a free dialog.

    Raises:
        ConfigError: one line for each thing that is wrong, also with tools and people that the settings do not have.
    """
    if not settings.dialog.flow:
        return None
    path = found(Path(settings.dialog.flow))
    flow = read_flow(path, probe=probe)
    wrong = _Reader(read_document(path), probe=False)
    tools = {spec.name: spec for spec in load_tools(settings)}
    people = settings.tools.transfer_targets
    for name, state in flow.states.items():
        if isinstance(state, Transfer) and state.target not in people:
            listed = f"has {', '.join(people)}" if people else "is empty"
            wrong.refuse(("states", name, "transfer"), f"a name of tools.transfer_targets is wanted, which {listed}")
        if isinstance(state, Tool) and state.tool not in tools:
            wrong.refuse(("states", name, "tool"), f"a tool is wanted; there are {', '.join(tools) or 'none'}")
        elif isinstance(state, Tool):
            _check_arguments(wrong, name, state, tools[state.tool])
    wrong.raise_if_wrong()
    return flow


def _check_arguments(wrong: NodeReader, name: str, state: Tool, spec: ToolSpec) -> None:
    takes = [parameter.name for parameter in spec.parameters]
    for argument in state.arguments:
        if argument not in takes:
            wrong.refuse(("states", name, "with", argument), f"{state.tool} takes {', '.join(takes) or 'nothing'}")
    for parameter in spec.parameters:
        if parameter.required and parameter.name not in state.arguments:
            wrong.refuse(("states", name, "with"), f"{state.tool} needs {parameter.name}")


class _Reader(NodeReader):
    """Takes the document of a flow apart."""

    def __init__(self, document: Document, *, probe: bool) -> None:
        super().__init__(document)
        self._probe = probe

    # --- the parts of a flow ---

    def flow(self) -> Flow | None:
        """The whole file."""
        if not self.mapping((), _FLOW_KEYS, "a flow with "):
            return None
        states = self.value(("states",))
        if not isinstance(states, dict) or not states:
            self.refuse(("states",), "a mapping of at least one state is wanted")
            return None
        found = {name: self._state(("states", name)) for name in states if self._is_name(("states", name), name)}
        return Flow(
            name=self.text(("flow",)),
            start=self.text(("start",)),
            states={name: state for name, state in found.items() if state is not None},
            anywhere=self.list(("anywhere",), self._option, least=0),
            about=self.text(("about",), required=False),
        )

    def _state(self, keys: Keys) -> FlowState | None:
        value = self.value(keys)
        if not isinstance(value, dict):
            self.refuse(keys, f"a mapping with one of {', '.join(_STATE_KEYS)} is wanted")
            return None
        kind = next((kind for kind in _STATE_KEYS if kind in value), None)
        if kind is None:
            self.refuse(keys, f"one of {', '.join(_STATE_KEYS)} is wanted: it makes the kind of the state")
            return None
        if not self.mapping(keys, _STATE_KEYS[kind], f"a state with {kind} has "):
            return None
        make: dict[str, Callable[[Keys], FlowState]] = {
            "say": self._say,
            "ask": self._ask,
            "menu": self._menu,
            "model": self._model,
            "tool": self._tool,
            "branch": self._branch,
            "transfer": lambda at: Transfer(self.text((*at, "transfer")), self.text((*at, "say"), required=False)),
            "hang_up": lambda at: HangUp(self.text((*at, "hang_up")), self.text((*at, "say"), required=False)),
        }
        return make[kind](keys)

    def _say(self, keys: Keys) -> Say:
        return Say(self.text((*keys, "say")), self.text((*keys, "next")), self.flag((*keys, "interruptible"), True))

    def _ask(self, keys: Keys) -> Ask:
        slot = self.text((*keys, "ask"))
        if slot:
            self._is_name((*keys, "ask"), slot)
        return Ask(
            say=self.text((*keys, "say")),
            slot=slot,
            type=self._slot(keys),
            next=self.text((*keys, "next")),
            on_fail=self.text((*keys, "on_fail")),
            retry=self.text((*keys, "retry"), required=False),
            tries=self.whole((*keys, "tries"), 3, 1, 10),
            interruptible=self.flag((*keys, "interruptible"), True),
        )

    def _menu(self, keys: Keys) -> Menu:
        return Menu(
            say=self.text((*keys, "say")),
            options=self.list((*keys, "menu"), self._option, least=1),
            on_fail=self.text((*keys, "on_fail"), required=False),
            otherwise=self.text((*keys, "otherwise"), required=False),
            retry=self.text((*keys, "retry"), required=False),
            tries=self.whole((*keys, "tries"), 3, 1, 10),
            interruptible=self.flag((*keys, "interruptible"), True),
        )

    def _model(self, keys: Keys) -> Model:
        return Model(
            say=self.text((*keys, "say")),
            options=self.list((*keys, "model"), self._option, least=0),
            options_of=self.text((*keys, "options_of"), required=False),
            turns=self.whole((*keys, "turns"), 0, 1, 100),
            next=self.text((*keys, "next"), required=False),
            interruptible=self.flag((*keys, "interruptible"), True),
        )

    def _tool(self, keys: Keys) -> Tool:
        arguments = self.value((*keys, "with"))
        if arguments is not None and not isinstance(arguments, dict):
            self.refuse((*keys, "with"), "a mapping of arguments is wanted")
            arguments = None
        return Tool(
            tool=self.text((*keys, "tool")),
            next=self.text((*keys, "next")),
            on_error=self.text((*keys, "on_error")),
            say=self.text((*keys, "say"), required=False),
            arguments={name: self.scalar((*keys, "with", name)) for name in arguments or {}},
        )

    def _branch(self, keys: Keys) -> Branch:
        return Branch(self.list((*keys, "branch"), self._case, least=1), self.text((*keys, "otherwise")))

    def _case(self, keys: Keys) -> Case | None:
        value = self.value(keys)
        if not self.mapping(keys, ("if", *_TESTS, "next"), "a case has "):
            return None
        tests = [test for test in _TESTS if test in value]
        if len(tests) != 1:
            self.refuse(keys, f"exactly one of {', '.join(_TESTS)} is wanted")
            return None
        test: Any = tests[0]
        operands = self._operands((*keys, test), test)
        return Case(self.text((*keys, "if")), test, operands, self.text((*keys, "next")))

    def _operands(self, keys: Keys, test: str) -> tuple[str, ...]:
        value = self.value(keys)
        if test == "in":
            return self.list(keys, self.scalar, least=1)
        if test == "present":
            return (as_text(self.flag(keys, True)),)
        text = self.scalar(keys)
        if test == "matches" and text and self._probe and (wanted := patterns.problem(text)):
            self.refuse(keys, wanted)
        if test in ("less", "greater") and (isinstance(value, bool) or not isinstance(value, int | float)):
            self.refuse(keys, "a number is wanted")
        return (text,)

    def _option(self, keys: Keys) -> Option | None:
        value = self.value(keys)
        if not self.mapping(keys, _OPTION_KEYS, "an option has "):
            return None
        if "words" not in value and "key" not in value:
            self.refuse(keys, "words or key is wanted: what the caller says or presses")
        repeat = self.flag((*keys, "repeat"), False)
        if repeat == ("next" in value):
            self.refuse(keys, "either next or repeat: true is wanted")
        return Option(
            next=self.text((*keys, "next"), required=not repeat),
            phrases=self._phrases((*keys, "words")),
            key=self._key((*keys, "key")),
            say=self.text((*keys, "say"), required=False),
            repeat=repeat,
            forget=self.flag((*keys, "forget"), False),
        )

    def _slot(self, keys: Keys) -> SlotType:
        kind: Any = self.text((*keys, "type"))
        if kind not in _KINDS:
            if kind:
                self.refuse((*keys, "type"), f"one of {', '.join(_KINDS)} is wanted")
            return SlotType()
        allowed = {"digits": ("length", "shortest", "longest"), "number": ("low", "high"), "choice": ("choices",)}
        allowed["phone"] = allowed["digits"]
        for name in _SLOT_KEYS[1:]:
            if (*keys, name) in self.document.lines and name not in allowed.get(kind, ()):
                takes = ", ".join(allowed.get(kind, ())) or "nothing more"
                self.refuse((*keys, name), f"a slot of type {kind} takes {takes}")
        shortest, longest = self._lengths(keys, kind)
        choices = self.list((*keys, "choices"), self._choice, least=2) if kind == "choice" else ()
        low, high = self.number((*keys, "low")), self.number((*keys, "high"))
        if low is not None and high is not None and low > high:
            self.refuse((*keys, "high"), f"at least low ({low:g}) is wanted")
        return SlotType(kind, shortest, longest, low, high, choices)

    def _lengths(self, keys: Keys, kind: str) -> tuple[int, int]:
        least, most = (7, 15) if kind == "phone" else (1, 40)
        if (*keys, "length") in self.document.lines:
            for name in ("shortest", "longest"):
                if (*keys, name) in self.document.lines:
                    self.refuse((*keys, name), "length, or shortest and longest, is wanted, not both")
            length = self.whole((*keys, "length"), 6, 1, 40)
            return length, length
        shortest, longest = (
            self.whole((*keys, "shortest"), least, 1, 40),
            self.whole((*keys, "longest"), most, 1, 40),
        )
        if shortest > longest:
            self.refuse((*keys, "shortest"), f"at most {longest}, the longest, is wanted")
        return shortest, longest

    def _choice(self, keys: Keys) -> Choice | None:
        if not self.mapping(keys, _CHOICE_KEYS, "a choice has "):
            return None
        value = self.scalar((*keys, "value"))
        words = (
            self._phrases((*keys, "words")) if (*keys, "words") in self.document.lines else self._expand(keys, value)
        )
        return Choice(value, words, self._key((*keys, "key")))

    def _phrases(self, keys: Keys) -> tuple[Phrase, ...]:
        if keys not in self.document.lines:
            return ()
        if not isinstance(self.value(keys), list):
            self.refuse(keys, "a list of words and phrases is wanted")
            return ()
        listed = self.list(keys, lambda at: self._expand(at, self.text(at)) or None, least=1)
        return tuple(dict.fromkeys(phrase for phrases in listed for phrase in phrases))

    def _expand(self, keys: Keys, text: str) -> tuple[Phrase, ...]:
        if not text:
            return ()
        try:
            return expand(text)
        except ConfigError as error:
            self.refuse(keys, f"{error.message} is wanted")
            return ()

    def _key(self, keys: Keys) -> str:
        if keys not in self.document.lines:
            return ""
        text = self.scalar(keys)
        if len(text) != 1 or text not in _KEYS:
            self.refuse(keys, "one key of 0 to 9 or * is wanted (# ends an input)")
        return text

    def _is_name(self, keys: Keys, name: str) -> bool:
        if _NAME.fullmatch(name):
            return True
        self.refuse(keys, f"a name of a-z, 0-9 and _ that begins with a letter is wanted, not {name!r}")
        return False
