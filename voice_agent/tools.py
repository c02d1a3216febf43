"""Tools an agent may use: what one is called, what it takes, and a request to run it.

What a tool gives is ``voice_agent.plan.Outcome``. Where one goes wrong, the outcome's ``code`` says how:

    bad_arguments    the arguments do not fit the declaration
    unknown_tool     there is no such tool
    unknown_target   a transfer to somebody who is not listed
    not_found        there is nothing to be found under what was asked
    timeout          it took longer than it may
    refused          the other side understood and will not do it
    not_configured   it needs an address that the settings do not give
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, get_args

from voice_agent.errors import VoiceAgentError
from voice_agent.plan import Outcome

Kind = Literal["end_call", "transfer", "send_dtmf", "sql", "message", "http"]
Type = Literal["string", "integer", "number", "boolean"]

KINDS: Final = get_args(Kind)
TYPES: Final = get_args(Type)

END_CALL: Final = "end_call"
TRANSFER: Final = "transfer"
SEND_DTMF: Final = "send_dtmf"
SQL: Final = "sql"
MESSAGE: Final = "message"
HTTP: Final = "http"

IN_CALL: Final = frozenset({END_CALL, TRANSFER, SEND_DTMF})
"""Kinds that the call carries out itself: they change the call and nothing else."""

BAD_ARGUMENTS: Final = "bad_arguments"
UNKNOWN_TOOL: Final = "unknown_tool"
UNKNOWN_TARGET: Final = "unknown_target"
NOT_FOUND: Final = "not_found"
TIMEOUT: Final = "timeout"
REFUSED: Final = "refused"
NOT_CONFIGURED: Final = "not_configured"

CODES: Final = (BAD_ARGUMENTS, UNKNOWN_TOOL, UNKNOWN_TARGET, NOT_FOUND, TIMEOUT, REFUSED, NOT_CONFIGURED)

UNREADABLE: Final = "unreadable"
"""The one argument of a request whose arguments are no JSON object: the text that a model gave for them."""

CANNOT_TRANSFER: Final = "I am sorry, I cannot connect you there."
DTMF_KEYS: Final = frozenset("0123456789*#ABCD")
MOST_KEYS: Final = 32
LONGEST_TEXT: Final = 2_000


class BadArgumentsError(VoiceAgentError):
    """Arguments of a tool do not fit its declaration. The message names the argument, never its value."""

    code: ClassVar[str] = BAD_ARGUMENTS


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a tool. ``choices`` empty: any value; ``max_chars`` bounds text."""

    name: str
    type: Type = "string"
    description: str = ""
    required: bool = True
    choices: tuple[str, ...] = ()
    max_chars: int = LONGEST_TEXT

    def schema(self) -> dict[str, Any]:
        """As JSON schema."""
        found: dict[str, Any] = {"type": self.type}
        if self.description:
            found["description"] = self.description
        if self.choices:
            found["enum"] = list(self.choices)
        return found


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it is declared.

    Attributes:
        name: what flows and models call it.
        kind: what carries it out; see ``KINDS``.
        description: when to use it, in words for a language model.
        parameters: what it takes.
        timeout_ms: longest time one run may take.
        read_only: it changes nothing, so it could be run at any time.
        options: of its kind; see ``docs/tools.md``.
    """

    name: str
    kind: Kind
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    timeout_ms: int = 3_000
    read_only: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def schema(self) -> dict[str, Any]:
        """The arguments as a JSON schema object."""
        return {
            "type": "object",
            "properties": {parameter.name: parameter.schema() for parameter in self.parameters},
            "required": [parameter.name for parameter in self.parameters if parameter.required],
            "additionalProperties": False,
        }


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """One run of a tool.

    ``idempotency_key`` names the run, however often it is asked for: the effect happens once, and every request gets
    the same outcome. A request of an owner of the call that was replaced (``epoch``) is refused; 0: nobody's.
    """

    call_id: str
    turn: int
    index: int
    name: str
    arguments: Mapping[str, Any]
    idempotency_key: str
    traceparent: str = ""
    epoch: int = 0


def idempotency_key(call_id: str, turn: int, index: int) -> str:
    """The key of the ``index``-th tool of a turn."""
    return f"{call_id}/{turn}/{index}"


def openai_tools(specs: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    """The specs as the ``tools`` of a chat completion request."""
    return [
        {
            "type": "function",
            "function": {"name": spec.name, "description": spec.description, "parameters": spec.schema()},
        }
        for spec in specs
    ]


def checked_arguments(spec: ToolSpec, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in their declared types. Text that reads as the type wanted is taken as such: slots are text.

    Raises:
        BadArgumentsError: one is missing, not known, of another type, too long, or not among the choices.
    """
    known = {parameter.name: parameter for parameter in spec.parameters}
    if UNREADABLE in arguments and UNREADABLE not in known:
        raise BadArgumentsError(f"{spec.name}: its arguments must be one JSON object.")
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        takes = ", ".join(known) or "nothing"
        raise BadArgumentsError(f"{spec.name} has no argument {', '.join(unknown)}; it takes {takes}.")
    found: dict[str, Any] = {}
    for name, parameter in known.items():
        value = arguments.get(name)
        if value is None or value == "":
            if parameter.required:
                raise BadArgumentsError(f"{spec.name} needs the argument {name}.")
            continue
        found[name] = _typed(spec.name, parameter, value)
    return found


def bad_arguments(spec: ToolSpec, error: BadArgumentsError) -> Outcome:
    """The outcome of a request whose arguments do not fit: what is wrong is told to whoever asked for the tool."""
    return Outcome(spec.name, False, {"reason": error.message}, code=BAD_ARGUMENTS)


def dtmf_digits(arguments: Mapping[str, Any]) -> str:
    """The keys of a ``send_dtmf`` request, blanks and dashes removed.

    Raises:
        BadArgumentsError: there are none, too many, or some that a telephone does not have.
    """
    digits = "".join(str(arguments.get("digits", "")).upper().replace("-", " ").split())
    if not digits or len(digits) > MOST_KEYS or not set(digits) <= DTMF_KEYS:
        raise BadArgumentsError(f"{SEND_DTMF}: digits must be 1 to {MOST_KEYS} of 0-9, *, #, A-D.")
    return digits


def _typed(tool: str, parameter: Parameter, value: Any) -> Any:
    try:
        typed = _READERS[parameter.type](value)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise BadArgumentsError(f"{tool}: the argument {parameter.name} must be of type {parameter.type}.") from None
    if isinstance(typed, str) and len(typed) > parameter.max_chars:
        raise BadArgumentsError(
            f"{tool}: the argument {parameter.name} is longer than {parameter.max_chars} characters."
        )
    if parameter.choices and str(typed) not in parameter.choices:
        raise BadArgumentsError(f"{tool}: the argument {parameter.name} must be one of {', '.join(parameter.choices)}.")
    return typed


def _text(value: Any) -> str:
    if isinstance(value, bool | int | float | str):
        return str(value).strip()
    raise TypeError


def _integer(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    number = float(value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError
    return number


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "yes": True, "false": False, "no": False}[str(value).strip().lower()]


_READERS: Final = {"string": _text, "integer": _integer, "number": _number, "boolean": _boolean}


def usable(spec: ToolSpec) -> bool:
    """Whether it has what it needs; one that has not is declared, but no model is told of it."""
    if spec.kind == TRANSFER:
        return any(parameter.choices for parameter in spec.parameters)
    return spec.kind != HTTP or bool(spec.options.get("url"))
