"""Messages between the swarm and its generator processes: pickled, with a length in front, over standard streams.

Both ends are this package in processes of one user, and nobody else holds the pipe.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.carrier import CallTarget
from loadtest.place import CallOutcome
from loadtest.swarm.plan import LoadPlan

_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Setup:
    """First message to a generator."""

    target: CallTarget
    plan: LoadPlan
    out_dir: str


@dataclass(frozen=True, slots=True)
class Place:
    """Place call ``number`` now. ``keep_audio``: write its recording."""

    number: int
    keep_audio: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """Cut the sockets of these calls, or of all (None)."""

    numbers: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Leave:
    """Every caller hangs up as soon as it has finished its line."""


ToGenerator = Setup | Place | Cut | Leave


@dataclass(frozen=True, slots=True)
class Ready:
    """A generator can place calls.

    ``speech`` says what speaks for its callers, ``cpu_s`` what the start has cost, ``precedence`` which place before
    other processes it was granted.
    """

    pid: int
    speech: str
    cpu_s: float
    precedence: str


@dataclass(frozen=True, slots=True)
class Noted:
    """Something happened in a call; see ``loadtest.place.CallProgress``.

    ``waited_ms``: how long the caller waited for the agent that now speaks, as the caller counts (20 ms steps, live;
    the figures of a report are measured on the audio).
    """

    number: int
    call_sid: str
    at_ms: int
    kind: str
    waited_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Call ``number`` is over and measured."""

    number: int
    outcome: CallOutcome


@dataclass(frozen=True, slots=True)
class Pulse:
    """Once a second: what a generator has cost so far. ``late`` counts ticks by tenths of a millisecond."""

    cpu_s: float
    late: Mapping[int, int]
    late_largest_ms: float


FromGenerator = Ready | Noted | Ended | Pulse


def pack(message: ToGenerator | FromGenerator) -> bytes:
    """One message for the pipe."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return len(body).to_bytes(_LENGTH_BYTES) + body


async def read(reader: asyncio.StreamReader) -> Any:
    """The next message; None at the end of the stream."""
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES))
        return pickle.loads(await reader.readexactly(length))
    except asyncio.IncompleteReadError:
        return None
