"""The caller speaks over the agent: hold at once, then let the words decide whether to stop or to go on."""

from __future__ import annotations

from voice_agent.dialog.commands import (
    HoldPlayout,
    ResumePlayout,
)
from voice_agent.dialog.events import (
    PlayoutHeld,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TranscriptReady,
)
from voice_agent.dialog.hearing import Hearing
from voice_agent.dialog.listening import REQUEST_MS, interrupts, is_urgent
from voice_agent.dialog.state import State, Timer

SURE_AFTER_ASKS = 2
MOST_ASKS = 4
ECHO_MS = 600


class Interrupting(Hearing):
    """Barge-in in two steps."""

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
        reply, utterance = self._s.reply, self._s.utterance
        if reply is None or utterance is None:
            return
        over = event.flushed and self._take_words(event)
        if event.flushed and not over and event.pause != utterance.pause:
            return
        # Who goes on speaking after words that were not sure is not making a noise.
        confidence = event.confidence if utterance.asks < SURE_AFTER_ASKS else 1.0
        # An echo ends soon after playout was held: who speaks for longer is the caller, whatever the words.
        spoke_ms = self._spoke_for_ms()
        echoes = reply.text() if spoke_ms < ECHO_MS else ""
        # While the caller still speaks nothing is heard of the agent anyway, so a nod may be heard to its end.
        settled = over or spoke_ms >= REQUEST_MS or is_urgent(event.text)
        if settled and interrupts(event.text, confidence, spoke_ms, echoes, self.policy):
            self._interrupt()
        elif over:
            self._resume()

    def _on_confirm(self) -> None:
        """The caller still speaks over the agent: ask for the words so far; in the end the turn is the caller's."""
        utterance = self._s.utterance
        if self._s.state is not State.HELD or utterance is None:
            return
        if utterance.asks >= MOST_ASKS:
            self._interrupt()
            return
        utterance.asks += 1
        self._ask_words()
        self._at(Timer.CONFIRM, self._s.now_ms + self.policy.barge_in_confirm_ms)

    def _interrupt(self) -> None:
        """The caller takes the turn. From here on no audio of the old turn is commanded."""
        self._s.timers.pop(Timer.CONFIRM, None)
        self._s.count("barge_ins")
        self._drop_reply("interrupted")
        utterance = self._s.utterance
        if utterance is not None and utterance.text is not None:
            self._go(State.PAUSED)
            self._set_endpoint()
            self._speculate()
        else:
            self._floor_is_free()

    def _resume(self) -> None:
        self._s.count("resumes")
        self._close_utterance()
        self._commands.append(ResumePlayout())
        reply = self._s.reply
        started = reply is not None and reply.times.playout_started_ms is not None
        self._go(State.SPEAKING if started else State.THINKING)
        self._s.quiet_ms = self._s.now_ms
        self._expect_sound()
