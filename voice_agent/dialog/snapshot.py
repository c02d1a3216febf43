"""The call's memory as JSON-able values, and back. The version says which code wrote it; older ones are upgraded here.

The values follow the type hints of the state's dataclasses, so a new field with a default needs no code: an old
snapshot simply lacks it, and older code passes over what it does not know. ``VERSION`` is raised when older code would
misread a snapshot; it then refuses it, and the call stays on a host that can read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from voice_agent.dialog.state import CallState
from voice_agent.errors import ProtocolError

VERSION = 1


def dump(state: CallState, call_id: str) -> dict[str, Any]:
    """A snapshot of ``state``: the same for equal states, whatever the order in their sets."""
    values = msgspec.to_builtins(state, str_keys=True, order="deterministic", enc_hook=_plain)
    return {"version": VERSION, "call_id": call_id, "state": values}


def load(data: Mapping[str, Any]) -> tuple[CallState, str]:
    """State and call id of a snapshot.

    Raises:
        ProtocolError: the snapshot is of a newer version than this code, or is not one.
    """
    version = data.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ProtocolError(f"This code reads call snapshots up to version {VERSION}; this one is of {version!r}.")
    try:
        return msgspec.convert(data["state"], CallState, str_keys=True, strict=False), str(data["call_id"])
    except (KeyError, msgspec.ValidationError) as error:
        # A state or a timer this code has no name for, a field of another shape.
        raise ProtocolError(f"This call snapshot holds what this code cannot read: {error!r}.") from error


def _plain(value: object) -> object:
    """A number of an engine that is of a kind of its own, as numpy's are."""
    for kind in (float, int, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"a call cannot keep a {type(value).__name__}")
