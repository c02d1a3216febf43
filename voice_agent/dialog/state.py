"""The states of a call, and everything a call remembers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from voice_agent.dialog.history import History
from voice_agent.dialog.records import StageTimes
from voice_agent.dialog.reply import Reply
from voice_agent.plan import Memory


class State(Enum):
    """Where a call is. The value is the name used in logs and docs."""

    NEW = "new"
    LISTENING = "listening"
    HEARING = "hearing"
    PAUSED = "paused"
    THINKING = "thinking"
    SPEAKING = "speaking"
    HELD = "held"
    ENDING = "ending"
    ENDED = "ended"


class Timer(Enum):
    """Deadlines the machine keeps; at most one of each."""

    ENDPOINT = "endpoint"
    CONFIRM = "confirm"
    SILENCE = "silence"
    MAX_CALL = "max_call"
    KEYS = "keys"
    FILLER = "filler"


Job = tuple[str, int, int]
"""(stage, turn or utterance, pause or clause): see ``JobFailed``."""


@dataclass(slots=True)
class Utterance:
    """What the caller is saying, as far as it is known.

    ``prefix`` is text of earlier utterances of the same turn (the caller went on after we had closed one).
    ``text`` is None until a flushed transcript for the current ``pause`` has come. ``fade`` numbers the request for
    words that was made when the voice fell, 0 when it has risen since.
    """

    number: int
    speaking: bool
    pause: int = 0
    text: str | None = None
    partial: str = ""
    confidence: float = 0.0
    complete: float | None = None
    asks: int = 0
    fade: int = 0


@dataclass(slots=True)
class CallState:
    """Everything that has to survive a hand-over.

    ``closed`` is the number of the last utterance that is over. ``quiet_ms`` is when the last sound on the line ended
    or will end, the caller's or ours, as far as is known. ``heard_by`` is the engine that gave the words of this turn.
    """

    state: State = State.NEW
    turn: int = 0
    pauses: int = 0
    utterance: Utterance | None = None
    closed: int = 0
    prefix: list[str] = field(default_factory=list)
    confidence: float = 1.0
    times: StageTimes = field(default_factory=StageTimes)
    reply: Reply | None = None
    speculations: int = 0
    early_speculations: int = 0
    reprompts: int = 0
    history: History = field(default_factory=History)
    memory: Memory = field(default_factory=Memory)
    digits: str = ""
    caller_pauses_ms: list[int] = field(default_factory=list)
    turn_pause_ms: int = 0
    unbroken_turns: int = 0
    load: float = 0.0
    jobs: set[Job] = field(default_factory=set)
    timers: dict[Timer, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    quiet_ms: int = 0
    fillers: int = 0
    heard_by: str = ""
    caller_pii: str = ""
    called: str = ""
    turns: int = 0
    started_ms: int = 0
    now_ms: int = 0

    def count(self, name: str) -> None:
        """Add one to a counter."""
        self.counters[name] = self.counters.get(name, 0) + 1

    def caller_text(self) -> str:
        """All the caller has said in this turn so far."""
        current = self.utterance.text if self.utterance else None
        return " ".join(part for part in (*self.prefix, current or "") if part)
