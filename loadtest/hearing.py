"""Did the agent's words come out whole? The audio at the ear against an uninterrupted rendering of the same words.

A voice that is rendered twice is not the same to the sample (synthesisers add noise), so pieces of the reference are
looked for by normalised correlation. Between two pieces that were found, the ear must have got as much sound as the
reference has there: less was lost, more was said twice. Silence in between (a hold) counts as nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

RATE_HZ: Final = 8000
_PIECE: Final = 1280
_HOP: Final = 640
_NEAR: Final = 480
_BACK: Final = 8000
_AHEAD: Final = 24_000
_ALIKE: Final = 0.9
_SURE: Final = 0.9
_FRAME: Final = 80
_QUIET_DBFS: Final = -45.0
_SLACK_MS: Final = 80
"""A hold and what resumes it are a frame of 20 ms each away from the exact place."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Reference against ear, in ms of sound.

    Attributes:
        found_share: share of the reference's loud pieces that were found at the ear, [0, 1].
        lost_ms: sound of the reference, between pieces found, that the ear did not get; likewise ``repeated_ms``.
        played_ms: how far into the reference the ear got.
        sound_ms: where the reference's own sound ends; behind it is silence only.
    """

    found_share: float
    lost_ms: int
    repeated_ms: int
    played_ms: int
    sound_ms: int

    @property
    def to_the_end(self) -> bool:
        """Whether nothing of the reference's end is missing."""
        return self.played_ms >= self.sound_ms - _SLACK_MS


@dataclass(frozen=True, slots=True)
class TurnAudio:
    """One turn of the agent at the ear.

    Attributes:
        words_recorded: words the platform says were heard.
        words_played: words whose sound was over when playing stopped, by the audio.
    """

    turn: int
    interrupted: bool
    words: int
    words_lost: int
    words_repeated: int
    words_recorded: int
    words_played: int
    found_share: float

    @property
    def heard_error_words(self) -> int:
        """Recorded minus played."""
        return self.words_recorded - self.words_played


def compare(ear: NDArray[np.int16], reference: NDArray[np.int16]) -> Comparison:
    """Find the reference in what was heard; both int16 mono 8 kHz."""
    heard, meant = ear.astype(np.float64), reference.astype(np.float64)
    pieces = [at for at in range(0, len(meant) - _PIECE + 1, _HOP) if _loud_ms(meant[at : at + _PIECE]) >= 80]
    sound = np.flatnonzero(_loud(meant))
    sound_ms = (int(sound[-1]) + 1) * _FRAME * 1000 // RATE_HZ if len(sound) else 0
    found: list[tuple[int, int]] = []
    for at in pieces:
        expected = found[-1][1] + at - found[-1][0] if found else 0
        place = _find(heard, meant[at : at + _PIECE], expected, first=not found)
        if place is not None and (not found or place > found[-1][1]):
            found.append((at, place))
    if not found:
        return Comparison(0.0, 0, 0, 0, sound_ms)
    found = _plausible(found)
    lost = repeated = 0
    for (at, place), (next_at, next_place) in pairwise(found):
        missing_ms = _loud_ms(meant[at:next_at]) - _loud_ms(heard[place:next_place])
        lost += missing_ms if missing_ms > _SLACK_MS else 0
        repeated -= missing_ms if missing_ms < -_SLACK_MS else 0
    return Comparison(len(found) / len(pieces), lost, repeated, _played_ms(heard, meant, found[-1]), sound_ms)


def _plausible(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Without pieces found somewhere else than both their neighbours: one vowel is like another."""
    slack = _SLACK_MS * RATE_HZ // 1000
    late = [place - at for at, place in found]
    return [
        piece
        for n, piece in enumerate(found)
        if not 0 < n < len(found) - 1 or abs(late[n] - late[n - 1]) <= slack or abs(late[n] - late[n + 1]) <= slack
    ]


def _played_ms(heard: NDArray[np.float64], meant: NDArray[np.float64], last: tuple[int, int]) -> int:
    """How far the reference was played: as much sound behind the last piece found as the ear still got."""
    at, place = last
    still = int(np.count_nonzero(_loud(heard[place:])))
    due = np.flatnonzero(_loud(meant[at:]))
    frames = int(due[min(still, len(due)) - 1]) + 1 if still and len(due) else 0
    return (at + frames * _FRAME) * 1000 // RATE_HZ


def words_between(lost_ms: int, reference_ms: int, words: int) -> int:
    """Ms of sound as words, by the mean length of a word."""
    return round(lost_ms * words / reference_ms) if reference_ms else 0


def words_over(word_ends_ms: Sequence[int], played_ms: int) -> int:
    """Words whose sound is over at ``played_ms``."""
    return sum(end <= played_ms for end in word_ends_ms)


def _find(heard: NDArray[np.float64], piece: NDArray[np.float64], expected: int, *, first: bool) -> int | None:
    """Where the piece is, looked for first where it is due."""
    if not first:
        place, alike = _best(heard, piece, expected - _NEAR, expected + _NEAR)
        if alike >= _SURE:
            return place
    place, alike = _best(heard, piece, expected - _BACK, expected + _AHEAD)
    return place if alike >= _ALIKE else None


def _best(heard: NDArray[np.float64], piece: NDArray[np.float64], start: int, stop: int) -> tuple[int, float]:
    """The place in [start, stop] most alike the piece, and how alike, [-1, 1]."""
    start = max(start, 0)
    region = heard[start : max(stop, 0) + len(piece)]
    if len(region) < len(piece):
        return 0, 0.0
    size = 1 << (len(region) + len(piece) - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(region, size) * np.conj(np.fft.rfft(piece, size)), size)
    places = len(region) - len(piece) + 1
    power = np.concatenate(([0.0], np.cumsum(np.square(region))))
    energy = power[len(piece) :] - power[: -len(piece)]
    alike = product[:places] / np.sqrt(np.maximum(energy[:places], 1.0) * max(float(np.sum(np.square(piece))), 1.0))
    best = int(np.argmax(alike))
    return start + best, float(alike[best])


def _loud(audio: NDArray[np.float64]) -> NDArray[np.bool_]:
    whole = audio[: len(audio) // _FRAME * _FRAME].reshape(-1, _FRAME)
    loud: NDArray[np.bool_] = np.mean(np.square(whole), axis=1) > np.square(32768.0 * 10.0 ** (_QUIET_DBFS / 20.0))
    return loud


def _loud_ms(audio: NDArray[np.float64]) -> int:
    return int(np.count_nonzero(_loud(audio))) * _FRAME * 1000 // RATE_HZ
