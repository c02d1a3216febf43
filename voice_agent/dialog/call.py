"""What every part of the dialog machine stands on: the call's memory, its clock, its jobs and its commands."""

from __future__ import annotations

from abc import ABC, abstractmethod

from voice_agent.dialog.commands import (
    CloseUtterance,
    Command,
    EndCall,
)
from voice_agent.dialog.events import (
    Event,
    JobFailed,
    PassagesReady,
    ReplyReceived,
    SpeechFaded,
    SpeechPaused,
    SpeechResumed,
    SpeechRose,
    SpeechStarted,
    SpeechSynthesised,
    ToolFinished,
    TranscriptReady,
)
from voice_agent.dialog.policy import AgentPhrases, TurnPolicy
from voice_agent.dialog.records import CallRecord
from voice_agent.dialog.state import CallState, Job, State, Timer
from voice_agent.director import FreeDirector
from voice_agent.plan import Director

RESULTS = (TranscriptReady, PassagesReady, ReplyReceived, SpeechSynthesised, ToolFinished, JobFailed)
"""Events that answer a job. One whose job is not open is refused: it belongs to a turn that is gone."""
SPEECH = (SpeechStarted, SpeechPaused, SpeechResumed, SpeechFaded, SpeechRose)
"""Events of an utterance. One that is closed has no more: what is told of it has crossed the command on its way, and
the gateway begins another for what the caller goes on to say."""


class Call(ABC):
    """A call's memory and the few things that may be done to it. Times are ms on the call's clock."""

    def __init__(self, policy: TurnPolicy, agent: AgentPhrases, call_id: str, director: Director | None = None) -> None:
        self.policy = policy
        self.agent = agent
        self.director: Director = director or FreeDirector(agent)
        self.call_id = call_id
        self._s = CallState()
        self._commands: list[Command] = []

    @abstractmethod
    def _floor_is_free(self) -> None:
        """The agent has finished speaking; the listening side takes over."""

    def _advance(self, now_ms: int) -> None:
        self._s.now_ms = max(self._s.now_ms, now_ms)

    def _at(self, timer: Timer, at_ms: int) -> None:
        self._s.timers[timer] = max(at_ms, self._s.now_ms)

    def _go(self, state: State) -> None:
        self._s.state = state

    def _start(self, job: Job, command: Command) -> None:
        self._s.jobs.add(job)
        self._commands.append(command)

    def _settle(self, event: Event) -> bool:
        """Is this the answer to an open job? A last answer closes the job."""
        job, final = _job_of(event)
        if isinstance(event, TranscriptReady) and not event.flushed and not event.pause:
            return self._s.utterance is not None and self._s.utterance.number == event.utterance
        if job not in self._s.jobs:
            return False
        if final:
            self._s.jobs.discard(job)
        return True

    def _forget_jobs(self, turn: int) -> None:
        self._s.jobs = {job for job in self._s.jobs if job[0] == "transcribe" or job[1] != turn}

    def _close_utterance(self, *, keep_words: bool = False) -> None:
        utterance = self._s.utterance
        if utterance is None:
            return
        if keep_words and utterance.text:
            self._s.prefix.append(utterance.text)
            self._s.confidence = utterance.confidence
        self._commands.append(CloseUtterance(utterance.number))
        self._s.jobs = {job for job in self._s.jobs if job[0] != "transcribe" or job[1] != utterance.number}
        self._s.closed = utterance.number
        self._s.utterance = None

    def _end(self, reason: str) -> None:
        self._close_utterance()
        self._s.timers.clear()
        self._go(State.ENDED)
        record = CallRecord(
            call_id=self.call_id,
            caller_pii=self._s.caller_pii,
            called=self._s.called,
            duration_ms=self._s.now_ms - self._s.started_ms,
            turns=self._s.turns,
            barge_ins=self._s.counters.get("barge_ins", 0),
            end_reason=reason,
            counters=dict(self._s.counters),
        )
        self._commands.append(EndCall(reason, record))


def _job_of(event: Event) -> tuple[Job, bool]:
    """The job an event answers, and whether this is the job's last answer."""
    match event:
        case TranscriptReady():
            return ("transcribe", event.utterance, event.pause), event.flushed or event.pause > 0
        case PassagesReady():
            return ("retrieve", event.turn, 0), True
        case ReplyReceived():
            return ("generate", event.turn, 0), bool(event.chunk.finish_reason)
        case SpeechSynthesised():
            return ("synthesise", event.turn, event.clause), event.last
        case ToolFinished():
            return ("tool", event.turn, event.index), True
        case JobFailed():
            return (event.stage, event.turn, event.key), True
    return ("", 0, 0), False
