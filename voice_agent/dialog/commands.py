"""What the dialog machine asks its shell to do. One closed union: ``Command``.

Jobs (``Transcribe``, ``Retrieve``, ``Generate``, ``Synthesise``, ``RunTool``) are started by their command and end
exactly once: by their result event, by ``JobFailed``, or by ``CancelTurn`` / ``CloseUtterance``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voice_agent.dialog.records import CallRecord, TurnRecord
from voice_agent.ports import Message, Passage


@dataclass(frozen=True, slots=True)
class Transcribe:
    """Ask for the text of an utterance. ``pause`` numbers the request.

    ``flush``: with all audio up to now accounted for; else what is known of it at once.
    """

    utterance: int
    pause: int
    flush: bool = True


@dataclass(frozen=True, slots=True)
class CloseUtterance:
    """The utterance is over: the gateway stops capturing it, the recogniser forgets it, open requests end."""

    utterance: int


@dataclass(frozen=True, slots=True)
class Retrieve:
    """Search the knowledge base for a turn."""

    turn: int
    query: str


@dataclass(frozen=True, slots=True)
class Generate:
    """Stream a reply for a turn. The last message is what the caller said."""

    turn: int
    messages: tuple[Message, ...]
    passages: tuple[Passage, ...]
    confidence: float
    speculative: bool


@dataclass(frozen=True, slots=True)
class Synthesise:
    """Speak a clause. Its audio is kept by the shell until ``ReleaseTurn``, then goes straight to the gateway.

    ``keys``: press these telephone keys instead; ``text`` is empty then. ``recorded``: play the recording of this
    phrase, in front of everything of the turn that has not begun to play. ``again``: the voice broke off in these
    words.
    """

    turn: int
    clause: int
    text: str
    keys: str = ""
    recorded: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class RunTool:
    """Run a tool of a released turn. ``(call, turn, index)`` is its idempotency key: it has its effect once."""

    turn: int
    index: int
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReleaseTurn:
    """Let the audio of this turn out: what is synthesised now, and what follows as it comes."""

    turn: int
    interruptible: bool


@dataclass(frozen=True, slots=True)
class CancelTurn:
    """Cancel every open job of this turn down to the engine, and drop its audio that was not released."""

    turn: int


@dataclass(frozen=True, slots=True)
class HoldPlayout:
    """Stop playing within one frame, keep what was not heard; the gateway answers with ``PlayoutHeld``."""


@dataclass(frozen=True, slots=True)
class ResumePlayout:
    """Go on exactly where playout was held."""


@dataclass(frozen=True, slots=True)
class ClearPlayout:
    """Drop all audio of turns up to and including ``turn``; later audio of them is refused by the gateway."""

    turn: int


@dataclass(frozen=True, slots=True)
class RecordTurn:
    """A turn is over; its record goes to the journal."""

    record: TurnRecord


@dataclass(frozen=True, slots=True)
class EndCall:
    """Close the leg, if it is still open, and give everything back. The last command of a call."""

    reason: str
    record: CallRecord


Command = (
    Transcribe
    | CloseUtterance
    | Retrieve
    | Generate
    | Synthesise
    | RunTool
    | ReleaseTurn
    | CancelTurn
    | HoldPlayout
    | ResumePlayout
    | ClearPlayout
    | RecordTurn
    | EndCall
)
