"""A call's snapshot as the bytes that travel between actors and gateways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from voice_agent.errors import ProtocolError


def packed(values: Mapping[str, Any]) -> bytes:
    """A snapshot as MessagePack."""
    return msgspec.msgpack.encode(values)


def unpacked(snapshot: bytes) -> dict[str, Any]:
    """The values of a packed snapshot.

    Raises:
        ProtocolError: it is none.
    """
    try:
        values = msgspec.msgpack.decode(snapshot)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a call snapshot that cannot be unpacked: {error!r}") from error
    if not isinstance(values, dict):
        raise ProtocolError("a call snapshot that is no mapping")
    return values
