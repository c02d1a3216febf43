"""When the caller speaks: voice-activity windows to onset, pause and resume, and the audio of each utterance.

Positions count samples (mu-law bytes) of the caller's stream since it began, at 8 kHz. Nothing here knows the time:
``SampleClock`` turns a position into milliseconds on the call's clock from what it is told of arrivals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from voice_agent.fading import PEAK_DECAY_DB, FadeSettings, Voice
from voice_agent.fading import SAMPLES_PER_MS as SAMPLES_PER_MS


@dataclass(frozen=True, slots=True)
class SpeechSettings:
    """Thresholds of the segmenter.

    Attributes:
        threshold: speech probability of a window that counts towards an onset.
        hysteresis: speech goes on while windows stay above ``threshold - hysteresis``.
        onset_windows: windows above the threshold in a row that make an onset.
        onset_windows_playing: the same while the agent is heard.
        pause_ms: silence after the last loud frame that is reported as a pause.
        window_samples: length of a window.
        lookback_ms: how far before the first window of an onset its first loud frame may lie; a voice detector is
            sure of speech only some time after it began.
        floor_margin_db: a frame is loud when it is this much above the background.
        quiet_db: a frame below this is never loud, unless the caller speaks so softly that it is within
            ``range_db`` of the loudest that was heard of them lately.
        range_db: see ``quiet_db``.
        quiet_threshold: speech probability that keeps speech going in a window without a loud frame. A voice
            detector stays sure for 100-300 ms after the last sound; the level says sooner that it is over, and a
            detector that is still very sure outweighs it (a consonant inside a word).
        notice_db: while silent, a window that is not this much above the background is not worth a detector's time.
        fade: when the voice has faded, and when it has risen again.
    """

    threshold: float = 0.5
    hysteresis: float = 0.15
    onset_windows: int = 2
    onset_windows_playing: int = 2
    pause_ms: int = 100
    window_samples: int = 256
    lookback_ms: int = 96
    floor_margin_db: float = 8.0
    quiet_db: float = -45.0
    range_db: float = 20.0
    quiet_threshold: float = 0.8
    notice_db: float = 4.0
    fade: FadeSettings = field(default_factory=FadeSettings)


@dataclass(frozen=True, slots=True)
class SpeechOnset:
    """The caller began to speak, or went on with an open utterance (``resumed``). ``at`` is the first loud sample."""

    utterance: int
    at: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class SpeechPause:
    """The caller is silent. ``end`` is the position behind the last loud sample."""

    utterance: int
    end: int


@dataclass(frozen=True, slots=True)
class SpeechFade:
    """The caller's voice falls: perhaps the last word, perhaps one in the middle. Nothing is over."""

    utterance: int


@dataclass(frozen=True, slots=True)
class SpeechRise:
    """A voice that had faded goes on."""

    utterance: int


SpeechSignal = SpeechOnset | SpeechPause | SpeechFade | SpeechRise

_Window = tuple[int, int, Sequence[float]]
"""First position, position behind the last, and frame levels of a window."""


