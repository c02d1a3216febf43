import numpy as np
import pytest

from voice_agent.audio.levels import FLOOR_DBFS, frame_dbfs, loud_frames, rms_dbfs


def test_known_levels():
    assert rms_dbfs(np.full(100, -32768, dtype=np.int16)) == pytest.approx(0.0)
    assert rms_dbfs(np.full(100, 3277, dtype=np.int16)) == pytest.approx(-20.0, abs=0.01)
    sine = (32767 * np.sin(2 * np.pi * np.arange(8000) / 80)).astype(np.int16)
    assert rms_dbfs(sine) == pytest.approx(-3.01, abs=0.01)


def test_silence_has_a_floor():
    assert rms_dbfs(np.zeros(160, dtype=np.int16)) == FLOOR_DBFS
    assert rms_dbfs(np.zeros(0, dtype=np.int16)) == FLOOR_DBFS


def test_loud_frames_marks_the_loud_ones_and_leaves_the_partial_one_out():
    audio = np.concatenate([np.zeros(160), np.full(160, 5000), np.zeros(160), np.full(100, 5000)]).astype(np.int16)
    assert loud_frames(audio, 160, -40.0).tolist() == [False, True, False]
    assert frame_dbfs(audio, 160).shape == (3,)
    assert loud_frames(audio[:100], 160, -40.0).shape == (0,)


def test_bad_frame_size():
    with pytest.raises(ValueError, match="positive"):
        loud_frames(np.zeros(10, dtype=np.int16), 0, -40.0)
