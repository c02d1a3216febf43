"""``{slot}`` and ``{tool.field}`` in the words of a flow, with values as a voice can say them.

``{order_number}`` is spoken as its slot's type asks for: digits one by one, dates as dates. Of a tool's result, digits
are spelled when there are five or more or they begin with 0. ``{value:digits}`` spells in any case, ``{value:plain}``
never does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from voice_agent.flow.spoken import spelled, spelled_number, spoken_date, spoken_email
from voice_agent.plan import FlowPosition

FORMATS: Final = ("digits", "plain")
FIELD: Final = re.compile(r"\{([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?)(?::([a-z]+))?\}")

_SPELLED_FROM = 5
_SPEAK: Final[Mapping[str, Callable[[str], str]]] = {
    "digits": spelled,
    "phone": spelled_number,
    "date": spoken_date,
    "email": spoken_email,
}


def as_text(value: Any) -> str:
    """A value of a YAML file or of a tool's result, as flows compare and keep it: true is ``yes``, None is empty."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        return ", ".join(as_text(item) for item in value)
    return "" if value is None else str(value)


def subjects(text: str) -> Iterator[str]:
    """The slots and ``tool.field``s a template names."""
    for match in FIELD.finditer(text):
        yield match[1]


def problem(text: str) -> str:
    """What is wrong with the braces of a template; empty when nothing is."""
    for match in FIELD.finditer(text):
        if match[2] is not None and match[2] not in FORMATS:
            return f"one of {', '.join(FORMATS)} is wanted behind the colon of {match[0]}"
    rest = FIELD.sub("", text)
    return "{slot} or {tool.field} in braces is wanted" if "{" in rest or "}" in rest else ""


def value_of(position: FlowPosition, subject: str) -> str:
    """The value of a slot or of ``tool.field``; empty where there is none."""
    tool, dot, field = subject.partition(".")
    return position.results.get(tool, {}).get(field, "") if dot else position.slots.get(subject, "")


def filled(text: str, position: FlowPosition) -> str:
    """A template with values as they are, for arguments of tools."""
    return FIELD.sub(lambda match: value_of(position, match[1]), text)


def speakable(text: str, position: FlowPosition, kinds: Mapping[str, str]) -> str:
    """A template as it is spoken. ``kinds``: the types of the slots."""

    def spoken(match: re.Match[str]) -> str:
        value = value_of(position, match[1])
        if match[2] == "plain":
            return value
        if match[2] == "digits":
            return spelled(value)
        return _SPEAK.get(kinds.get(match[1], ""), _of_result)(value)

    return " ".join(FIELD.sub(spoken, text).split())


def _of_result(value: str) -> str:
    apart = value.isdecimal() and value.isascii() and (len(value) >= _SPELLED_FROM or value[0] == "0")
    return spelled(value) if apart and len(value) > 1 else value
