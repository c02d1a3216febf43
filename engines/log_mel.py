"""Whisper's log-mel features in numpy: 80 Slaney mels, 25 ms Hann windows every 10 ms, at 16 kHz.

Source: the front end described in "Robust Speech Recognition via Large-Scale Weak Supervision" (section 2.2), with the
mel scale of Slaney's Auditory Toolbox. The last frame is dropped and the range limited to 8 (log10) below the loudest.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
MELS = 80
HOP_SAMPLES = 160
_WINDOW = 400
_LINEAR_HZ = 1000.0
_HZ_PER_MEL = 200.0 / 3.0
_LOG_STEP = np.log(6.4) / 27.0


def log_mel(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features float32, shape (80, len(audio) // 160), of audio float32 mono 16 kHz, shape (n,), n >= 400."""
    padded = np.pad(audio.astype(np.float64), _WINDOW // 2, mode="reflect")
    frames = sliding_window_view(padded, _WINDOW)[::HOP_SAMPLES][: len(audio) // HOP_SAMPLES]
    power = np.abs(np.fft.rfft(frames * _hann(), axis=1)) ** 2
    logs = np.log10(np.maximum(power @ _filters(), 1e-10)).T
    limited = np.maximum(logs, logs.max() - 8.0)
    scaled: NDArray[np.float32] = ((limited + 4.0) / 4.0).astype(np.float32)
    return scaled


@cache
def _hann() -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)


@cache
def _filters() -> NDArray[np.float64]:
    """Triangles of equal area between neighbours on the mel scale, shape (201, 80)."""
    top = _LINEAR_HZ / _HZ_PER_MEL + np.log(SAMPLE_RATE_HZ / 2 / _LINEAR_HZ) / _LOG_STEP
    mels = np.linspace(0.0, top, MELS + 2)
    knee = _LINEAR_HZ / _HZ_PER_MEL
    edges = np.where(mels < knee, mels * _HZ_PER_MEL, _LINEAR_HZ * np.exp(_LOG_STEP * (mels - knee)))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.linspace(0.0, SAMPLE_RATE_HZ / 2, _WINDOW // 2 + 1)[:, None]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    triangles: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (high - low))
    return triangles
