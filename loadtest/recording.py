"""``call.wav``: what was said and heard, side by side on the playout clock."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from voice_agent.audio.g711 import mulaw_decode
from voice_agent.errors import ConfigError

RATE_HZ = 8000


def write_stereo(path: Path, caller: bytes, agent: bytes) -> None:
    """Write mu-law audio as 16-bit stereo at 8 kHz: caller left, agent as heard at the ear right.

    The shorter side is padded with silence.
    """
    left, right = mulaw_decode(caller), mulaw_decode(agent)
    stereo = np.zeros((max(len(left), len(right)), 2), dtype="<i2")
    stereo[: len(left), 0] = left
    stereo[: len(right), 1] = right
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(stereo.tobytes())


def read_stereo(path: Path) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Caller and agent of a recording, int16 mono at 8 kHz, same length.

    Raises:
        ConfigError: the file is not a 16-bit stereo WAV at 8 kHz.
    """
    try:
        with wave.open(str(path), "rb") as file:
            shape = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise ConfigError(f"{path}: is not a WAV file: {error}") from error
    if shape != (2, 2, RATE_HZ):
        raise ConfigError(f"{path}: must be 16-bit stereo at {RATE_HZ} Hz")
    stereo = np.frombuffer(content, dtype="<i2").astype(np.int16).reshape(-1, 2)
    return stereo[:, 0].copy(), stereo[:, 1].copy()
