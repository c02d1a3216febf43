"""When a caller's voice falls as it does at the end of a turn: sooner told than a pause, and not as sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SAMPLES_PER_MS = 8

PEAK_DECAY_DB = 0.3
"""Per window of speech: who turns away from the telephone is followed within some seconds."""


@dataclass(frozen=True, slots=True)
class FadeSettings:
    """Thresholds of a falling voice.

    Attributes:
        low_db: a frame is low when it is this much below the loudest of the stretch of speech, or not loud at all.
        died_ms: so much of low frames in a row is a fall, where the voice died away.
        cut_ms: the same where it was cut off, as the closure of a plosive does: longer than most closures.
        dying_ms: a voice died away when it was soft for this long before it was low; a closure comes sooner.
        soft_db: a frame further than this below the loudest is soft.
        sinking_db: the same of a voice that may be low with the next frames.
        after_ms: speech shorter than this does not fade: so few words are rarely a turn.
        rise_db: a voice that faded has risen when ``rise_windows`` in a row come this near to the loudest.
        rise_windows: see ``rise_db``; the burst of a last consonant is shorter.
    """

    low_db: float = 28.0
    died_ms: int = 24
    cut_ms: int = 48
    dying_ms: int = 72
    soft_db: float = 8.0
    sinking_db: float = 14.0
    after_ms: int = 1000
    rise_db: float = 6.0
    rise_windows: int = 2


class Voice:
    """How loud the caller's voice is against its own loudest in this stretch of speech.

    A fall is told once. Sound, however soft, ends it, so that the next is told too: more words may be known by then.
    While a voice is low its next frames may be taken one by one, ahead of their window. Durations count samples.
    """

    def __init__(self, settings: FadeSettings, window_samples: int) -> None:
        self._settings = settings
        self._window = window_samples
        self.begins(0)

    def begins(self, position: int) -> None:
        """Speech begins, or goes on after a pause."""
        self._since, self._loudest_db, self._last_db = position, -90.0, 0.0
        self._soft = self._low = self._risen = self._ahead = 0
        self._faded = self._told = False

    @property
    def falling(self) -> bool:
        """It is low, and may turn out to fall before the window is full."""
        return self._low > 0 and not self._told

    def sinks(self, position: int) -> bool:
        """The next packet may show that it falls: worth not being late for."""
        if self._told or position - self._since < self._settings.after_ms * SAMPLES_PER_MS:
            return False
        return self._last_db < self._loudest_db - self._settings.sinking_db

    @property
    def ahead(self) -> int:
        """Samples of the next window that were taken already."""
        return self._ahead

    def goes_on_ahead(self, frames_db: Sequence[float], frame: int, position: int, loud_db: float) -> bool:
        """Take the next frames of ``frame`` samples, up to ``position``, ahead of their window: has the voice faded?"""
        self._ahead += len(frames_db) * frame
        self._follow(frames_db, frame, loud_db)
        return self._fades(position)

    def goes_on(self, frames_db: Sequence[float], position: int, loud_db: float) -> bool | None:
        """Take a window. True: the voice has faded; False: it has risen again; None: nothing to tell.

        Args:
            frames_db: level in dBFS of equal consecutive frames of the window.
            position: behind the window.
            loud_db: level from which on a frame is loud.
        """
        loudest_db = max(frames_db)
        self._loudest_db = max(self._loudest_db - PEAK_DECAY_DB, loudest_db)
        frame = self._window // len(frames_db)
        self._follow(frames_db[self._ahead // frame :], frame, loud_db)
        self._ahead = 0
        if self._faded and self._has_risen(loudest_db):
            self._faded, self._risen = False, 0
            return False
        return True if self._fades(position) else None

    def _fades(self, position: int) -> bool:
        if self._told or not self._has_fallen():
            return False
        if position - self._since < self._settings.after_ms * SAMPLES_PER_MS:
            return False
        self._faded = self._told = True
        return True

    def _follow(self, frames_db: Sequence[float], frame: int, loud_db: float) -> None:
        """For how long it has been soft, and low."""
        low_db = max(self._loudest_db - self._settings.low_db, loud_db)
        soft_db = self._loudest_db - self._settings.soft_db
        for level in frames_db:
            self._last_db = level
            if level < low_db:
                self._low += frame
            else:
                self._low, self._told = 0, False
                self._soft = self._soft + frame if level < soft_db else 0

    def _has_fallen(self) -> bool:
        settings = self._settings
        died_away = self._soft >= settings.dying_ms * SAMPLES_PER_MS
        return self._low >= (settings.died_ms if died_away else settings.cut_ms) * SAMPLES_PER_MS

    def _has_risen(self, loudest_db: float) -> bool:
        near = loudest_db >= self._loudest_db - self._settings.rise_db
        self._risen = self._risen + 1 if near else 0
        return self._risen >= self._settings.rise_windows
