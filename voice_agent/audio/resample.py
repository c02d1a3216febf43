"""Streaming change of sample rate by a polyphase FIR whose state is kept between calls.

The filter is a Kaiser-windowed sinc of 5 ms: it looks 2.5 ms ahead, and that is all the audio it ever holds back.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, gcd

import numpy as np
from numpy.typing import NDArray

_HALF_LENGTH_S = 0.0025
_KAISER_BETA = 6.0


@lru_cache(maxsize=16)
def _filter_bank(up: int, down: int, from_hz: int) -> tuple[NDArray[np.float32], int]:
    """Filter rows, one per phase, taps in order of *rising* input time, and half the prototype's length in taps.

    The prototype runs at ``from_hz * up``; its cut-off is half the lower rate, so what would alias is 6 dB down there
    and more than 55 dB down 0.75 kHz beyond.
    """
    rate_hz = from_hz * up
    half = max(1, round(_HALF_LENGTH_S * rate_hz))
    position = np.arange(-half, half + 1)
    cutoff = min(1.0 / up, 1.0 / down)
    prototype = np.sinc(position * cutoff) * np.kaiser(2 * half + 1, _KAISER_BETA)
    taps = ceil(len(prototype) / up)
    rows = np.zeros(taps * up)
    rows[: len(prototype)] = prototype
    bank = rows.reshape(taps, up).T[:, ::-1]
    bank = bank / bank.sum(axis=1, keepdims=True)
    return np.ascontiguousarray(bank, dtype=np.float32), half


class StreamingResampler:
    """Resamples one stream. Output is aligned with input: sample m of the output is at time m / to_hz.

    Any division into pieces gives the same output. Not thread-safe; one owner.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        """Rates in Hz, any two positive integers.

        Raises:
            ValueError: a rate is not positive.
        """
        if from_hz <= 0 or to_hz <= 0:
            raise ValueError(f"sample rates must be positive, got {from_hz} and {to_hz}")
        divisor = gcd(from_hz, to_hz)
        self._up, self._down = to_hz // divisor, from_hz // divisor
        self._bank, self._half = _filter_bank(self._up, self._down, from_hz)
        self.reset()

    def reset(self) -> None:
        """Forget the stream; the next sample is the first of a new one."""
        self._taps = self._bank.shape[1]
        # What the filter still needs of the past; before the first sample there was silence.
        self._kept = np.zeros(self._taps - 1, dtype=np.float32)
        self._first_kept = 1 - self._taps  # input index of _kept[0]
        self._taken = 0
        self._given = 0

    @property
    def delay_ms(self) -> float:
        """How far the filter looks ahead, in ms: what a live stream is late by."""
        return _HALF_LENGTH_S * 1000 if self._up != self._down else 0.0

    def process(self, audio: NDArray[np.int16]) -> NDArray[np.int16]:
        """Take int16 mono audio at ``from_hz``, shape (n,); give what can be computed, int16 at ``to_hz``."""
        if self._up == self._down:
            return audio.astype(np.int16)
        self._kept = np.concatenate([self._kept, audio.astype(np.float32)])
        self._taken += len(audio)
        # Output m needs input up to index (m * down + half) // up.
        ready = (self._taken * self._up - 1 - self._half) // self._down + 1
        return self._give(ready)

    def flush(self) -> NDArray[np.int16]:
        """End the stream: the rest of it, so that ceil(n * to_hz / from_hz) samples came out; then start anew."""
        if self._up == self._down:
            return np.zeros(0, dtype=np.int16)
        total = ceil(self._taken * self._up / self._down)
        self._kept = np.concatenate([self._kept, np.zeros(self._half // self._up + 2, dtype=np.float32)])
        rest = self._give(total)
        self.reset()
        return rest

    def _give(self, until: int) -> NDArray[np.int16]:
        """Outputs from the next one up to (not with) ``until``."""
        if until <= self._given:
            return np.zeros(0, dtype=np.int16)
        position = np.arange(self._given, until, dtype=np.int64) * self._down + self._half
        newest = position // self._up - self._first_kept
        windows = np.lib.stride_tricks.sliding_window_view(self._kept, self._taps)[newest - self._taps + 1]
        output = np.einsum("ij,ij->i", windows, self._bank[position % self._up])
        self._given = until
        oldest_needed = (until * self._down + self._half) // self._up - self._taps + 1
        if oldest_needed > self._first_kept:
            self._kept = self._kept[oldest_needed - self._first_kept :]
            self._first_kept = oldest_needed
        samples: NDArray[np.int16] = np.clip(np.rint(output), -32768, 32767).astype(np.int16)
        return samples


def resample(audio: NDArray[np.int16], from_hz: int, to_hz: int) -> NDArray[np.int16]:
    """A whole clip at once: int16 mono at ``from_hz`` to int16 mono at ``to_hz``."""
    resampler = StreamingResampler(from_hz, to_hz)
    return np.concatenate([resampler.process(audio), resampler.flush()])
