"""The settings as a flat list of keys: what each is called, takes and means. Loader, error texts and docs share it."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from configs.settings import Settings

SET_BY_LOADER = "profile"
"""A key that says which profile was loaded; it is chosen by ``--profile`` or ``extends``, not set."""

MASK = "***"

_SECRET_NAME = re.compile(r"(key|token|secret|password)$", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@/\s]+@")
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_KINDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One setting. ``kind`` and ``allowed`` are words for people; ``open_ended`` keys hold keys of their own."""

    name: str
    kind: str
    allowed: str
    default: Any
    description: str
    secret: bool
    textual: bool
    open_ended: bool


@cache
def all_keys() -> dict[str, Key]:
    """Every setting by dotted name, in the order of the models."""
    return {key.name: key for key in _walk(Settings, "")}


@cache
def sections() -> dict[str, type[BaseModel]]:
    """The models by dotted name; the root is ``""``."""
    found: dict[str, type[BaseModel]] = {"": Settings}
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found[name] = field.annotation
    return found


def find(name: str) -> Key | None:
    """The setting a dotted name belongs to; ``llm.options.model`` belongs to ``llm.options``."""
    known = all_keys()
    if name in known:
        return known[name]
    return next((key for key in known.values() if key.open_ended and name.startswith(key.name + ".")), None)


def unknown(name: str) -> str:
    """What is wrong with a name that is no setting: the closest one, else what its section holds."""
    section, _, last = name.rpartition(".")
    if section in sections():
        choices = list(sections()[section].model_fields)
    else:
        section, choices, last = "", list(Settings.model_fields), name.split(".")[0]
    if name in all_keys() and not all_keys()[name].open_ended:
        return f"{name} is a single value"
    full = [f"{section}.{choice}" if section else choice for choice in choices]
    close = difflib.get_close_matches(last, choices, n=1) or difflib.get_close_matches(name, list(all_keys()), n=1)
    where = f"section {section}" if section else "the top level"
    allowed = f"{where} has {', '.join(choices)}"
    if close:
        best = full[choices.index(close[0])] if close[0] in choices else close[0]
        return f"there is no such setting; did you mean {best}? ({allowed})"
    return f"there is no such setting; {allowed}"


def shown(name: str, value: object) -> object:
    """A value fit for a screen or a log: secrets and passwords inside URLs are masked."""
    key = find(name)
    if value in ("", None):
        return value
    if (key is not None and key.secret) or _SECRET_NAME.search(name):
        return MASK
    if isinstance(value, str):
        return _URL_PASSWORD.sub(rf"\1{MASK}@", value)
    if isinstance(value, dict):
        return {inner: shown(f"{name}.{inner}", item) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown(name, item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _walk(annotation, f"{prefix}{name}.")
        else:
            yield _key(prefix + name, field)


def _key(name: str, field: FieldInfo) -> Key:
    extra = field.json_schema_extra
    return Key(
        name=name,
        kind=_kind(field.annotation),
        allowed=allowed(field),
        default=field.get_default(call_default_factory=True),
        description=field.description or "",
        secret=isinstance(extra, dict) and bool(extra.get("secret")),
        textual=field.annotation in (str, Path) or get_origin(field.annotation) is Literal,
        open_ended=get_origin(field.annotation) is dict,
    )


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return "choice"
    if origin is list:
        return f"list of {_kind(get_args(annotation)[0])}s"
    if origin is dict:
        return "mapping"
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in get_args(annotation) if part is not type(None))
    return _KINDS.get(annotation, "value")


def allowed(field: FieldInfo) -> str:
    """What a field of a model takes, in words."""
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(field.annotation))
    if get_origin(field.annotation) is list and get_origin(item := get_args(field.annotation)[0]) is Literal:
        return "list of any of " + ", ".join(str(choice) for choice in get_args(item))
    bounds = [
        f"{words} {getattr(rule, attribute):g}"
        for rule in field.metadata
        for attribute, words in _BOUNDS.items()
        if getattr(rule, attribute, None) is not None
    ]
    return f"{_kind(field.annotation)}{', ' if bounds else ''}{' and '.join(bounds)}"
