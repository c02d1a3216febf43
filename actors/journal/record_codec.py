"""Records of calls and turns as JSON-able values, and back: for the spool, for ``turns.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from actors.call.outbox import CallBegan, CallMoved
from voice_agent.dialog.records import CallRecord, StageTimes, TurnRecord
from voice_agent.errors import ProtocolError

StoredRecord = CallBegan | CallMoved | TurnRecord | CallRecord
"""What Postgres keeps."""

_KINDS: dict[str, type[StoredRecord]] = {
    "began": CallBegan,
    "moved": CallMoved,
    "turn": TurnRecord,
    "ended": CallRecord,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def to_plain(record: StoredRecord) -> dict[str, Any]:
    """A record with its kind under ``record``."""
    return {"record": _NAMES[type(record)], **asdict(record)}


def from_plain(plain: Mapping[str, Any]) -> StoredRecord:
    """The record ``to_plain`` was given.

    Raises:
        ProtocolError: it is none, or one of another version.
    """
    values = dict(plain)
    kind = _KINDS.get(str(values.pop("record", "")))
    if kind is None:
        raise ProtocolError("a spooled line is no record of a call")
    try:
        if kind is TurnRecord:
            values["times"] = StageTimes(**values["times"])
            values |= {name: tuple(values[name]) for name in ("sources", "tool_calls", "failed_stages")}
        return kind(**values)
    except (TypeError, KeyError) as error:
        raise ProtocolError(f"a spooled record is of another version: {error}") from error
