"""Sounds that tell words apart: a recording of them says exactly which samples of which words were heard.

They are no speech. Of the bytes of a sound none is mu-law silence (0xFF), so in a recording everything else was said,
and two tones that rise all the time make no part of a sound like another.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
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
    return np.where(audio == SILENT_BYTE, SILENT_BYTE - 1, audio).astype(np.uint8).tobytes()


def words_in(recording: bytes, vocabulary: Sequence[str], duration_ms: int) -> list[tuple[str, int]]:
    """What a recording holds, in order: (word, samples of it that were heard from its beginning).

    A stretch that is the beginning of no word of ``vocabulary`` comes as ("", its samples): something was skipped,
    repeated or broken there.
    """
    heard = bytes(recording).replace(bytes([SILENT_BYTE]), b"")
    sounds = {word: word_sound(word, duration_ms) for word in dict.fromkeys(vocabulary)}
    found: list[tuple[str, int]] = []
    at = 0
    while at < len(heard):
        word, samples = max(
            ((word, _common(heard, at, sound)) for word, sound in sounds.items()), key=lambda one: one[1]
        )
        if samples < _LEAST_SAMPLES and at + samples < len(heard):
            # Not the beginning of a word: one sample further it may be.
            if found and not found[-1][0]:
                found[-1] = ("", found[-1][1] + 1)
            else:
                found.append(("", 1))
            at += 1
        else:
            found.append((word, samples))
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
