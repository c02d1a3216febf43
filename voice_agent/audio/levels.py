"""Loudness of telephone audio, in dB relative to full scale (a square wave at full scale is 0 dBFS)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOOR_DBFS = -120.0
"""What digital silence is said to be."""


def frame_dbfs(audio: NDArray[np.int16], frame_samples: int) -> NDArray[np.float64]:
    """Level of each whole frame in dBFS, shape (len(audio) // frame_samples,); a last partial frame is left out.

    Raises:
        ValueError: ``frame_samples`` is not positive.
    """
    if frame_samples <= 0:
        raise ValueError(f"frame_samples must be positive, got {frame_samples}")
    frames = len(audio) // frame_samples
    shaped = audio[: frames * frame_samples].reshape(frames, frame_samples).astype(np.float64)
    power = np.mean(np.square(shaped / 32768.0), axis=1)
    levels: NDArray[np.float64] = np.maximum(10.0 * np.log10(np.maximum(power, 1e-12)), FLOOR_DBFS)
    return levels


def rms_dbfs(audio: NDArray[np.int16]) -> float:
    """Level of int16 mono audio in dBFS; ``FLOOR_DBFS`` for silence and for no audio at all."""
    return float(frame_dbfs(audio, len(audio))[0]) if len(audio) else FLOOR_DBFS


def loud_frames(audio: NDArray[np.int16], frame_samples: int, threshold_dbfs: float) -> NDArray[np.bool_]:
    """Which whole frames of int16 mono audio are above ``threshold_dbfs``: bool, shape (len(audio) // frame_samples,).

    Raises:
        ValueError: ``frame_samples`` is not positive.
    """
    return frame_dbfs(audio, frame_samples) > threshold_dbfs
