"""Tones of a telephone's keys. Source: ITU-T Q.23 (frequencies), Q.24 (at least 40 ms on and off)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from voice_agent.audio.g711 import SILENCE, mulaw_encode

RATE_HZ: Final = 8000
TONE_MS: Final = 80
GAP_MS: Final = 80

_ROWS: Final = {697: "123A", 770: "456B", 852: "789C", 941: "*0#D"}
_COLUMNS_HZ: Final = (1209, 1336, 1477, 1633)
FREQUENCIES_HZ: Final = {
    key: (row_hz, column_hz) for row_hz, keys in _ROWS.items() for key, column_hz in zip(keys, _COLUMNS_HZ, strict=True)
}
"""The two tones of each key, low group first."""

# -9 dBFS each for the low group, the high group 2 dB above it: lines lose more of the high tones.
_LOW_PEAK: Final = 32767 * 10 ** (-9 / 20)
_HIGH_PEAK: Final = _LOW_PEAK * 10 ** (2 / 20) * 0.9
_RAMP_MS: Final = 2


def tone(key: str, duration_ms: int = TONE_MS) -> NDArray[np.int16]:
    """One key: int16 mono 8 kHz, shape (8 * duration_ms,). Ramps of 2 ms at both ends keep it free of clicks.

    Raises:
        ValueError: there is no such key.
    """
    if key not in FREQUENCIES_HZ:
        raise ValueError(f"there is no key {key!r}; there are {''.join(FREQUENCIES_HZ)}")
    low_hz, high_hz = FREQUENCIES_HZ[key]
    at_s = np.arange(RATE_HZ * duration_ms // 1000) / RATE_HZ
    wave = _LOW_PEAK * np.sin(2 * np.pi * low_hz * at_s) + _HIGH_PEAK * np.sin(2 * np.pi * high_hz * at_s)
    ramp = np.clip(np.arange(1, len(wave) + 1) / (_RAMP_MS * RATE_HZ / 1000), 0.0, 1.0)
    return np.asarray(np.rint(wave * ramp * ramp[::-1]), dtype=np.int16)


def mulaw_tones(keys: str, *, tone_ms: int = TONE_MS, gap_ms: int = GAP_MS) -> bytes:
    """Keys one after the other, each followed by silence: mu-law mono 8 kHz.

    Raises:
        ValueError: there is no such key.
    """
    gap = SILENCE * (RATE_HZ * gap_ms // 1000)
    return b"".join(mulaw_encode(tone(key, tone_ms)) + gap for key in keys)
