import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_agent.audio import g711

EVERY_SAMPLE = np.arange(-32768, 32768, dtype=np.int32).astype(np.int16)
EVERY_CODE = bytes(range(256))


def reference_decode(code):
    """G.711 mu-law decoding rule: sign, 3 bits of segment, 4 bits of step; 14-bit value times 4."""
    inverted = code ^ 0xFF
    segment, step = inverted >> 4 & 7, inverted & 15
    value = ((2 * step + 33) << segment) - 33
    return -4 * value if inverted & 0x80 else 4 * value


def reference_encode(sample):
    """G.191 ulaw_compress, step by step as in the reference software."""
    magnitude = ((~sample) >> 2) + 33 if sample < 0 else (sample >> 2) + 33
    magnitude = min(magnitude, 0x1FFF)
    segment = 1
    rest = magnitude >> 6
    while rest:
        segment += 1
        rest >>= 1
    code = (8 - segment) << 4 | (15 - (magnitude >> segment & 15))
    return code if sample < 0 else code | 0x80


def test_decode_is_the_formula():
    assert g711.mulaw_decode(EVERY_CODE).tolist() == [reference_decode(code) for code in range(256)]


def test_encode_is_the_reference_for_every_sample():
    assert list(g711.mulaw_encode(EVERY_SAMPLE)) == [reference_encode(int(sample)) for sample in EVERY_SAMPLE]


def test_published_code_points():
    """G.711 table 2a/2b: full scale, and the two zeros."""
    assert g711.mulaw_decode(b"\x80\x00\xff\x7f").tolist() == [32124, -32124, 0, 0]
    assert g711.mulaw_encode(np.array([32767, -32768, 0], dtype=np.int16)) == b"\x80\x00\xff"
    assert g711.mulaw_decode(g711.SILENCE).tolist() == [0]


def test_codes_survive_the_round_trip():
    again = g711.mulaw_encode(g711.mulaw_decode(EVERY_CODE))
    assert bytes(code for code in again) == EVERY_CODE.replace(b"\x7f", b"\xff"), "only minus zero becomes plus zero"


def test_same_as_audioop():
    """The standard library codec rounds negative samples down before it takes the magnitude; the ITU does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        audioop = pytest.importorskip("audioop", reason="audioop is gone from Python 3.13 on")
    assert g711.mulaw_decode(EVERY_CODE).tobytes() == audioop.ulaw2lin(EVERY_CODE, 2)
    positive = EVERY_SAMPLE[EVERY_SAMPLE >= 0]
    assert g711.mulaw_encode(positive) == audioop.lin2ulaw(positive.tobytes(), 2)
    negative = EVERY_SAMPLE[(EVERY_SAMPLE < 0) & (EVERY_SAMPLE >= -32764)]
    assert g711.mulaw_encode(negative - 4) == audioop.lin2ulaw(negative.tobytes(), 2)


@given(st.integers(-32124, 32124))
def test_error_is_at_most_half_a_step(sample):
    decoded = int(g711.mulaw_decode(g711.mulaw_encode(np.array([sample], dtype=np.int16)))[0])
    step = 8 << max(0, (abs(decoded) + 132).bit_length() - 8)
    assert abs(decoded - sample) <= step // 2


def test_float_is_the_same_audio():
    assert np.array_equal(g711.mulaw_to_float(EVERY_CODE) * 32768, g711.mulaw_decode(EVERY_CODE))
    assert g711.mulaw_to_float(EVERY_CODE).dtype == np.float32


def test_any_length_and_any_memory_layout():
    assert g711.mulaw_encode(np.zeros(0, dtype=np.int16)) == b""
    assert g711.mulaw_decode(b"").shape == (0,)
    strided = np.arange(0, 1000, dtype=np.int16)[::3]
    assert g711.mulaw_encode(strided) == g711.mulaw_encode(strided.copy())
