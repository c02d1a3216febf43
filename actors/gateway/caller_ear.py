"""The caller's side of a call in the gateway: audio in, speech events and utterance audio out."""

from __future__ import annotations

from typing import Any, Protocol

from actors.gateway.vad_batch import FRAMES_PER_WINDOW, VadBatch, levels_db
from configs.settings import MediaSettings
from voice_agent.dialog.events import Event, SpeechFaded, SpeechPaused, SpeechResumed, SpeechRose, SpeechStarted
from voice_agent.echo import EchoGuard
from voice_agent.speech import (
    SAMPLES_PER_MS,
    CallerAudioStore,
    SampleClock,
    SpeechFade,
    SpeechOnset,
    SpeechPause,
    SpeechSegmenter,
    SpeechSettings,
    SpeechSignal,
)


class EarOwner(Protocol):
    """The call."""

    @property
    def now_ms(self) -> int:
        """The call's clock."""

    def agent_heard(self) -> bool:
        """The agent is being heard."""

    def caller_began(self) -> None:
        """The caller began to speak: hold playout, if it may be, before anybody is told."""

    def listen_closely(self, closely: bool) -> None:
        """The caller's voice sinks and each packet counts, or no longer."""

    def event(self, event: Event) -> None:
        """Something for the call's actor."""

    def upload(self, utterance: int, offset_samples: int, audio: bytes) -> None:
        """A piece of an utterance for the call's actor."""

    def fault(self, error: Exception) -> None:
        """Judging a window failed."""


