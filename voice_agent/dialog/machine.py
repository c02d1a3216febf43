"""The call as a sans-I/O state machine.

``receive(event, now_ms)`` · ``take_commands()`` · ``on_deadline(now_ms)`` · ``next_deadline_ms()``. The shell feeds
events, executes commands and sleeps until the deadline; the machine never waits, never reads a clock and never fails on
an event that comes at an odd time: ``(state, event type)`` pairs that mean nothing are listed as such in ``IGNORED``.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from voice_agent.dialog import snapshot as snapshots
from voice_agent.dialog.commands import (
    CancelTurn,
    ClearPlayout,
    CloseUtterance,
    Command,
    EndCall,
    Generate,
    HoldPlayout,
    RecordTurn,
    ReleaseTurn,
    ResumePlayout,
    Retrieve,
    Synthesise,
    Transcribe,
)
from voice_agent.dialog.events import (
    CallStarted,
    CarrierStopped,
    ClausePlayed,
    DtmfReceived,
    Event,
    HangUpRequested,
    JobFailed,
    PassagesReady,
    PlayoutHeld,
    PlayoutStarted,
    ReplyReceived,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechSynthesised,
    TranscriptReady,
)
from voice_agent.dialog.listening import endpoint_silence_ms, interrupts
from voice_agent.dialog.policy import AgentPhrases, TurnPolicy
from voice_agent.dialog.records import CallRecord, StageTimes, TurnRecord
from voice_agent.dialog.reply import Reply
from voice_agent.dialog.state import CallState, Job, State, Timer, Utterance
from voice_agent.ports import ReplyChunk

RESULTS = (TranscriptReady, PassagesReady, ReplyReceived, SpeechSynthesised, JobFailed)
"""Events that answer a job. One whose job is not open is refused: it belongs to a turn that is gone."""


class DialogMachine:
    """One call. See the module for the four verbs; ``snapshot`` and ``restore`` carry it to another process."""

    def __init__(self, policy: TurnPolicy, agent: AgentPhrases, call_id: str) -> None:
        self.policy = policy
        self.agent = agent
        self.call_id = call_id
        self._s = CallState()
        self._commands: list[Command] = []

    # --- the four verbs ---

    def receive(self, event: Event, now_ms: int) -> None:
        """Take an event. ``now_ms`` never runs backwards; if a clock does, the last time counts."""
        self._advance(now_ms)
        if isinstance(event, RESULTS) and not self._settle(event):
            self._s.count("stale_results")
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

    # --- looking in ---

    @property
    def state(self) -> State:
        """Where the call is."""
        return self._s.state

    @property
    def turn(self) -> int:
        """Number of the newest agent turn; 0 before the greeting."""
        return self._s.turn

    def snapshot(self) -> dict[str, Any]:
        """Everything the call remembers, as JSON-able values with a version."""
        return snapshots.dump(self._s, self.call_id)

    @classmethod
    def restore(cls, data: dict[str, Any], policy: TurnPolicy, agent: AgentPhrases) -> DialogMachine:
        """The machine a snapshot was taken of. Open jobs stay open: the shell starts them again."""
        state, call_id = snapshots.load(data)
        machine = cls(policy, agent, call_id)
        machine._s = state
        return machine

    # --- time and jobs ---

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
        if isinstance(event, TranscriptReady) and not event.flushed:
            return self._s.utterance is not None and self._s.utterance.number == event.utterance
        if job not in self._s.jobs:
            return False
        if final:
            self._s.jobs.discard(job)
        return True

    # --- the call begins and ends ---

    def _on_call_started(self, event: CallStarted) -> None:
        self._s.started_ms = self._s.now_ms
        self._s.caller_pii, self._s.called = event.caller_pii, event.called
        self._at(Timer.MAX_CALL, self._s.now_ms + self.policy.max_call_ms)
        self._say(self.agent.greeting, "greeting")

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
        if self._s.state not in (State.ENDING, State.ENDED):
            self._on_hang_up_requested(HangUpRequested("max_length"))

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

    # --- the caller speaks ---

    def _on_speech_started(self, event: SpeechStarted) -> None:
        """The caller speaks while nobody does, or before the reply has been heard."""
        self._hear(event)
        if self._s.reply is not None and self._s.reply.kind == "reply":
            self._abandon_reply()
        if self._s.reply is None:
            self._go(State.HEARING)

    def _hear(self, event: SpeechStarted | SpeechResumed) -> None:
        self._s.timers.pop(Timer.SILENCE, None)
        self._s.timers.pop(Timer.ENDPOINT, None)
        utterance = self._s.utterance
        if utterance is None or utterance.number != event.utterance:
            self._close_utterance()
            self._s.utterance = Utterance(event.utterance, speaking=True)
            if not self._s.prefix:
                self._s.times = StageTimes(speech_start_ms=event.onset_ms)
        else:
            utterance.speaking, utterance.text = True, None

    def _on_speech_paused(self, event: SpeechPaused) -> None:
        """The caller pauses: ask for the words, and set the endpoint by what is known."""
        if self._pause(event):
            self._go(State.PAUSED)
            self._at(Timer.ENDPOINT, event.speech_end_ms + endpoint_silence_ms(None, self.policy))

    def _pause(self, event: SpeechPaused) -> bool:
        utterance = self._s.utterance
        if utterance is None or utterance.number != event.utterance:
            return False
        utterance.speaking = False
        self._s.times.speech_end_ms = event.speech_end_ms
        self._s.times.pause_ms = self._s.now_ms
        self._ask_words()
        return True

    def _ask_words(self) -> None:
        utterance = self._s.utterance
        if utterance is not None:
            self._s.pauses += 1
            utterance.pause, utterance.text = self._s.pauses, None
            self._start(
                ("transcribe", utterance.number, utterance.pause), Transcribe(utterance.number, utterance.pause)
            )

    def _on_speech_resumed(self, event: SpeechResumed) -> None:
        """The caller goes on: what was prepared is dropped without a trace."""
        self._on_speech_started(SpeechStarted(event.utterance, event.onset_ms))

    def _note_speech(self, event: SpeechStarted | SpeechResumed) -> None:
        """Speech over words that may not be interrupted: remember it for afterwards."""
        self._hear(event)

    def _note_pause(self, event: SpeechPaused) -> None:
        utterance = self._s.utterance
        if utterance is not None and utterance.number == event.utterance:
            utterance.speaking = False
            self._s.times.speech_end_ms, self._s.times.pause_ms = event.speech_end_ms, self._s.now_ms

    def _on_partial(self, event: TranscriptReady) -> None:
        if self._s.utterance is not None and not event.flushed:
            self._s.utterance.partial = event.text

    # --- the turn ends ---

    def _on_words_paused(self, event: TranscriptReady) -> None:
        """Words while the endpoint is still open: re-time it, and prepare the reply."""
        if not self._take_words(event):
            return
        end = self._s.times.speech_end_ms or self._s.now_ms
        self._at(Timer.ENDPOINT, end + endpoint_silence_ms(self._s.caller_text(), self.policy))
        if self._s.caller_text() and self.policy.speculate:
            self._s.speculations += 1
            self._s.count("speculations")
            self._prepare()

    def _take_words(self, event: TranscriptReady) -> bool:
        utterance = self._s.utterance
        if utterance is None or not event.flushed or event.pause != utterance.pause or utterance.speaking:
            return False
        utterance.text, utterance.confidence = event.text.strip(), event.confidence
        self._s.times.transcript_ms = self._s.now_ms
        return True

    def _on_endpoint(self) -> None:
        """The silence was long enough: the turn is the agent's."""
        if self._s.state is not State.PAUSED:
            return
        self._s.times.endpoint_ms = self._s.now_ms
        self._go(State.THINKING)
        if self._s.utterance is not None and self._s.utterance.text is not None:
            self._commit()

    def _on_words_late(self, event: TranscriptReady) -> None:
        """Words after the endpoint: go straight on."""
        if self._take_words(event):
            self._commit()

    def _commit(self) -> None:
        """The caller's turn is over and its words are known: answer it."""
        utterance = self._s.utterance
        text = self._s.caller_text()
        self._close_utterance(keep_words=True)
        if text:
            self._s.reprompts = 0
            if self._s.reply is None:
                self._prepare()
            self._release()
        elif utterance is not None and self._spoke_for_ms() >= self.policy.not_understood_after_ms:
            self._say(self.agent.not_understood, "apology")
        else:
            self._s.count("noises")
            self._listen()

    def _spoke_for_ms(self) -> int:
        times = self._s.times
        if times.speech_start_ms is None or times.speech_end_ms is None:
            return 0
        return times.speech_end_ms - times.speech_start_ms

    def _prepare(self) -> None:
        """Start a reply to what the caller has said; nothing of it goes out before ``_release``."""
        self._s.turn += 1
        confidence = self._s.utterance.confidence if self._s.utterance else self._s.confidence
        self._s.reply = Reply(
            self._s.turn, "reply", deepcopy(self._s.times), self._s.caller_text(), confidence=confidence
        )
        self._start(("retrieve", self._s.turn, 0), Retrieve(self._s.turn, self._s.caller_text()))

    def _release(self) -> None:
        reply = self._s.reply
        if reply is not None and not reply.released:
            reply.released = True
            reply.times.endpoint_ms, reply.times.released_ms = self._s.times.endpoint_ms, self._s.now_ms
            self._commands.append(ReleaseTurn(reply.turn, reply.interruptible))
            self._synthesise_next()
            self._finish_if_played()

    # --- the reply is made ---

    def _on_passages(self, event: PassagesReady) -> None:
        reply = self._s.reply
        if reply is not None:
            reply.times.retrieved_ms = self._s.now_ms
            messages = self._s.history.prompt(self.agent.system_prompt, reply.caller_text)
            self._start(
                ("generate", reply.turn, 0),
                Generate(reply.turn, messages, event.passages, reply.confidence, speculative=not reply.released),
            )

    def _on_reply_chunk(self, event: ReplyReceived) -> None:
        reply = self._s.reply
        if reply is not None:
            reply.take(event.chunk, self._s.now_ms)
            self._synthesise_next()
            if reply.text_done and not reply.clauses and not reply.end_reason:
                self._fail("generate")
            else:
                self._finish_if_played()

    def _synthesise_next(self) -> None:
        reply = self._s.reply
        index = reply.next_to_synthesise() if reply is not None else None
        if reply is not None and index is not None:
            reply.clauses[index].asked = True
            self._start(("synthesise", reply.turn, index), Synthesise(reply.turn, index, reply.clauses[index].text))

    def _on_audio(self, event: SpeechSynthesised) -> None:
        reply = self._s.reply
        if reply is None:
            return
        clause = reply.clauses[event.clause]
        clause.duration_ms = event.duration_ms
        if reply.times.first_audio_ms is None and event.duration_ms:
            reply.times.first_audio_ms = self._s.now_ms
        if event.last:
            clause.synthesised, clause.word_ends_ms = True, event.word_ends_ms
            clause.played = clause.played or clause.duration_ms == 0
            self._synthesise_next()
            self._finish_if_played()

    def _say(self, text: str, kind: str, end_reason: str = "") -> None:
        """Speak a fixed phrase as a turn of its own."""
        self._s.turn += 1
        times = deepcopy(self._s.times) if kind == "apology" else StageTimes()
        reply = Reply(self._s.turn, kind, times, end_reason=end_reason, interruptible=not end_reason)
        reply.caller_text = self._s.caller_text() if kind == "apology" else ""
        reply.take(ReplyChunk(text, finish_reason="stop"), self._s.now_ms)
        self._s.reply = reply
        self._s.timers.pop(Timer.SILENCE, None)
        self._s.timers.pop(Timer.ENDPOINT, None)
        self._go(State.ENDING if end_reason else State.THINKING)
        self._release()

    # --- the reply is played ---

    def _on_playout_started(self, event: PlayoutStarted) -> None:
        reply = self._playing(event.turn, event.clause)
        if reply is None:
            return
        reply.clauses[event.clause].started_at_ms = event.at_ms
        if reply.times.playout_started_ms is None:
            reply.times.playout_started_ms = event.at_ms
            self._s.history.add("user", reply.caller_text)
            self._s.prefix.clear()
        if self._s.state is State.THINKING:
            self._go(State.SPEAKING)

    def _on_clause_played(self, event: ClausePlayed) -> None:
        reply = self._playing(event.turn, event.clause)
        if reply is not None:
            reply.clauses[event.clause].played = True
            reply.times.playout_ended_ms = event.at_ms
            self._finish_if_played()

    def _playing(self, turn: int, clause: int) -> Reply | None:
        reply = self._s.reply
        if reply is None or reply.turn != turn or not reply.released or clause >= len(reply.clauses):
            self._s.count("stale_playout")
            return None
        return reply

    def _finish_if_played(self) -> None:
        reply = self._s.reply
        if reply is None or not reply.released or not reply.played_out():
            return
        self._record("completed")
        self._s.reply = None
        if self._s.state is State.HELD:
            self._commands.append(ClearPlayout(reply.turn))  # nothing is left to resume: lift the hold
        if reply.end_reason:
            self._end(reply.end_reason)
        else:
            self._floor_is_free()

    def _floor_is_free(self) -> None:
        """The agent has finished: listen, or take up what the caller said meanwhile."""
        utterance = self._s.utterance
        self._s.timers.pop(Timer.CONFIRM, None)
        if utterance is None:
            self._listen()
        elif utterance.speaking:
            self._go(State.HEARING)
        else:
            self._go(State.PAUSED)
            end = self._s.times.speech_end_ms or self._s.now_ms
            self._at(Timer.ENDPOINT, end + endpoint_silence_ms(utterance.text, self.policy))
            if utterance.text is None and ("transcribe", utterance.number, utterance.pause) not in self._s.jobs:
                self._ask_words()

    def _listen(self) -> None:
        self._go(State.LISTENING)
        self._s.prefix.clear()
        self._s.speculations = 0
        self._at(Timer.SILENCE, self._s.now_ms + self.policy.reprompt_after_ms)

    def _on_silence(self) -> None:
        if self._s.state is State.LISTENING:
            if self._s.reprompts < self.policy.reprompts:
                self._s.reprompts += 1
                self._say(self.agent.reprompt, "reprompt")
            else:
                self._say(self.agent.silence_goodbye, "goodbye", end_reason="silence")

    # --- the caller speaks over the agent ---

    def _on_barge_in(self, event: SpeechStarted | SpeechResumed) -> None:
        """Step one: hold. The gateway has done so already if it was playing; if it was between clauses, it does now."""
        reply = self._s.reply
        self._hear(event)
        if reply is not None and reply.interruptible:
            self._commands.append(HoldPlayout())
            self._s.count("holds")
            self._go(State.HELD)
            self._at(Timer.CONFIRM, event.onset_ms + self.policy.barge_in_confirm_ms)

    def _on_held(self, event: PlayoutHeld) -> None:
        reply = self._playing(event.turn, event.clause)
        if reply is not None:
            reply.clauses[event.clause].heard_ms = event.heard_ms

    def _on_held_speech(self, event: SpeechStarted | SpeechResumed) -> None:
        self._hear(event)
        self._at(Timer.CONFIRM, event.onset_ms + self.policy.barge_in_confirm_ms)

    def _on_held_pause(self, event: SpeechPaused) -> None:
        self._s.timers.pop(Timer.CONFIRM, None)
        self._pause(event)

    def _on_held_words(self, event: TranscriptReady) -> None:
        """Step two: words decide. Nods, noise and our own echo resume; anything else takes the turn."""
        reply = self._s.reply
        if reply is None or self._s.utterance is None:
            return
        if event.flushed and not self._take_words(event):
            return
        if interrupts(event.text, event.confidence, reply.text(), self.policy):
            self._interrupt()
        elif event.flushed:
            self._resume()

    def _on_confirm(self) -> None:
        if self._s.state is State.HELD:
            self._interrupt()

    def _interrupt(self) -> None:
        """The caller takes the turn. From here on no audio of the old turn is commanded."""
        self._s.timers.pop(Timer.CONFIRM, None)
        self._s.count("barge_ins")
        self._drop_reply("interrupted")
        utterance = self._s.utterance
        if utterance is not None and utterance.text is not None:
            self._go(State.PAUSED)
            end = self._s.times.speech_end_ms or self._s.now_ms
            self._at(Timer.ENDPOINT, end + endpoint_silence_ms(self._s.caller_text(), self.policy))
            if self.policy.speculate:
                self._s.speculations += 1
                self._prepare()
        else:
            self._floor_is_free()

    def _resume(self) -> None:
        self._s.count("resumes")
        self._close_utterance()
        self._commands.append(ResumePlayout())
        reply = self._s.reply
        started = reply is not None and reply.times.playout_started_ms is not None
        self._go(State.SPEAKING if started else State.THINKING)

    # --- dropping what is no longer wanted ---

    def _abandon_reply(self) -> None:
        """The caller went on before hearing any of it: drop it; its words stay part of the turn."""
        reply = self._s.reply
        if reply is not None:
            if reply.released:
                self._commands.append(ClearPlayout(reply.turn))
            self._commands.append(CancelTurn(reply.turn))
            self._forget_jobs(reply.turn)
            self._s.count("replies_dropped")
            self._s.reply = None

    def _drop_reply(self, outcome: str) -> None:
        reply = self._s.reply
        if reply is not None:
            if reply.released:
                self._record(outcome)
            self._commands += [ClearPlayout(reply.turn), CancelTurn(reply.turn)]
            self._forget_jobs(reply.turn)
            self._s.reply = None

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
        self._s.utterance = None

    def _record(self, outcome: str) -> None:
        reply = self._s.reply
        if reply is None:
            return
        heard = reply.heard_text()
        self._s.history.add("assistant", heard)
        self._s.turns += 1
        self._commands.append(
            RecordTurn(
                TurnRecord(
                    call_id=self.call_id,
                    turn=reply.turn,
                    kind=reply.kind,
                    times=reply.times,
                    caller_text_pii=reply.caller_text,
                    caller_confidence=reply.confidence,
                    agent_text_pii=reply.text(),
                    heard_text_pii=heard,
                    sources=reply.sources,
                    outcome=outcome,
                    speculations=self._s.speculations,
                    tool_calls=tuple(call.name for call in reply.tool_calls),
                    failed_stages=tuple(reply.failed_stages),
                )
            )
        )
        self._s.speculations = 0

    # --- when a stage fails ---

    def _on_job_failed(self, event: JobFailed) -> None:
        self._s.count(f"failed_{event.stage}")
        reply = self._s.reply
        if event.stage != "transcribe" and reply is not None and not reply.released:
            self._abandon_reply()  # only speculation: the turn's end starts it again
        elif event.stage == "transcribe":
            self._on_words_failed(event)
        elif event.stage == "synthesise" or reply is None or not reply.clauses:
            self._fail(event.stage)
        else:
            # The model broke off: what it has said so far still stands.
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

    def _fail(self, stage: str) -> None:
        """Tell the caller once; if even that cannot be spoken, end the call rather than leave a dead line."""
        reply = self._s.reply
        if reply is not None:
            reply.failed_stages.append(stage)
        if reply is not None and reply.kind != "reply" and stage == "synthesise":
            self._drop_reply("cut")
            self._end("failed")
            return
        held = self._s.state is State.HELD
        self._drop_reply("cut")
        if held:
            self._floor_is_free()
            return
        self._say(self.agent.apology, "apology")
        if self._s.reply is not None:
            self._s.reply.failed_stages.append(stage)


