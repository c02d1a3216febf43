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
from voice_agent.dialog.listening import interrupts
from voice_agent.dialog.state import State, Timer


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
        """The caller has spoken over the agent for long enough: words or not, the turn is the caller's."""
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
