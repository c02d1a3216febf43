"""The caller's side: speech, pauses, words, and the moment the turn is the agent's."""

from __future__ import annotations

from voice_agent.dialog.commands import (
    Transcribe,
)
from voice_agent.dialog.completeness import Completeness
from voice_agent.dialog.events import (
    DtmfReceived,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TranscriptReady,
)
from voice_agent.dialog.foreseeing import Foreseeing
from voice_agent.dialog.listening import PAUSES_KEPT, Pace, endpoint_silence_ms, judge, surprises
from voice_agent.dialog.records import StageTimes
from voice_agent.dialog.state import State, Timer, Utterance


class Hearing(Foreseeing):
    """Listening and endpointing."""

    def _on_speech_started(self, event: SpeechStarted) -> None:
        """The caller speaks while nobody does, or before the reply has been heard."""
        self._hear(event)
        reply = self._s.reply
        # A tool that has begun cannot be undone, so its reply stands; what the caller says now is for afterwards.
        if reply is not None and reply.kind in ("reply", "filler") and not reply.tools_run:
            self._abandon_reply()
        if self._s.reply is None:
            self._go(State.HEARING)

    def _hear(self, event: SpeechStarted | SpeechResumed) -> None:
        self._s.timers.pop(Timer.SILENCE, None)
        self._s.timers.pop(Timer.ENDPOINT, None)
        utterance = self._s.utterance
        if utterance is None or utterance.number != event.utterance:
            self._close_utterance()
            self._learn_pause(event)
            self._s.utterance = Utterance(event.utterance, speaking=True)
            if not self._s.prefix:
                self._s.times = StageTimes(speech_start_ms=event.onset_ms)
        else:
            self._learn_pause(event)
            utterance.speaking, utterance.text = True, None

    def _learn_pause(self, event: SpeechStarted | SpeechResumed) -> None:
        """A pause inside a turn, or one behind a turn that was cut off, tells how this caller speaks."""
        end = self._s.times.speech_end_ms
        if end is None or self._s.state not in (State.PAUSED, State.THINKING) or event.onset_ms <= end:
            return
        pause_ms = event.onset_ms - end
        self._s.turn_pause_ms = max(self._s.turn_pause_ms, pause_ms)
        if surprises(self._judged()):
            self._s.caller_pauses_ms = [*self._s.caller_pauses_ms, pause_ms][-PAUSES_KEPT:]
            self._s.unbroken_turns = -1

    def _set_endpoint(self) -> None:
        """When the turn ends if the caller stays silent, by all that is known now."""
        pace = Pace(self._s.caller_pauses_ms, self._s.unbroken_turns, self._s.turn_pause_ms)
        end = self._s.times.speech_end_ms or self._s.now_ms
        self._at(Timer.ENDPOINT, end + endpoint_silence_ms(self._judged(), pace, self.policy))

    def _judged(self) -> Completeness | None:
        """Whether the turn looks complete; None while the words of the newest pause are not known."""
        utterance = self._s.utterance
        if utterance is not None and utterance.text is None:
            return None
        text = self._s.caller_text()
        complete = utterance.complete if utterance is not None else None
        confidence = utterance.confidence if utterance is not None else self._s.confidence
        sure = confidence >= self.policy.barge_in_min_confidence
        return judge(text, self.director.finished(self._s.memory, text), complete, sure=sure)

    def _on_speech_resumed(self, event: SpeechResumed) -> None:
        """The caller goes on: what was prepared is dropped without a trace."""
        self._on_speech_started(SpeechStarted(event.utterance, event.onset_ms))

    def _note_speech(self, event: SpeechStarted | SpeechResumed) -> None:
        """Speech that was known of, or over words that may not be interrupted: remember it for afterwards."""
        self._drop_early()
        self._hear(event)

    def _on_speech_paused(self, event: SpeechPaused) -> None:
        """The caller pauses: ask for the words, and set the endpoint by what is known."""
        if self._pause(event):
            self._go(State.PAUSED)
            self._set_endpoint()

    def _pause(self, event: SpeechPaused) -> bool:
        utterance = self._s.utterance
        if utterance is None or utterance.number != event.utterance:
            return False
        utterance.speaking = False
        self._s.times.speech_end_ms = self._s.quiet_ms = event.speech_end_ms
        self._s.fillers = 0
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

    def _note_pause(self, event: SpeechPaused) -> None:
        utterance = self._s.utterance
        if utterance is not None and utterance.number == event.utterance:
            utterance.speaking = False
            self._s.times.speech_end_ms, self._s.times.pause_ms = event.speech_end_ms, self._s.now_ms

    def _on_words_paused(self, event: TranscriptReady) -> None:
        """Words while the endpoint is still open: re-time it, and prepare the reply."""
        if not self._take_words(event):
            return
        self._settle_early()
        self._set_endpoint()
        self._speculate()

    def _take_words(self, event: TranscriptReady) -> bool:
        utterance = self._s.utterance
        if utterance is None or not event.flushed or event.pause != utterance.pause or utterance.speaking:
            return False
        utterance.text, utterance.confidence = event.text.strip(), event.confidence
        utterance.complete = event.complete
        self._s.heard_by = event.engine
        self._s.times.transcript_ms = self._s.now_ms
        return True

    def _on_endpoint(self) -> None:
        """The silence was long enough: the turn is the agent's."""
        if self._s.state is not State.PAUSED:
            return
        self._s.times.endpoint_ms = self._s.now_ms
        self._go(State.THINKING)
        self._expect_sound()
        if self._s.utterance is not None and self._s.utterance.text is not None:
            self._commit()

    def _on_words_late(self, event: TranscriptReady) -> None:
        """Words after the endpoint: go straight on, unless they say that the caller is not done."""
        if not self._take_words(event):
            return
        self._settle_early()
        if self._s.reply is not None and self._s.reply.released:
            return
        self._set_endpoint()
        if self._s.timers[Timer.ENDPOINT] > self._s.now_ms:
            self._s.timers.pop(Timer.FILLER, None)
            self._go(State.PAUSED)
            self._speculate()
        else:
            del self._s.timers[Timer.ENDPOINT]
            self._commit()

    def _on_words_meanwhile(self, event: TranscriptReady) -> None:
        """Words that came while a phrase broke the silence: they are answered when it is over."""
        if self._s.reply is not None and self._s.reply.kind == "filler":
            self._take_words(event)

    def _commit(self) -> None:
        """The caller's turn is over and its words are known: answer it."""
        utterance = self._s.utterance
        text = self._s.caller_text()
        self._close_utterance(keep_words=True)
        if text:
            self._s.reprompts = 0
            self._s.unbroken_turns += 1
            if self._s.reply is None:
                self._prepare()
            self._release()
        elif utterance is not None and self._spoke_for_ms() >= self.policy.not_understood_after_ms:
            self._apologise(self.agent.not_understood)
        else:
            self._s.count("noises")
            self._listen()

    def _spoke_for_ms(self) -> int:
        """From the first loud frame of the turn to the last, or to now while the caller speaks."""
        times, utterance = self._s.times, self._s.utterance
        end = self._s.now_ms if utterance is not None and utterance.speaking else times.speech_end_ms
        return end - times.speech_start_ms if times.speech_start_ms is not None and end is not None else 0

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
            self._set_endpoint()
            if utterance.text is None and ("transcribe", utterance.number, utterance.pause) not in self._s.jobs:
                self._ask_words()

    def _listen(self) -> None:
        self._go(State.LISTENING)
        self._s.prefix.clear()
        self._s.timers.pop(Timer.FILLER, None)
        self._s.speculations = self._s.early_speculations = self._s.fillers = 0
        self._at(Timer.SILENCE, self._s.now_ms + self.policy.reprompt_after_ms)

    def _on_silence(self) -> None:
        """Nobody has spoken for a while: ask again, and say goodbye when that was of no use."""
        if self._s.state is State.LISTENING:
            if self._s.reprompts < self.policy.reprompts:
                self._s.reprompts += 1
                self._say(self.director.reprompt(self._s.memory), "reprompt")
            else:
                self._say(self.agent.silence_goodbye, "goodbye", end_reason="silence")

    # --- keys ---

    def _on_key(self, event: DtmfReceived) -> None:
        """A key takes the turn at once; keys make an input when there are enough, at ``#``, or after a pause."""
        reply = self._s.reply
        if reply is not None and reply.released and not reply.interruptible:
            return
        if reply is not None:
            reply.cut_at(self._s.now_ms)
        self._drop_reply("interrupted")
        self._close_utterance()
        self._s.prefix.clear()
        for timer in (Timer.SILENCE, Timer.ENDPOINT, Timer.CONFIRM):
            self._s.timers.pop(timer, None)
        self._go(State.LISTENING)
        if event.digit != "#":
            self._s.digits += event.digit
        wanted = self.director.keys_wanted(self._s.memory)
        if event.digit == "#" or (wanted and len(self._s.digits) >= wanted):
            self._on_keys()
        else:
            self._at(Timer.KEYS, self._s.now_ms + self.policy.keys_pause_ms)

    def _on_keys(self) -> None:
        """The keys are an input: answer it."""
        self._s.timers.pop(Timer.KEYS, None)
        digits, self._s.digits = self._s.digits, ""
        if self._s.state is not State.LISTENING or not digits:
            if self._s.state is State.LISTENING:
                self._listen()
            return
        self._s.times = StageTimes()
        self._s.reprompts = 0
        self._go(State.THINKING)
        self._prepare(digits)
        self._release()
