import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_agent.audio.resample import StreamingResampler, resample

PAIRS = [(8000, 16000), (16000, 8000), (22050, 8000), (24000, 8000), (44100, 8000), (48000, 8000)]


def tone(hz, rate_hz, seconds=0.5):
    return np.rint(12000 * np.sin(2 * np.pi * hz * np.arange(int(rate_hz * seconds)) / rate_hz)).astype(np.int16)


def level_db(audio, reference):
    inner = slice(len(audio) // 10, -len(audio) // 10)
    return 20 * np.log10(np.std(audio[inner].astype(float)) / np.std(reference.astype(float)) + 1e-9)


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
@pytest.mark.parametrize("hz", [200, 1000, 2400, 3400])
def test_the_phone_band_passes_in_time_and_level(from_hz, to_hz, hz):
    out = resample(tone(hz, from_hz), from_hz, to_hz)
    wanted = tone(hz, to_hz)
    error = out.astype(float) - wanted
    assert len(out) == len(wanted)
    assert level_db(error, wanted) < -50, "neither shifted nor distorted"


@pytest.mark.parametrize(("from_hz", "to_hz"), [pair for pair in PAIRS if pair[0] > pair[1]])
@pytest.mark.parametrize("hz", [4700, 5300, 6500, 7900])
def test_what_would_alias_is_gone(from_hz, to_hz, hz):
    assert level_db(resample(tone(hz, from_hz), from_hz, to_hz), tone(1000, to_hz)) < -55


@given(
    pair=st.sampled_from(PAIRS),
    pieces=st.lists(st.integers(0, 700), max_size=12),
    seed=st.integers(0, 10),
)
@settings(deadline=None)
def test_any_division_into_pieces_gives_the_same(pair, pieces, seed):
    audio = np.random.default_rng(seed).integers(-20000, 20000, sum(pieces)).astype(np.int16)
    stream = StreamingResampler(*pair)
    parts = [stream.process(piece) for piece in np.split(audio, np.cumsum(pieces)[:-1])] if pieces else []
    joined = np.concatenate([*parts, stream.flush()])
    assert len(joined) == math.ceil(len(audio) * pair[1] / pair[0])
    assert np.array_equal(joined, resample(audio, *pair))


@pytest.mark.parametrize(("from_hz", "to_hz"), PAIRS)
def test_a_live_stream_is_never_later_than_said(from_hz, to_hz):
    stream = StreamingResampler(from_hz, to_hz)
    given_samples = 0
    for frame in range(1, 101):
        given_samples += len(stream.process(np.zeros(from_hz // 50, dtype=np.int16)))
        held_back_ms = frame * 20 - given_samples * 1000 / to_hz
        assert 0 <= held_back_ms <= stream.delay_ms + 1000 / to_hz


def test_state_does_not_grow():
    stream = StreamingResampler(22050, 8000)
    for _ in range(500):
        stream.process(np.zeros(441, dtype=np.int16))
    assert len(stream._kept) < 441


def test_loud_audio_is_clipped_not_wrapped():
    square = np.repeat(np.array([32767, -32768] * 50, dtype=np.int16), 20)
    out = resample(square, 16000, 8000)
    assert out.max() == 32767
    assert out.min() == -32768


def test_same_rate_is_a_copy():
    audio = tone(500, 8000)
    assert np.array_equal(resample(audio, 8000, 8000), audio)


def test_after_flush_a_new_stream_begins():
    stream = StreamingResampler(24000, 8000)
    audio = tone(700, 24000, 0.05)
    first = np.concatenate([stream.process(audio), stream.flush()])
    second = np.concatenate([stream.process(audio), stream.flush()])
    assert np.array_equal(first, second)


def test_bad_rates():
    with pytest.raises(ValueError, match="positive"):
        StreamingResampler(0, 8000)
