"""What the dialog machine is told. One closed union: ``Event``.

Times are integer milliseconds on the call's clock, which starts at 0 when the carrier's media starts and is kept by
the media gateway; the call actor re-bases it when it is attached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from voice_agent.plan import Outcome
from voice_agent.ports import Passage, ReplyChunk


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The carrier's media stream is open and authenticated."""

    call_id: str
    caller_pii: str = ""
    called: str = ""


# --- from the media gateway ---


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The caller began to speak; a new utterance is being captured.

    If playout was running and may be interrupted, the gateway has already held it and reports where with
    ``PlayoutHeld`` *before* this event. ``onset_ms`` is the first loud frame.
    """

    utterance: int
    onset_ms: int


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """The caller has been silent for the pause time. ``speech_end_ms`` is the end of the last loud frame."""

    utterance: int
    speech_end_ms: int


@dataclass(frozen=True, slots=True)
class SpeechResumed:
    """The caller went on with an utterance that is still open: no ``CloseUtterance`` has reached the gateway."""

    utterance: int
    onset_ms: int


@dataclass(frozen=True, slots=True)
class SpeechFaded:
    """The caller's voice falls, as with the last word of a turn, and elsewhere; told once of each fall."""

    utterance: int


@dataclass(frozen=True, slots=True)
class SpeechRose:
    """A voice that had faded goes on without a pause."""

    utterance: int


@dataclass(frozen=True, slots=True)
class DtmfReceived:
    """A key was pressed. ``digit`` is one of ``0123456789*#ABCD``."""

    digit: str


@dataclass(frozen=True, slots=True)
class PlayoutStarted:
    """The first frame of a clause went to the carrier."""

    turn: int
    clause: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class ClausePlayed:
    """The carrier's mark came back: the clause was played to its end."""

    turn: int
    clause: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class PlayoutHeld:
    """Playout stopped inside a clause. ``heard_ms`` of the clause's audio had been heard.

    Everything not heard is kept by the gateway until ``ResumePlayout`` or ``ClearPlayout``.
    """

    turn: int
    clause: int
    heard_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class CarrierStopped:
    """The leg is gone: the caller hung up, or the socket died. Nothing more can be heard or said."""

    reason: str


# --- from the model plane (results of jobs the machine commanded) ---


@dataclass(frozen=True, slots=True)
class TranscriptReady:
    """Text of an utterance so far; ``flushed`` when it accounts for all audio up to the pause that asked for it.

    ``pause`` is the number given in ``Transcribe`` (0 for text that nobody asked for). ``engine`` is the one that
    answered, where it is told. ``complete`` is the turn model's probability that the caller is done, None where there
    is none.
    """

    utterance: int
    pause: int
    text: str
    confidence: float
    flushed: bool
    complete: float | None = None
    engine: str = ""


@dataclass(frozen=True, slots=True)
class PassagesReady:
    """Retrieval for a turn is done."""

    turn: int
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class ReplyReceived:
    """A chunk of the reply of a turn; the last has ``chunk.finish_reason`` set."""

    turn: int
    chunk: ReplyChunk


@dataclass(frozen=True, slots=True)
class SpeechSynthesised:
    """Audio of a clause arrived in the actor.

    ``duration_ms`` counts all audio of the clause so far; ``word_ends_ms`` comes with the last piece where the engine
    knows it. ``engine`` is the one that spoke; "recorded" for a recording.
    """

    turn: int
    clause: int
    duration_ms: int
    last: bool
    word_ends_ms: tuple[int, ...] = ()
    engine: str = ""


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool of a turn has run."""

    turn: int
    index: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class JobFailed:
    """A commanded job ended without a result. ``stage``: transcribe, retrieve, generate, synthesise, tool.

    ``key`` is the utterance's pause number for ``transcribe``, the clause for ``synthesise``, the index for ``tool``,
    else 0; ``turn`` is the utterance for ``transcribe``.
    """

    stage: str
    turn: int
    key: int
    code: str


@dataclass(frozen=True, slots=True)
class HangUpRequested:
    """An operator, a drain or the maximum call length asks for the end of the call."""

    reason: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadChanged:
    """How busy the model plane is: 0 idle, 1 at its limit. Speculation stops near the limit."""

    level: float


Event = (
    CallStarted
    | SpeechStarted
    | SpeechPaused
    | SpeechResumed
    | DtmfReceived
    | PlayoutStarted
    | ClausePlayed
    | PlayoutHeld
    | CarrierStopped
    | TranscriptReady
    | PassagesReady
    | ReplyReceived
    | SpeechSynthesised
    | ToolFinished
    | JobFailed
    | HangUpRequested
    | LoadChanged
    | SpeechFaded
    | SpeechRose
)