class SpeechSegmenter:
    """Speech state of one call, fed with consecutive windows from position 0.

    ASCII timeline, one column per window, ``#`` above the threshold, ``-`` between, ``.`` below::

        ....##-##....    ##...        onset_windows 2, pause of 3 windows
             ^onset  ^pause  ^onset (resumed while the utterance is open)
    """

    def __init__(self, settings: SpeechSettings) -> None:
        self._settings = settings
        self._position = 0
        self._run = 0
        self._speaking = False
        self._last_loud = 0
        self._floor_db = -70.0
        self._peak_db = -30.0
        self._numbered = 0
        self._open: int | None = None
        self._voice = Voice(settings.fade, settings.window_samples)
        keep = settings.lookback_ms * SAMPLES_PER_MS // settings.window_samples
        keep += max(settings.onset_windows, settings.onset_windows_playing)
        self._recent: deque[_Window] = deque(maxlen=keep)

    @property
    def position(self) -> int:
        """Samples judged so far."""
        return self._position

    @property
    def heard_to(self) -> int:
        """Behind the last sample whose level was taken: ``position``, or further while the voice is ``falling``."""
        return self._position + (self._voice.ahead if self._speaking else 0)

    @property
    def speaking(self) -> bool:
        """Between an onset and its pause."""
        return self._speaking

    @property
    def falling(self) -> bool:
        """The voice is low: ``accept_levels`` may tell of a fall before the next window is full."""
        return self._speaking and self._open is not None and self._voice.falling

    @property
    def sinking(self) -> bool:
        """The next packet may show that the voice falls."""
        return self._speaking and self._open is not None and self._voice.sinks(self._position)

    @property
    def utterance(self) -> int | None:
        """Number of the open utterance, None when there is none."""
        return self._open

    def worth_judging(self, loudest_db: float) -> bool:
        """Could a window be speech whose loudest frame has this level? A detector need not be asked otherwise."""
        return self._speaking or loudest_db >= self._floor_db + self._settings.notice_db

    def accept(self, probability: float, frames_db: Sequence[float], *, playing: bool) -> SpeechSignal | None:
        """Take the next window.

        Args:
            probability: of speech, [0, 1].
            frames_db: level in dBFS of equal consecutive frames of the window; tells where in it sound begins and ends.
            playing: the agent is being heard.
        """
        start, end = self._position, self._position + self._settings.window_samples
        self._position = end
        window = (start, end, frames_db)
        self._recent.append(window)
        if not self._speaking and probability < self._settings.threshold:
            # Nearly every window of a caller who listens: no onset can end here, whatever ``playing``.
            self._run = 0
            self._listen_to_background(frames_db)
            return None
        active = self._active(probability, frames_db)
        if not active:
            self._listen_to_background(frames_db)
        if self._speaking:
            return self._while_speaking(active, window)
        return self._while_silent(active, playing)

    def accept_levels(self, frames_db: Sequence[float], frame_samples: int) -> SpeechFade | None:
        """Take the levels of the next frames of a window that is not full yet; only while ``falling``.

        Args:
            frames_db: in dBFS, of frames as ``accept`` gets them, from ``heard_to`` on.
            frame_samples: length of each.
        """
        position = self.heard_to + len(frames_db) * frame_samples
        faded = self._voice.goes_on_ahead(frames_db, frame_samples, position, self._loud_db())
        return SpeechFade(self._open) if faded and self._open is not None else None

    def _active(self, probability: float, frames_db: Sequence[float]) -> bool:
        settings = self._settings
        if not self._speaking:
            return probability >= settings.threshold
        loudest = max(frames_db)
        if loudest < self._loud_db():
            return probability >= settings.quiet_threshold
        active = probability >= settings.threshold - settings.hysteresis
        if active:
            self._peak_db = max(self._peak_db - PEAK_DECAY_DB, loudest)
        return active

    def _loud_db(self) -> float:
        """Level from which on a frame is loud."""
        settings = self._settings
        return max(self._floor_db + settings.floor_margin_db, min(settings.quiet_db, self._peak_db - settings.range_db))

    def close(self, utterance: int) -> bool:
        """End the open utterance if it is this one; speech that goes on becomes a new utterance."""
        if self._open != utterance:
            return False
        self._open = None
        self._speaking = False
        self._run = 0
        return True

    def _while_silent(self, active: bool, playing: bool) -> SpeechOnset | None:
        self._run = self._run + 1 if active else 0
        needed = self._settings.onset_windows_playing if playing else self._settings.onset_windows
        if self._run < needed:
            return None
        first, last = self._loud_span(self._run)
        self._run = 0
        self._speaking = True
        # Sound that was already told as speech is not told again as the begin of more.
        first = max(first, self._last_loud)
        self._last_loud = max(last, first)
        resumed = self._open is not None
        self._voice.begins(first)
        if self._open is None:
            self._numbered += 1
            self._open = self._numbered
        return SpeechOnset(self._open, first, resumed)

    def _while_speaking(self, active: bool, window: _Window) -> SpeechSignal | None:
        if active:
            spans = self._loud_frames(window)
            if spans:
                self._last_loud = spans[-1][1]
        if self._open is None:
            return None
        if active or window[1] - self._last_loud < self._settings.pause_ms * SAMPLES_PER_MS:
            faded = self._voice.goes_on(window[2], window[1], self._loud_db())
            return None if faded is None else (SpeechFade if faded else SpeechRise)(self._open)
        self._speaking = False
        self._run = 0
        return SpeechPause(self._open, self._last_loud)

    def _loud_span(self, windows: int) -> tuple[int, int]:
        """First and behind-last loud position of the onset's windows, the first carried back over unbroken loudness."""
        recent = list(self._recent)
        onset, before = recent[-windows:], recent[:-windows]
        positions = [span for window in onset for span in self._loud_frames(window)]
        if not positions:
            return onset[0][0], onset[-1][1]
        first, last = positions[0][0], positions[-1][1]
        floor = onset[0][0] - self._settings.lookback_ms * SAMPLES_PER_MS
        for window in reversed(before):
            for start, end in reversed(self._loud_frames(window)):
                if end == first and start >= floor:
                    first = start
        return first, last

    def _loud_frames(self, window: _Window) -> list[tuple[int, int]]:
        """(start, end) of each frame of a window that stands out of the background."""
        start, end, frames_db = window
        limit = self._loud_db()
        step = (end - start) // len(frames_db)
        return [(start + i * step, start + (i + 1) * step) for i, level in enumerate(frames_db) if level >= limit]

    def _listen_to_background(self, frames_db: Sequence[float]) -> None:
        """Follow the background: at once when it gets quieter, by 2 % of a window when it gets louder."""
        level = sum(frames_db) / len(frames_db)
        if level < self._floor_db:
            self._floor_db = max(level, -90.0)
        else:
            self._floor_db += 0.02 * (level - self._floor_db)


