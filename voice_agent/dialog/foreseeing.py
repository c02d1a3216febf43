"""Speculation: a reply is prepared at a pause, or when the voice falls before it, and kept for the same words only."""

from __future__ import annotations

from voice_agent.dialog.commands import Transcribe
from voice_agent.dialog.completeness import Completeness, same_words
from voice_agent.dialog.events import LoadChanged, SpeechFaded, SpeechRose, TranscriptReady
from voice_agent.dialog.filling import Filling
from voice_agent.dialog.listening import judge

SURE_WORDS = 0.7
"""An early reply is made as if its words were sure; final words less sure than this get a reply of their own."""
EARLY_TRIES = 16
EARLY_KEPT_SHARE = 0.1
EARLY_LOAD_SHARE = 0.15
"""Of ``speculate_below_load``: most of it is in vain, so it is for a plane with time."""


class Foreseeing(Filling):
    """Preparing replies that may be thrown away. None of it is audible, and nothing is left of one that is dropped."""

    def _on_load(self, event: LoadChanged) -> None:
        self._s.load = event.level

    def _may_speculate(self, text: str) -> bool:
        """Preparing a reply that may be thrown away is for quiet times, and only so often a turn."""
        policy = self.policy
        if not policy.speculate or not text or self._s.reply is not None:
            return False
        if (
            self._s.speculations - self._s.early_speculations >= policy.max_speculations
            or self._s.load >= policy.speculate_below_load
        ):
            self._s.count("speculations_throttled")
            return False
        return True

    def _speculate(self) -> None:
        if self._may_speculate(self._s.caller_text()):
            self._s.speculations += 1
            self._s.count("speculations")
            self._prepare()

    # --- before the pause ---

    def _on_speech_faded(self, event: SpeechFaded) -> None:
        """The voice falls, perhaps for good: ask for the words so far."""
        utterance = self._s.utterance
        if utterance is None or utterance.number != event.utterance or not utterance.speaking:
            return
        if ("transcribe", utterance.number, utterance.fade) in self._s.jobs:
            return
        if self._s.reply is None and not self._may_foresee():
            return
        self._s.pauses += 1
        utterance.fade = self._s.pauses
        self._s.times.pause_ms = self._s.now_ms
        self._start(
            ("transcribe", utterance.number, utterance.fade),
            Transcribe(utterance.number, utterance.fade, flush=False),
        )

    def _may_foresee(self) -> bool:
        """A budget of its own; and who hardly ever stops where foreseen is waited for."""
        policy, counters = self.policy, self._s.counters
        if not policy.speculate or self._s.early_speculations >= policy.max_early_speculations:
            return False
        if self._s.load >= policy.speculate_below_load * EARLY_LOAD_SHARE:
            return False
        tries = counters.get("speculations_early", 0)
        return tries < EARLY_TRIES or counters.get("speculations_early_kept", 0) >= tries * EARLY_KEPT_SHARE

    def _on_partial(self, event: TranscriptReady) -> None:
        """Words while the caller speaks: what was prepared for others is dropped, and these may be worth a reply."""
        utterance = self._s.utterance
        if utterance is None or event.flushed:
            return
        utterance.partial = event.text
        text = " ".join((*self._s.prefix, event.text)).strip()
        reply = self._s.reply
        if reply is not None and not same_words(reply.caller_text, text):
            self._drop_early()
        if event.pause and event.pause == utterance.fade and self._s.reply is None and self._may_foresee():
            self._foresee(text)

    def _foresee(self, text: str) -> None:
        finished = self.director.finished(self._s.memory, text)
        if judge(text, finished, None) is not Completeness.COMPLETE:
            return
        self._s.speculations += 1
        self._s.early_speculations += 1
        self._s.count("speculations")
        self._s.count("speculations_early")
        self._s.times.transcript_ms = self._s.now_ms
        self._prepare(early=text)

    def _on_speech_rose(self, event: SpeechRose) -> None:
        """The voice goes on: it was a word in the middle."""
        utterance = self._s.utterance
        if utterance is not None and utterance.number == event.utterance:
            utterance.fade = 0
            self._drop_early()

    def _drop_early(self) -> None:
        reply = self._s.reply
        if reply is not None and reply.early:
            self._abandon_reply()

    def _settle_early(self) -> None:
        """The final words are there: a reply prepared before them is kept if it is one to these words."""
        reply, utterance = self._s.reply, self._s.utterance
        if reply is None or not reply.early or utterance is None:
            return
        text = self._s.caller_text()
        if not same_words(reply.caller_text, text) or utterance.confidence < SURE_WORDS:
            self._abandon_reply()
            return
        reply.early, reply.caller_text, reply.confidence = False, text, utterance.confidence
        reply.times.speech_end_ms = self._s.times.speech_end_ms
        self._s.count("speculations_early_kept")