def _job_of(event: Event) -> tuple[Job, bool]:
    """The job an event answers, and whether this is the job's last answer."""
    match event:
        case TranscriptReady():
            return ("transcribe", event.utterance, event.pause), event.flushed
        case PassagesReady():
            return ("retrieve", event.turn, 0), True
        case ReplyReceived():
            return ("generate", event.turn, 0), bool(event.chunk.finish_reason)
        case SpeechSynthesised():
            return ("synthesise", event.turn, event.clause), event.last
        case JobFailed():
            return (event.stage, event.turn, event.key), True
    return ("", 0, 0), False


Handler = Callable[[DialogMachine, Any], None]
_M = DialogMachine
_AFTER_START = [s for s in State if s not in (State.NEW, State.ENDED)]
_REPLYING = (State.PAUSED, State.THINKING, State.SPEAKING, State.HELD, State.ENDING)

TRANSITIONS: dict[tuple[State, type[Event]], Handler] = {
    (State.NEW, CallStarted): _M._on_call_started,
    **{(s, CarrierStopped): _M._on_carrier_stopped for s in State if s is not State.ENDED},
    **{(s, HangUpRequested): _M._on_hang_up_requested for s in _AFTER_START if s is not State.ENDING},
    **{(s, JobFailed): _M._on_job_failed for s in _AFTER_START},
    # the caller
    **{(s, SpeechStarted): _M._on_speech_started for s in (State.LISTENING, State.PAUSED, State.THINKING)},
    **{(s, SpeechResumed): _M._on_speech_resumed for s in (State.LISTENING, State.PAUSED, State.THINKING)},
    **{(s, e): _M._note_speech for s in (State.HEARING, State.ENDING) for e in (SpeechStarted, SpeechResumed)},
    **{(State.SPEAKING, e): _M._on_barge_in for e in (SpeechStarted, SpeechResumed)},
    **{(State.HELD, e): _M._on_held_speech for e in (SpeechStarted, SpeechResumed)},
    (State.HEARING, SpeechPaused): _M._on_speech_paused,
    (State.HELD, SpeechPaused): _M._on_held_pause,
    **{(s, SpeechPaused): _M._note_pause for s in (State.THINKING, State.SPEAKING, State.ENDING)},
    # words
    (State.HEARING, TranscriptReady): _M._on_partial,
    (State.PAUSED, TranscriptReady): _M._on_words_paused,
    (State.THINKING, TranscriptReady): _M._on_words_late,
    (State.HELD, TranscriptReady): _M._on_held_words,
    # the reply
    **{(s, PassagesReady): _M._on_passages for s in _REPLYING},
    **{(s, ReplyReceived): _M._on_reply_chunk for s in _REPLYING},
    **{(s, SpeechSynthesised): _M._on_audio for s in _REPLYING},
    **{(s, PlayoutStarted): _M._on_playout_started for s in _REPLYING},
    **{(s, ClausePlayed): _M._on_clause_played for s in _REPLYING},
    **{(s, PlayoutHeld): _M._on_held for s in _REPLYING},
}
"""What each event does in each state."""

IGNORED: frozenset[tuple[State, type[Event]]] = frozenset(
    {(State.ENDED, e) for e in Event.__args__}
    | {(State.NEW, e) for e in Event.__args__ if e not in (CallStarted, CarrierStopped)}
    | {(s, CallStarted) for s in State if s is not State.NEW}
    | {(s, DtmfReceived) for s in State}
    | {(State.ENDING, HangUpRequested)}
    | {(s, SpeechPaused) for s in (State.LISTENING, State.PAUSED)}
    | {(s, TranscriptReady) for s in (State.LISTENING, State.SPEAKING, State.ENDING)}
    | {
        (s, e)
        for s in (State.LISTENING, State.HEARING)
        for e in (PassagesReady, ReplyReceived, SpeechSynthesised, PlayoutStarted, ClausePlayed, PlayoutHeld)
    }
)
"""Pairs that mean nothing, on purpose: late echoes of something already dropped, or events a state has no use for."""

DEADLINES: dict[Timer, Callable[[DialogMachine], None]] = {
    Timer.ENDPOINT: _M._on_endpoint,
    Timer.CONFIRM: _M._on_confirm,
    Timer.SILENCE: _M._on_silence,
    Timer.MAX_CALL: _M._on_max_call,
}
