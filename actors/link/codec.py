"""Messages as msgpack arrays ``[code, field, field, ...]``, generated from the dataclass fields of ``messages``.

Fields go by position, nested dataclasses (core events, passages, reply chunks) the same way, tuples as arrays. Codes
are the position in ``WIRE_TYPES``: append only, and raise ``PROTOCOL_VERSION`` when a field changes. Decoding checks
the type of every field, so a broken or foreign peer gives a ``ProtocolError`` and never a half-right message.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any, Union, get_args, get_origin

import msgspec

from actors.link.messages import Attach, CallerAudio, CallEvent, Control, Detach, Hello, Play, Snapshot
from voice_agent.dialog.events import Event
from voice_agent.errors import ProtocolError
from voice_agent.plan import Outcome
from voice_agent.ports import Passage, ReplyChunk, ToolCall

Message = Hello | Attach | CallEvent | CallerAudio | Detach | Play | Control | Snapshot

WIRE_TYPES: tuple[type, ...] = (
    Hello,
    Attach,
    CallEvent,
    CallerAudio,
    Detach,
    Play,
    Control,
    Snapshot,
    *get_args(Event),
    Passage,
    ReplyChunk,
    ToolCall,
    Outcome,
)

_Convert = Callable[[Any], Any]


def encode(message: Message) -> bytes:
    """Turn a message into its msgpack body (without the length prefix).

    Raises:
        ProtocolError: the object is not a link message or holds a value msgpack cannot carry.
    """
    try:
        return msgspec.msgpack.encode(_pack(message))
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"cannot encode {type(message).__name__}: {error}") from error


def decode(body: bytes) -> Message:
    """Turn a msgpack body into a message.

    Raises:
        ProtocolError: not msgpack, an unknown type code, or a field that is missing or of the wrong type.
    """
    try:
        raw = msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"link frame is not msgpack: {error}") from error
    message = _unpack_any(raw, _MESSAGES)
    return typing.cast(Message, message)


class _Plan:
    """How one dataclass crosses the wire."""

    __slots__ = ("checks", "cls", "code", "get", "names", "packers")

    def __init__(self, code: int, cls: type) -> None:
        hints = typing.get_type_hints(cls)
        self.code = code
        self.cls = cls
        self.names = tuple(field.name for field in fields(cls))
        self.get = attrgetter(*self.names)
        self.checks = tuple(_checker(hints[name]) for name in self.names)
        packs = tuple(_packer(hints[name]) for name in self.names)
        self.packers = packs if any(packs) else None

    def pack(self, value: Any) -> tuple[Any, ...]:
        values = self.get(value) if len(self.names) > 1 else (self.get(value),)
        if self.packers is None:
            return (self.code, *values)
        return (self.code, *(v if p is None else p(v) for p, v in zip(self.packers, values, strict=True)))

    def unpack(self, raw: list[Any]) -> Any:
        if len(raw) != len(self.checks) + 1:
            raise ProtocolError(f"{self.cls.__name__} has {len(raw) - 1} fields, expected {len(self.checks)}")
        try:
            return self.cls(*(check(value) for check, value in zip(self.checks, raw[1:], strict=True)))
        except _WrongTypeError as error:
            raise ProtocolError(f"a field of {self.cls.__name__} is {error}") from None


class _WrongTypeError(Exception):
    """A field does not hold what its annotation says."""


def _pack(value: Any) -> tuple[Any, ...]:
    plan = _BY_TYPE.get(type(value))
    if plan is None:
        raise ProtocolError(f"{type(value).__name__} is not a link message")
    return plan.pack(value)


def _unpack_any(raw: Any, allowed: frozenset[int]) -> Any:
    if not isinstance(raw, list) or not raw or type(raw[0]) is not int:
        raise ProtocolError("link frame is not an array with a type code")
    if raw[0] not in allowed:
        raise ProtocolError(f"link type code {raw[0]} is unknown here")
    return _BY_CODE[raw[0]].unpack(raw)


def _packer(hint: Any) -> _Convert | None:
    """How a field value is prepared for msgpack; None when msgpack takes it as it is."""
    inner = _without_none(hint)
    if _dataclasses_of(inner):
        return lambda value: None if value is None else _pack(value)
    if get_origin(inner) is tuple and _dataclasses_of(get_args(inner)[0]):
        return lambda values: [_pack(value) for value in values]
    if get_origin(inner) is Mapping:
        return dict
    return None


def _checker(hint: Any) -> _Convert:
    """How a field value from msgpack is checked and brought back."""
    inner = _without_none(hint)
    check = _strict_checker(inner)
    if inner is hint:
        return check
    return lambda value: None if value is None else check(value)


def _strict_checker(hint: Any) -> _Convert:
    classes = _dataclasses_of(hint)
    if classes:
        allowed = frozenset(WIRE_TYPES.index(cls) for cls in classes)
        return lambda raw: _unpack_any(raw, allowed)
    origin = get_origin(hint)
    if origin is tuple:
        item = _checker(get_args(hint)[0])
        return lambda raw: tuple(item(value) for value in _expect(list, raw))
    if origin is Mapping:
        return lambda raw: _expect(dict, raw)
    if hint is float:
        return lambda raw: float(_expect((float, int), raw))
    if hint not in (str, int, bool, bytes):
        raise TypeError(f"the link codec has no rule for {hint!r}")
    return lambda raw: raw if type(raw) is hint else _fail(hint, raw)


def _expect(kind: type | tuple[type, ...], raw: Any) -> Any:
    return raw if isinstance(raw, kind) and not isinstance(raw, bool) else _fail(kind, raw)


def _fail(kind: Any, raw: Any) -> Any:
    raise _WrongTypeError(f"{type(raw).__name__}, expected {getattr(kind, '__name__', kind)}")


def _without_none(hint: Any) -> Any:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    rest = [arg for arg in get_args(hint) if arg is not type(None)]
    return rest[0] if len(rest) == 1 else hint


def _dataclasses_of(hint: Any) -> tuple[type, ...]:
    """The dataclasses of a hint: one, or the members of a union of dataclasses; empty for anything else."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(members) if all(isinstance(m, type) and is_dataclass(m) for m in members) else ()


_PLANS = tuple(_Plan(code, cls) for code, cls in enumerate(WIRE_TYPES))
_BY_CODE = dict(enumerate(_PLANS))
_BY_TYPE = {plan.cls: plan for plan in _PLANS}
_MESSAGES = frozenset(_BY_TYPE[cls].code for cls in get_args(Message))
