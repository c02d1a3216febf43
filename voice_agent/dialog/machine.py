"""The call as a sans-I/O state machine.

``receive(event, now_ms)`` · ``take_commands()`` · ``on_deadline(now_ms)`` · ``next_deadline_ms()``. The shell feeds
events, executes commands and sleeps until the deadline; the machine never waits, never reads a clock and never fails on
an event that comes at an odd time: ``(state, event type)`` pairs that mean nothing are listed as such in ``IGNORED``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from voice_agent.dialog import snapshot as snapshots
from voice_agent.dialog.call import RESULTS, SPEECH
from voice_agent.dialog.commands import (
    CancelTurn,
    Command,
)
from voice_agent.dialog.events import (
    CallStarted,
    CarrierStopped,
    ClausePlayed,
    DtmfReceived,
    Event,
    HangUpRequested,
    JobFailed,
    LoadChanged,
    PassagesReady,
    PlayoutHeld,
    PlayoutStarted,
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
from voice_agent.dialog.state import State, Timer
from voice_agent.dialog.taking_over import TakingOver
from voice_agent.plan import Director, Outcome
from voice_agent.ports import ReplyChunk


class DialogMachine(TakingOver):
    """One call. See the module for the four verbs; ``snapshot`` and ``restore`` carry it to another process."""

    def receive(self, event: Event, now_ms: int) -> None:
        """Take an event. ``now_ms`` never runs backwards; if a clock does, the last time counts."""
        self._advance(now_ms)
        if isinstance(event, RESULTS) and not self._settle(event):
            self._s.count("stale_results")
            return
        if isinstance(event, SPEECH) and event.utterance <= self._s.closed:
            self._s.count("late_speech")
            return
        handler = TRANSITIONS.get((self._s.state, type(event)))
        if handler is not None:
            handler(self, event)

    def take_commands(self) -> list[Command]:
        """Commands since the last call, in order."""
        commands, self._commands = self._commands, []
        return commands

    def next_deadline_ms(self) -> int | None:
        """When ``on_deadline`` wants to be called, never earlier than the last ``now_ms``; None: no deadline."""
        return max(self._s.now_ms, min(self._s.timers.values())) if self._s.timers else None

    def on_deadline(self, now_ms: int) -> None:
        """Time has passed: fire every timer that is due, earliest first."""
        self._advance(now_ms)
        while due := [(at, timer.value, timer) for timer, at in self._s.timers.items() if at <= self._s.now_ms]:
            timer = min(due)[2]
            del self._s.timers[timer]
            DEADLINES[timer](self)

    @property
    def state(self) -> State:
        """Where the call is."""
        return self._s.state

    @property
    def between_turns(self) -> bool:
        """Nobody speaks, no key waits for the next and nothing is under way."""
        s = self._s
        return s.state is State.LISTENING and s.utterance is None and s.reply is None and not (s.jobs or s.digits)

    @property
    def turn(self) -> int:
        """Number of the newest agent turn; 0 before the greeting."""
        return self._s.turn

    @property
    def now_ms(self) -> int:
        """The newest time it was told."""
        return self._s.now_ms

    def snapshot(self) -> dict[str, Any]:
        """Everything the call remembers, as JSON-able values with a version."""
        return snapshots.dump(self._s, self.call_id)

    @classmethod
    def restore(
        cls, data: dict[str, Any], policy: TurnPolicy, agent: AgentPhrases, director: Director | None = None
    ) -> DialogMachine:
        """The machine a snapshot was taken of; ``reopen`` or ``reconnect`` says how the call goes on."""
        state, call_id = snapshots.load(data)
        machine = cls(policy, agent, call_id, director)
        machine._s = state
        return machine

    def _on_call_started(self, event: CallStarted) -> None:
        self._s.started_ms = self._s.now_ms
        self._s.caller_pii, self._s.called = event.caller_pii, event.called
        self._at(Timer.MAX_CALL, self._s.now_ms + self.policy.max_call_ms)
        self._begin(self.director.opening(), "greeting")

    def _on_carrier_stopped(self, event: CarrierStopped) -> None:
        reply = self._s.reply
        if reply is not None:
            if reply.released:
                reply.cut_at(self._s.now_ms)
                self._record("cut")
            self._commands.append(CancelTurn(reply.turn))
            self._forget_jobs(reply.turn)
            self._s.reply = None
        self._end(event.reason)

    def _on_hang_up_requested(self, event: HangUpRequested) -> None:
        self._drop_reply("cut")
        self._close_utterance()
        self._say(self.agent.goodbye, "goodbye", end_reason=event.reason)

    def _on_max_call(self) -> None:
        """The call is as long as a call may be: say goodbye."""
        if self._s.state not in (State.ENDING, State.ENDED):
            self._on_hang_up_requested(HangUpRequested("max_length"))

    def _on_job_failed(self, event: JobFailed) -> None:
        self._s.count(f"failed_{event.stage}")
        reply = self._s.reply
        if event.stage == "tool" and reply is not None:
            name = reply.running.name if reply.running is not None else ""
            self._on_tool(ToolFinished(event.turn, event.key, Outcome(name, False, code=event.code)))
        elif event.stage != "transcribe" and reply is not None and not reply.released:
            self._abandon_reply()  # only speculation: the turn's end starts it again
        elif event.stage == "transcribe":
            self._on_words_failed(event)
        elif event.stage == "synthesise":
            self._on_voice_failed(event)
        elif reply is None or reply.wordless:
            self._fail(event.stage)
        elif event.stage == "generate" and event.stage not in reply.failed_stages:
            reply.failed_stages.append(event.stage)
            self._generate_again(reply)
        else:
            # The model broke off again: what it has said so far still stands.
            reply.failed_stages.append(event.stage)
            self._on_reply_chunk(ReplyReceived(event.turn, ReplyChunk(finish_reason="error")))

    def _on_words_failed(self, event: JobFailed) -> None:
        utterance = self._s.utterance
        if utterance is None or event.key != utterance.pause or utterance.speaking:
            return
        if self._s.state is State.HELD:
            self._resume()
        elif self._s.state in (State.PAUSED, State.THINKING):
            self._close_utterance()
            self._fail("transcribe")


Handler = Callable[[DialogMachine, Any], None]
_M = DialogMachine
_AFTER_START = [s for s in State if s not in (State.NEW, State.ENDED)]
_REPLYING = (State.PAUSED, State.THINKING, State.SPEAKING, State.HELD, State.ENDING)

TRANSITIONS: dict[tuple[State, type[Event]], Handler] = {
    (State.NEW, CallStarted): _M._on_call_started,
    **{(s, CarrierStopped): _M._on_carrier_stopped for s in State if s is not State.ENDED},
    **{(s, HangUpRequested): _M._on_hang_up_requested for s in _AFTER_START if s is not State.ENDING},
    **{(s, JobFailed): _M._on_job_failed for s in _AFTER_START},
    **{(s, LoadChanged): _M._on_load for s in _AFTER_START},
    # the caller
    **{(s, DtmfReceived): _M._on_key for s in _AFTER_START if s is not State.ENDING},
    **{(s, SpeechStarted): _M._on_speech_started for s in (State.LISTENING, State.PAUSED, State.THINKING)},
    **{(s, SpeechResumed): _M._on_speech_resumed for s in (State.LISTENING, State.PAUSED, State.THINKING)},
    **{(s, e): _M._note_speech for s in (State.HEARING, State.ENDING) for e in (SpeechStarted, SpeechResumed)},
    **{(State.SPEAKING, e): _M._on_barge_in for e in (SpeechStarted, SpeechResumed)},
    **{(State.HELD, e): _M._on_held_speech for e in (SpeechStarted, SpeechResumed)},
    (State.HEARING, SpeechPaused): _M._on_speech_paused,
    (State.HEARING, SpeechFaded): _M._on_speech_faded,
    (State.HEARING, SpeechRose): _M._on_speech_rose,
    (State.HELD, SpeechPaused): _M._on_held_pause,
    **{(s, SpeechPaused): _M._note_pause for s in (State.THINKING, State.SPEAKING, State.ENDING)},
    # words
    (State.HEARING, TranscriptReady): _M._on_partial,
    (State.PAUSED, TranscriptReady): _M._on_words_paused,
    (State.THINKING, TranscriptReady): _M._on_words_late,
    (State.HELD, TranscriptReady): _M._on_held_words,
    (State.SPEAKING, TranscriptReady): _M._on_words_meanwhile,
    # the reply
    **{(s, PassagesReady): _M._on_passages for s in (State.HEARING, *_REPLYING)},
    **{(s, ReplyReceived): _M._on_reply_chunk for s in (State.HEARING, *_REPLYING)},
    **{(s, SpeechSynthesised): _M._on_audio for s in (State.HEARING, *_REPLYING)},
    **{(s, ToolFinished): _M._on_tool for s in _REPLYING},
    **{(s, PlayoutStarted): _M._on_playout_started for s in _REPLYING},
    **{(s, ClausePlayed): _M._on_clause_played for s in _REPLYING},
    **{(s, PlayoutHeld): _M._on_held for s in _REPLYING},
}
"""What each event does in each state."""

IGNORED: frozenset[tuple[State, type[Event]]] = frozenset(
    {(State.ENDED, e) for e in Event.__args__}
    | {(State.NEW, e) for e in Event.__args__ if e not in (CallStarted, CarrierStopped)}
    | {(s, CallStarted) for s in State if s is not State.NEW}
    | {(State.ENDING, DtmfReceived)}
    | {(State.ENDING, HangUpRequested)}
    | {(s, SpeechPaused) for s in (State.LISTENING, State.PAUSED)}
    | {(s, TranscriptReady) for s in (State.LISTENING, State.ENDING)}
    | {(s, e) for s in State if s is not State.HEARING for e in (SpeechFaded, SpeechRose)}
    | {(State.LISTENING, e) for e in (PassagesReady, ReplyReceived, SpeechSynthesised)}
    | {
        (s, e)
        for s in (State.LISTENING, State.HEARING)
        for e in (ToolFinished, PlayoutStarted, ClausePlayed, PlayoutHeld)
    }
)
"""Pairs that mean nothing, on purpose: late echoes of something already dropped, or events a state has no use for."""

DEADLINES: dict[Timer, Callable[[DialogMachine], None]] = {
    Timer.ENDPOINT: _M._on_endpoint,
    Timer.CONFIRM: _M._on_confirm,
    Timer.SILENCE: _M._on_silence,
    Timer.MAX_CALL: _M._on_max_call,
    Timer.KEYS: _M._on_keys,
    Timer.FILLER: _M._on_filler,
}
