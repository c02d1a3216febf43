"""What a telephone line carries besides clean words: background noise, the agent's echo, coughs, clicks, long pauses.

A caller's line may hold marks in brackets: ``[700]`` is a pause of 700 ms inside the line, ``[cough]``, ``[click]`` and
``[door]`` are noises without a voice. Everything here is seeded: the same script sounds the same each time.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from voice_agent.audio.g711 import SILENCE, mulaw_decode, mulaw_encode
from voice_agent.audio.levels import loud_frames

RATE_HZ: Final = 8000
SPEECH_DBFS: Final = -20.0
"""Level of a caller's speech while it is loud; levels of noise are told relative to it."""

NOISE_KINDS: Final = ("white", "babble")
NOISES: Final = ("cough", "click", "door")
_FRAME: Final = 160
_FRAME_MS: Final = 20
_EDGE_DBFS: Final = -50.0
_MARK = re.compile(r"\[(\d+|[a-z]+)\]")
_TALKERS: Final = 6


@dataclass(frozen=True, slots=True)
class Echo:
    """The agent's own voice coming back: ``level_db`` below what was played (negative), ``delay_ms`` later."""

    level_db: float
    delay_ms: int = 120


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a line: words, a pause of ``pause_ms``, or a noise."""

    words: str = ""
    pause_ms: int = 0
    noise: str = ""


def pieces(line: str) -> tuple[Piece, ...]:
    """A line taken apart at its marks.

    Raises:
        ValueError: a mark is not known.
    """
    found: list[Piece] = []
    for number, part in enumerate(_MARK.split(line)):
        if number % 2 == 0:
            found += [Piece(words=part.strip())] if part.strip() else []
        elif part.isdigit():
            found.append(Piece(pause_ms=int(part)))
        elif part in NOISES:
            found.append(Piece(noise=part))
        else:
            raise ValueError(f"[{part}] is not a pause in ms, nor one of {', '.join(f'[{name}]' for name in NOISES)}")
    return tuple(found)


def has_marks(line: str) -> bool:
    """Whether a line is more than words."""
    return _MARK.search(line) is not None


def has_words(line: str) -> bool:
    """Whether anything in a line is spoken."""
    return any(piece.words for piece in pieces(line))


def trimmed(speech: bytes) -> bytes:
    """Mu-law without the silence before and after it, so that pauses between pieces are as long as they say."""
    loud = np.flatnonzero(loud_frames(mulaw_decode(speech), _FRAME, _EDGE_DBFS))
    return speech[int(loud[0]) * _FRAME : (int(loud[-1]) + 1) * _FRAME] if len(loud) else b""


def silence(ms: int) -> bytes:
    """Mu-law silence, whole frames."""
    return SILENCE * (-(-ms // _FRAME_MS) * _FRAME)


def noise_of(name: str) -> bytes:
    """Mu-law of one of ``NOISES``, about as loud as speech; synthetic, always the same."""
    random = np.random.default_rng(NOISES.index(name))
    if name == "click":
        audio = np.zeros(2 * _FRAME)
        audio[:40] = random.standard_normal(40)
        return _at_level(audio, SPEECH_DBFS - 6.0)
    length, decay_ms = (2400, 90.0) if name == "cough" else (4000, 60.0)
    t = np.arange(length) * 1000.0 / RATE_HZ
    envelope = np.exp(-t / decay_ms) * np.minimum(t / 5.0, 1.0)
    if name == "cough":  # two bursts, as coughs mostly are
        envelope += 0.8 * np.where(t > 150.0, np.exp(-(t - 150.0) / decay_ms), 0.0)
    tint = np.convolve(random.standard_normal(length), np.ones(3 if name == "cough" else 16), mode="same")
    return _at_level(tint * envelope, SPEECH_DBFS)


def babble(level_dbfs: float, seed: int, seconds: int = 4) -> NDArray[np.float64]:
    """Like voices in the background: noise of a voice's spectrum, from several talkers, each in syllables of its own.

    Float64 in units of int16, 8 kHz; its end fits its beginning.
    """
    random = np.random.default_rng(seed)
    count = seconds * RATE_HZ
    hz = np.fft.rfftfreq(count, 1 / RATE_HZ)
    colour = np.where((hz > 200) & (hz < 3400), 1.0 / np.maximum(hz, 500.0), 0.0)
    total = np.zeros(count)
    for _ in range(_TALKERS):
        voice = np.fft.irfft(np.fft.rfft(random.standard_normal(count)) * colour, count)
        slow = np.fft.irfft(np.fft.rfft(random.standard_normal(count)) * ((hz > 1) & (hz < 5)), count)
        total += voice * np.maximum(slow / np.std(slow) + 0.5, 0.0)
    scaled: NDArray[np.float64] = total * 32768.0 * 10.0 ** (level_dbfs / 20.0) / np.sqrt(np.mean(np.square(total)))
    return scaled


def mixed(one: bytes, other: bytes) -> bytes:
    """The sum of two mu-law pieces of one length."""
    total = mulaw_decode(one).astype(np.int32) + mulaw_decode(other)
    return mulaw_encode(np.clip(total, -32768, 32767).astype(np.int16))


class EchoPath:
    """Feeds what the agent says back into the caller's microphone. One owner; ``mix`` once for each 20 ms."""

    def __init__(self, echo: Echo) -> None:
        self._gain = 10.0 ** (echo.level_db / 20.0)
        self._late: deque[bytes] = deque(SILENCE * _FRAME for _ in range(max(round(echo.delay_ms / _FRAME_MS), 0)))

    def mix(self, spoken: bytes, heard: bytes) -> bytes:
        """The caller's frame with the echo on it; ``heard`` is the agent's frame that sounds now."""
        self._late.append(heard)
        back = self._late.popleft()
        if back == SILENCE * _FRAME:
            return spoken
        faint = np.rint(mulaw_decode(back) * self._gain).astype(np.int16)
        return mixed(spoken, mulaw_encode(faint))


def _at_level(audio: NDArray[np.float64], dbfs: float) -> bytes:
    loudest = np.sqrt(np.max(np.mean(np.square(audio[: len(audio) // _FRAME * _FRAME].reshape(-1, _FRAME)), axis=1)))
    scaled = audio * 32768.0 * 10.0 ** (dbfs / 20.0) / loudest
    encoded = mulaw_encode(np.clip(np.rint(scaled), -32768, 32767).astype(np.int16))
    return encoded + SILENCE * (-len(encoded) % _FRAME)
