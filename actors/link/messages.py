"""Messages on the media link between a MediaGateway and a CallActor. ``actors.link.connection`` frames them as msgpack.

One TCP connection per (gateway, call actor), opened by the gateway, carries all their calls. The first frame each way
is ``Hello``. Every message after it names its call. ``epoch`` fences: the gateway raises it each time it attaches a
call to an actor and refuses messages of an older epoch, so an actor that was only frozen can do no harm.
Audio is mu-law mono 8 kHz bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from voice_agent.dialog.events import Event

PROTOCOL_VERSION = 4
"""Raised when a message or a field changes; both ends must speak the same."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Both ways, first. ``token`` is the cluster's link secret; ``version`` of this protocol."""

    name: str
    token_secret: str
    version: int = PROTOCOL_VERSION


# --- gateway to call actor ---


@dataclass(frozen=True, slots=True)
class Attach:
    """Take this call. ``now_ms`` is the call's clock at sending.

    ``snapshot`` is empty for a new call, else the newest one the gateway holds. After a take-over the gateway sends the
    audio of the open utterance again from sample 0, ``replay_samples`` of it, then events as they come.
    """

    call_id: str
    epoch: int
    now_ms: int
    caller_pii: str
    called: str
    traceparent: str
    snapshot: bytes = b""
    replay_samples: int = 0


@dataclass(frozen=True, slots=True)
class CallEvent:
    """A core event born in the gateway (speech, playout, DTMF, carrier)."""

    call_id: str
    event: Event


@dataclass(frozen=True, slots=True)
class CallerAudio:
    """Caller audio of the open utterance."""

    call_id: str
    utterance: int
    offset_samples: int
    audio: bytes


@dataclass(frozen=True, slots=True)
class Detach:
    """The call is no longer this actor's (leg gone, or handed over). The actor frees everything of it."""

    call_id: str
    reason: str


# --- call actor to gateway ---


@dataclass(frozen=True, slots=True)
class Play:
    """Audio of a clause, in order. ``last`` ends the clause: the gateway puts a mark behind it."""

    call_id: str
    epoch: int
    turn: int
    clause: int
    audio: bytes
    last: bool
    interruptible: bool


@dataclass(frozen=True, slots=True)
class Control:
    """``verb``: hold, resume, clear (``number`` = turn), close_utterance (``number`` = utterance), hang_up."""

    call_id: str
    epoch: int
    verb: str
    number: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The call's state after a transition; the gateway keeps the newest for a replacement actor.

    ``events`` says how many ``CallEvent`` since this actor's ``Attach`` are in it; later ones a replacement has to be
    told again. The first snapshot after an ``Attach`` says that the actor has the call.
    """

    call_id: str
    epoch: int
    state: bytes
    events: int = 0


HANDED_OVER = "handed_over"
"""Reason of a ``Detach`` after which the call goes on in another actor."""

HOST_FULL = "full"
"""Reason of a ``hang_up`` by an actor that has no room: the call needs another host, not an end."""

UNREADABLE = "unreadable"
"""The same of an actor that cannot read the call's snapshot: the call needs a host with the code that wrote it."""

FAULT = "failed"
"""The same of an actor whose code failed on the call: where there is a host of other code, that has it next."""

ToActor = Hello | Attach | CallEvent | CallerAudio | Detach
ToGateway = Hello | Play | Control | Snapshot
