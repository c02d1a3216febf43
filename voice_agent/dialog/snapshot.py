"""The call's memory as JSON-able values, and back. The version says which code wrote it; older ones are upgraded here.

The codec follows the type hints of the state's dataclasses, so a new field with a default needs no code: an old
snapshot simply lacks it, and older code passes over what it does not know. ``VERSION`` is raised when older code would
misread a snapshot; it then refuses it, and the call stays on a host that can read it.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from voice_agent.dialog.state import CallState
from voice_agent.errors import ProtocolError

VERSION = 1


def dump(state: CallState, call_id: str) -> dict[str, Any]:
    """A snapshot of ``state``."""
    return {"version": VERSION, "call_id": call_id, "state": _encode(state)}


def load(data: Mapping[str, Any]) -> tuple[CallState, str]:
    """State and call id of a snapshot.

    Raises:
        ProtocolError: the snapshot is of a newer version than this code, or is not one.
    """
    version = data.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ProtocolError(f"This code reads call snapshots up to version {VERSION}; this one is of {version!r}.")
    try:
        return _decode(CallState, data["state"]), str(data["call_id"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # A state or a timer this code has no name for, a field of another shape.
        raise ProtocolError(f"This call snapshot holds what this code cannot read: {error!r}.") from error


Encoder = Callable[[Any], Any]


def _encode(value: Any) -> Any:
    """JSON-able form of any value of the state. How to encode a type is found once: this runs on every transition."""
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    encoder = _ENCODERS.get(kind)
    if encoder is None:
        encoder = _ENCODERS[kind] = _encoder(kind)
    return encoder(value)


_AS_IT_IS = frozenset({str, int, float, bool, type(None)})
_ENCODERS: dict[type, Encoder] = {}


def _encoder(kind: type) -> Encoder:
    if is_dataclass(kind):
        names = tuple(field.name for field in fields(kind))
        return lambda value: {name: _encode(getattr(value, name)) for name in names}
    if issubclass(kind, Enum):
        return lambda value: value.value
    if issubclass(kind, Mapping):
        return lambda value: {str(_encode(key)): _encode(item) for key, item in value.items()}
    if issubclass(kind, set | frozenset):
        return lambda value: sorted(_encode(item) for item in value)
    if issubclass(kind, list | tuple):
        return lambda value: [_encode(item) for item in value]
    return lambda value: value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(kind: Any, value: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        inner = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _decode(inner[0], value)
    if is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        return kind(**{name: _decode(hints[name], item) for name, item in value.items() if name in hints})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if origin in (list, set):
        return origin(_decode(arguments[0], item) for item in value)
    if origin is tuple:
        inner = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        return tuple(_decode(argument, item) for argument, item in zip(inner, value, strict=True))
    if origin in (dict, Mapping):
        return {_decode(arguments[0], key): _decode(arguments[1], item) for key, item in value.items()}
    return value
