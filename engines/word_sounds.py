"""Sounds that tell words apart: a recording of them says exactly which samples of which words were heard.

They are no speech. Of the bytes of a sound none is mu-law silence (0xFF), so in a recording everything else was said,
and two tones that rise all the time make no part of a sound like another.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from voice_agent.audio.g711 import mulaw_encode

SILENT_BYTE = 0xFF
_RATE_HZ = 8000
_AMPLITUDE = 7000


@lru_cache(maxsize=4096)
def word_sound(word: str, duration_ms: int) -> bytes:
    """Mu-law mono 8 kHz of ``duration_ms``; the same word always sounds the same."""
    key = zlib.crc32(word.encode())
    low_hz, high_hz = 250 + key % 97 * 5, 900 + key // 97 % 101 * 9
    at_s = np.arange(duration_ms * _RATE_HZ // 1000) / _RATE_HZ
    rise = at_s * (1 + (0.1 + key // 9797 % 89 * 0.01) * at_s)
    mix = np.sin(2 * np.pi * low_hz * rise) + np.sin(2 * np.pi * high_hz * rise)
    audio = np.frombuffer(mulaw_encode((mix * _AMPLITUDE).astype(np.int16)), dtype=np.uint8)
    silent = (audio & 0x7F) == 0x7F  # the two zeros of mu-law
    return np.where(silent, SILENT_BYTE - 1, audio).astype(np.uint8).tobytes()


@dataclass(frozen=True, slots=True)
class HeardWord:
    """A word in a recording: ``samples`` of it were heard from its beginning, the first at ``at`` of the recording.

    An empty ``word`` is a stretch that is the beginning of no word: something was skipped, repeated or broken there.
    """

    word: str
    samples: int
    at: int


def words_in(recording: bytes, vocabulary: Sequence[str], duration_ms: int) -> list[HeardWord]:
    """What a mu-law recording holds, in order. Silence between words, or within one, is left out."""
    places = np.flatnonzero(np.frombuffer(recording, dtype=np.uint8) != SILENT_BYTE)
    heard = bytes(recording).replace(bytes([SILENT_BYTE]), b"")
    sounds = {word: word_sound(word, duration_ms) for word in dict.fromkeys(vocabulary)}
    found: list[HeardWord] = []
    at = 0
    while at < len(heard):
        samples, word = max((_common(heard, at, sound), word) for word, sound in sounds.items())
        if samples < _LEAST_SAMPLES and at + samples < len(heard):
            # Not the beginning of a word: one sample further it may be.
            samples, word = 1, ""
        if found and not word and not found[-1].word:
            found[-1] = replace(found[-1], samples=found[-1].samples + 1)
        else:
            found.append(HeardWord(word, samples, int(places[at])))
        at += samples
    return found


_LEAST_SAMPLES = 40
"""Shorter agreement than this is chance."""


def _common(heard: bytes, at: int, sound: bytes) -> int:
    """Length of the common beginning of ``heard[at:]`` and ``sound``."""
    piece = heard[at : at + len(sound)]
    if piece == sound:
        return len(sound)
    differ = np.frombuffer(piece, dtype=np.uint8) != np.frombuffer(sound[: len(piece)], dtype=np.uint8)
    return int(np.argmax(differ)) if differ.any() else len(piece)
