"""Events and commands as JSON-able entries, and events back again: the replayable log of a call.

An entry is ``{"t_ms": 1200, "event": "SpeechPaused", ...fields}`` or ``{"t_ms": 1200, "command": "Transcribe", ...}``.
What a person said or was told, keys they pressed and what tools were asked with stands under keys ending in ``_pii``.
Events are complete, so that a call can be replayed from them; of commands the bulky parts are left out, since a replay
makes them again. Audio is never logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_args

from voice_agent.dialog.commands import Command, EndCall, Generate, RecordTurn
from voice_agent.dialog.events import Event, PassagesReady, ReplyReceived, SpeechSynthesised, ToolFinished
from voice_agent.errors import ProtocolError
from voice_agent.plan import Outcome
from voice_agent.ports import Passage, ReplyChunk, ToolCall

_EVENTS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Event)}

# Fields of records that carry what people say; in the log their key gets the suffix ``_pii``.
_PRIVATE: frozenset[tuple[str, str]] = frozenset(
    {
        ("TranscriptReady", "text"),
        ("ReplyChunk", "text"),
        ("ToolCall", "arguments"),
        ("DtmfReceived", "digit"),
        ("Retrieve", "query"),
        ("Synthesise", "text"),
        ("Synthesise", "keys"),
        ("Message", "content"),
        ("HangUpRequested", "details"),
        ("RunTool", "arguments"),
        ("Outcome", "value"),
        ("Outcome", "say"),
    }
)


def event_entry(t_ms: int, event: Event) -> dict[str, Any]:
    """The log entry of an event at ``t_ms`` on the call's clock."""
    return {"t_ms": t_ms, "event": type(event).__name__, **_plain(event)}


def command_entry(t_ms: int, command: Command) -> dict[str, Any]:
    """The log entry of a command at ``t_ms`` on the call's clock; see the module text for what is left out."""
    entry: dict[str, Any] = {"t_ms": t_ms, "command": type(command).__name__}
    if isinstance(command, Generate):
        entry |= {
            "turn": command.turn,
            "messages": len(command.messages),
            "passages": [passage.chunk_id for passage in command.passages],
            "confidence": command.confidence,
            "speculative": command.speculative,
        }
    elif isinstance(command, RecordTurn):
        entry |= {"turn": command.record.turn, "outcome": command.record.outcome}
    elif isinstance(command, EndCall):
        entry["reason"] = command.reason
    else:
        entry |= _plain(command)
    return entry


def event_from(entry: Mapping[str, Any]) -> Event:
    """The event of a log entry, for replay.

    Raises:
        ProtocolError: the entry is no event, or one this version does not know.
    """
    name = entry.get("event")
    kind = _EVENTS.get(str(name))
    if kind is None:
        raise ProtocolError(f"log entry with unknown event {name!r}; known are {', '.join(sorted(_EVENTS))}")
    try:
        values = {f.name: entry[_key(kind.__name__, f.name)] for f in fields(kind) if not _absent(kind, f, entry)}
        event: Event = kind(**_rebuilt(kind, values))
    except (TypeError, KeyError) as error:
        raise ProtocolError(f"log entry of event {name} is incomplete: {error}") from error
    return event


def _absent(kind: type[Any], field: Field[Any], entry: Mapping[str, Any]) -> bool:
    """A field with a default that a log of an older version lacks."""
    return field.default is not MISSING and _key(kind.__name__, field.name) not in entry


def _key(record: str, name: str) -> str:
    return f"{name}_pii" if (record, name) in _PRIVATE else name


def _plain(record: Any) -> dict[str, Any]:
    kind = type(record).__name__
    return {_key(kind, field.name): _value(getattr(record, field.name)) for field in fields(record)}


def _value(value: Any) -> Any:
    if is_dataclass(value):
        return _plain(value)
    if isinstance(value, (tuple, list)):
        return [_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _value(item) for key, item in value.items()}
    return value


def _rebuilt(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """Nested records of the few events that have them."""
    if kind is PassagesReady:
        values["passages"] = tuple(Passage(**passage) for passage in values["passages"])
    elif kind is ReplyReceived:
        values["chunk"] = _chunk(values["chunk"])
    elif kind is SpeechSynthesised:
        values["word_ends_ms"] = tuple(values["word_ends_ms"])
    elif kind is ToolFinished:
        plain = values["outcome"]
        values["outcome"] = Outcome(plain["name"], plain["ok"], plain["value_pii"], plain["say_pii"], plain["code"])
    return values


def _chunk(plain: Mapping[str, Any]) -> ReplyChunk:
    call = plain["tool_call"]
    return ReplyChunk(
        text=plain["text_pii"],
        tool_call=None if call is None else ToolCall(name=call["name"], arguments=call["arguments_pii"]),
        sources=tuple(plain["sources"]),
        finish_reason=plain["finish_reason"],
    )