class CallerEar:
    """Keeps the caller's audio, and turns the judgement of its windows into speech (a ``VadSource``)."""

    def __init__(self, owner: EarOwner, media: MediaSettings, vad: VadBatch) -> None:
        self.vad_state: Any = vad.initial_state()
        self._owner = owner
        self._vad = vad
        self._window = vad.window_samples
        self._frame = self._window // FRAMES_PER_WINDOW
        self._piece = media.upload_ms * SAMPLES_PER_MS
        self._judged_to = 0
        self._segmenter = SpeechSegmenter(
            SpeechSettings(
                threshold=media.vad_threshold,
                onset_windows=media.vad_onset_windows,
                onset_windows_playing=media.vad_onset_windows_playing,
                pause_ms=media.pause_ms,
                window_samples=self._window,
            )
        )
        self._store = CallerAudioStore(
            keep_samples=int(media.ring_s * 1000) * SAMPLES_PER_MS, preroll_samples=media.preroll_ms * SAMPLES_PER_MS
        )
        self._clock = SampleClock()
        self._echo = EchoGuard()
        self._onset_ms = 0
        self._pause_ms = 0
        self._closely = False

    @property
    def utterance(self) -> int | None:
        """The open utterance."""
        return self._segmenter.utterance

    @property
    def speaking(self) -> bool:
        """The caller speaks."""
        return self._segmenter.speaking

    def hear(self, audio: bytes) -> None:
        """Take caller audio, mu-law 8 kHz, any length."""
        store = self._store
        store.append(audio)
        end = store.end
        if end - self._judged_to >= self._window:
            self._clock.arrived(end, self._owner.now_ms)
            self._vad.submit(self)
        elif self._segmenter.falling:
            self._listen_ahead()
            self._listen_closely()

    def agent_says(self, heard_at_ms: int, audio: bytes) -> None:
        """The agent's audio, mu-law 8 kHz, that the caller hears from then on: its echo is no speech."""
        self._echo.sent(heard_at_ms, audio)

    def agent_stopped(self, now_ms: int) -> None:
        """Of the agent's audio the caller hears nothing more."""
        self._echo.cut(now_ms)

    def close_utterance(self, utterance: int) -> None:
        """The dialog is done with an utterance; others are left alone."""
        if self._segmenter.close(utterance):
            self._store.close()

    def to_tell_again(self) -> int:
        """How many samples ``tell_again`` will upload."""
        if self._segmenter.utterance is None:
            return 0
        return sum(len(audio) for _, audio in self._store.replay())

    def tell_again(self) -> None:
        """Bring a new actor up to date: the open utterance from its first sample, and whether the caller paused."""
        utterance = self._segmenter.utterance
        if utterance is None:
            return
        self._owner.event(SpeechStarted(utterance, self._onset_ms))
        for offset, audio in self._store.replay():
            self._owner.upload(utterance, offset, audio)
        if not self._segmenter.speaking:
            self._owner.event(SpeechPaused(utterance, self._pause_ms))

    def close(self) -> None:
        """The call is over."""
        self._vad.forget(self)
        self._store.release()

    # --- from the voice activity batch ---

    def has_window(self) -> bool:
        """A whole window is there."""
        return self._store.end - self._judged_to >= self._window

    def worth_judging(self, loudest_db: float) -> bool:
        """Whether a window whose loudest frame has this level may be speech."""
        segmenter = self._segmenter
        if segmenter.speaking or not segmenter.worth_judging(loudest_db):
            return segmenter.speaking
        return loudest_db > self._echo.limit_db(self._clock.to_ms(segmenter.position, self._owner.now_ms))

    def next_window(self) -> bytes:
        """The next window."""
        window = self._store.window(self._judged_to, self._window)
        self._judged_to += self._window
        return window

    def judged(self, probability: float, frames_db: list[float]) -> None:
        """What the batch says about the next window."""
        try:
            self._listen(probability, frames_db)
        except Exception as error:  # noqa: BLE001 - the call border; the batch holds other calls
            self._owner.fault(error)

    def _listen(self, probability: float, frames_db: list[float]) -> None:
        segmenter = self._segmenter
        if self._echo.expected:
            begin_ms = self._clock.to_ms(segmenter.position, self._owner.now_ms)
            self._echo.heard(begin_ms, begin_ms + self._window // SAMPLES_PER_MS, max(frames_db))
        # Only what may be an onset asks whether the agent is heard, so most windows need not.
        playing = probability > 0.0 and not segmenter.speaking and self._owner.agent_heard()
        signal = segmenter.accept(probability, frames_db, playing=playing)
        if signal is not None:
            self._tell(signal)
        if segmenter.speaking and segmenter.utterance is not None:
            for offset, audio in self._store.take(segmenter.position, self._piece):
                self._owner.upload(segmenter.utterance, offset, audio)
        if segmenter.falling and not self.has_window():
            self._listen_ahead()
        self._listen_closely()

    def _listen_closely(self) -> None:
        if self._segmenter.sinking != self._closely:
            self._closely = not self._closely
            self._owner.listen_closely(self._closely)

    def _listen_ahead(self) -> None:
        """The voice is low: look at each packet, for what a whole window would tell comes up to 30 ms later."""
        begin = self._segmenter.heard_to
        frames = (self._store.end - begin) // self._frame
        if frames:
            levels = levels_db(self._store.window(begin, frames * self._frame), frames)
            fade = self._segmenter.accept_levels(levels, self._frame)
            if fade is not None:
                self._faded(fade)

    def _tell(self, signal: SpeechSignal) -> None:
        if isinstance(signal, SpeechOnset):
            self._began(signal)
        elif isinstance(signal, SpeechPause):
            self._paused(signal)
        elif isinstance(signal, SpeechFade):
            self._faded(signal)
        else:
            self._owner.event(SpeechRose(signal.utterance))

    def _began(self, onset: SpeechOnset) -> None:
        self._owner.caller_began()
        self._onset_ms = max(self._pause_ms, self._clock.to_ms(onset.at, self._owner.now_ms))
        if onset.resumed:
            self._store.resume(onset.at)
            self._owner.event(SpeechResumed(onset.utterance, self._onset_ms))
        else:
            self._store.open(onset.at)
            self._owner.event(SpeechStarted(onset.utterance, self._onset_ms))

    def _faded(self, fade: SpeechFade) -> None:
        """As at a pause: the words so far are those of all that was heard."""
        for offset, audio in self._store.rest(self._segmenter.heard_to):
            self._owner.upload(fade.utterance, offset, audio)
        self._owner.event(SpeechFaded(fade.utterance))

    def _paused(self, pause: SpeechPause) -> None:
        """Everything heard goes out before the pause is told, so that the words can account for all of it."""
        for offset, audio in self._store.pause(self._segmenter.position):
            self._owner.upload(pause.utterance, offset, audio)
        self._pause_ms = max(self._onset_ms, self._clock.to_ms(pause.end, self._owner.now_ms))
        self._owner.event(SpeechPaused(pause.utterance, self._pause_ms))