class CallerAudioStore:
    """The last seconds of the caller's audio, and which of it belongs to the open utterance.

    An utterance is a list of stretches of the stream: it begins a pre-roll before its onset, each pause ends a
    stretch, and speech that resumes begins the next with the audio between, but no more than a pre-roll of it.
    Positions *in the utterance* are without gaps, from 0.

    The store holds ``keep_samples``; its policy is drop oldest. An utterance that outgrows it can be sent again only
    in part (``replay`` then starts its numbering anew).

    Attributes:
        end: samples received since the stream began.
    """

    def __init__(self, *, keep_samples: int, preroll_samples: int) -> None:
        self._keep = keep_samples
        self._preroll = preroll_samples
        # All of it at once: buffers of a hundred calls that grow side by side leave holes in the heap.
        self._buffer = bytearray(keep_samples + keep_samples // 8)
        self._held = 0
        self._base = 0
        self.end = 0
        self._stretches: list[list[int]] = []
        self._running = False
        self._taken = 0
        self._offset = 0

    @property
    def held_samples(self) -> int:
        """Samples in the store."""
        return self._held

    def append(self, audio: bytes) -> None:
        """Take caller audio as it comes."""
        self.end += len(audio)
        if not self._buffer:
            self._base = self.end
            return
        if self._held + len(audio) > len(self._buffer):
            # In steps of an eighth, so that the cost of moving memory is spread over many frames.
            audio = audio[-self._keep :]
            stays = self._keep - len(audio)
            self._buffer[:stays] = self._buffer[self._held - stays : self._held]
            self._held, self._base = stays, self.end - self._keep
        self._buffer[self._held : self._held + len(audio)] = audio
        self._held += len(audio)

    def window(self, start: int, samples: int) -> bytes:
        """``samples`` from position ``start``; what was dropped reads as silence."""
        at = start - self._base
        end = min(at + samples, self._held)
        if at >= 0:
            return bytes(self._buffer[at:end])
        return b"\xff" * min(samples, -at) + bytes(self._buffer[: max(end, 0)])

    def open(self, onset: int) -> None:
        """Begin an utterance whose first loud sample is ``onset``."""
        begin = max(onset - self._preroll, self._taken, self._base)
        self._stretches = [[begin, begin]]
        self._taken = begin
        self._offset = 0
        self._running = True

    def resume(self, onset: int) -> None:
        """The open utterance goes on at ``onset``."""
        begin = max(onset - self._preroll, self._taken, self._base)
        if self._stretches and begin == self._stretches[-1][1]:
            self._taken = begin
        else:
            self._stretches.append([begin, begin])
            self._taken = begin
        self._running = True

    def take(self, until: int, piece_samples: int) -> list[tuple[int, bytes]]:
        """Whole pieces of the running utterance up to stream position ``until``: (position in the utterance, audio)."""
        pieces = []
        while self._running and min(until, self.end) - self._taken >= piece_samples:
            pieces.append(self._cut(self._taken + piece_samples))
        return pieces

    def rest(self, until: int) -> list[tuple[int, bytes]]:
        """What of the running utterance was not taken up to ``until``, whole piece or not."""
        until = min(until, self.end)
        return [self._cut(until)] if self._running and until > self._taken else []

    def pause(self, until: int) -> list[tuple[int, bytes]]:
        """The rest of the running utterance up to ``until``; nothing more is taken before ``resume``."""
        pieces = self.rest(until)
        self._running = False
        return pieces

    def replay(self) -> list[tuple[int, bytes]]:
        """Everything of the open utterance that was taken, again from its position 0, for a new owner."""
        pieces = []
        offset = 0
        for stretch in self._stretches:
            stretch[0] = min(max(stretch[0], self._base), stretch[1])
            if stretch[1] > stretch[0]:
                pieces.append((offset, self.window(stretch[0], stretch[1] - stretch[0])))
                offset += stretch[1] - stretch[0]
        self._offset = offset
        return pieces

    def close(self) -> None:
        """The utterance is over; its audio is not needed again."""
        self._stretches = []
        self._running = False

    def release(self) -> None:
        """The call is over: let go of the audio, and keep nothing of what still comes."""
        self.close()
        self._buffer = bytearray()
        self._held, self._base = 0, self.end

    def _cut(self, until: int) -> tuple[int, bytes]:
        piece = (self._offset, self.window(self._taken, until - self._taken))
        self._offset += until - self._taken
        self._taken = until
        self._stretches[-1][1] = until
        return piece


class SampleClock:
    """Turns positions in the caller's stream into milliseconds on the call's clock.

    Frames are late by a varying amount, and lost frames or a carrier's own clock let positions fall behind. The least
    lateness of the last seconds is the offset between the two; it follows loss and drift and ignores jitter.
    """

    _BUCKET_MS = 2000

    def __init__(self) -> None:
        self._current: int | None = None
        self._previous: int | None = None
        self._offset_ms = 0
        self._bucket_ends_ms = 0

    def arrived(self, end: int, now_ms: int) -> None:
        """The stream has reached position ``end`` at ``now_ms``."""
        late = now_ms - end // SAMPLES_PER_MS
        if self._current is None:
            self._current, self._bucket_ends_ms = late, now_ms + self._BUCKET_MS
        elif now_ms >= self._bucket_ends_ms:
            self._previous, self._current = self._current, late
            self._bucket_ends_ms = now_ms + self._BUCKET_MS
        elif late < self._current:
            self._current = late
        else:
            return
        self._offset_ms = self._current if self._previous is None else min(self._current, self._previous)

    def to_ms(self, position: int, now_ms: int) -> int:
        """When ``position`` was spoken, at most ``now_ms`` and at least 0."""
        return max(0, min(position // SAMPLES_PER_MS + self._offset_ms, now_ms))
