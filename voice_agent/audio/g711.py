"""G.711 mu-law, by table. Bit-exact with the ITU reference codec (ITU-T G.191 ``ulaw_compress`` / ``ulaw_expand``).

One mu-law byte is one sample; at 8 kHz eight bytes are a millisecond.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SILENCE = b"\xff"
"""One sample of digital silence."""

_BIAS = 33
_LARGEST = 0x1FFF


def _expand_table() -> NDArray[np.int16]:
    """Linear value of each of the 256 codes, int16 (G.711 table 2, scaled by 4 to 16 bit)."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    exponent = (code >> 4) & 7
    magnitude = ((((code & 0x0F) << 3) + 4 * _BIAS) << exponent) - 4 * _BIAS
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _compress_table() -> NDArray[np.uint8]:
    """Code of each int16 value, indexed by the value's two's complement bits."""
    linear = np.arange(65536, dtype=np.int32).astype(np.uint16).view(np.int16).astype(np.int32)
    magnitude = np.minimum((np.where(linear < 0, ~linear, linear) >> 2) + _BIAS, _LARGEST)
    segment = np.floor(np.log2(magnitude)).astype(np.int32) - 4
    code = ((8 - segment) << 4) | (0x0F - ((magnitude >> segment) & 0x0F))
    table: NDArray[np.uint8] = np.where(linear < 0, code, code | 0x80).astype(np.uint8)
    return table


_EXPAND = _expand_table()
_EXPAND_FLOAT = (_EXPAND / np.float32(32768)).astype(np.float32)
_COMPRESS = _compress_table()


def mulaw_encode(audio: NDArray[np.int16]) -> bytes:
    """Mu-law bytes of int16 mono audio, shape (n,); n bytes come back."""
    return _COMPRESS[np.ascontiguousarray(audio, dtype=np.int16).view(np.uint16)].tobytes()


def mulaw_decode(audio: bytes) -> NDArray[np.int16]:
    """Linear audio of mu-law bytes: int16 mono, shape (len(audio),)."""
    return _EXPAND[np.frombuffer(audio, dtype=np.uint8)]


def mulaw_to_float(audio: bytes) -> NDArray[np.float32]:
    """Linear audio of mu-law bytes: float32 mono in [-1, 1], shape (len(audio),)."""
    return _EXPAND_FLOAT[np.frombuffer(audio, dtype=np.uint8)]
