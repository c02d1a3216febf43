import numpy as np
import pytest

from loadtest.render_clips import MOST_BYTES, shipped_lines
from loadtest.speech import (
    CLIPS,
    CallerSpeech,
    background,
    clip_name,
    read_mulaw_wav,
    telephone,
    with_noise,
    write_mulaw_wav,
)
from voice_agent.audio.g711 import SILENCE, mulaw_decode
from voice_agent.audio.levels import rms_dbfs
from voice_agent.errors import ConfigError


def tone(hz, amplitude=3000):
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(16000) / 8000)).astype(np.int16)


def test_the_band_of_a_telephone():
    mixed = telephone(tone(1000) + tone(80) + tone(3800))
    spectrum = np.abs(np.fft.rfft(mulaw_decode(mixed)[2000:10000].astype(float)))
    assert spectrum[80] < spectrum[1000] / 30
    assert spectrum[3800] < spectrum[1000] / 30


@pytest.mark.parametrize("amplitude", [100, 1000, 20000])
def test_every_voice_is_as_loud(amplitude):
    level = rms_dbfs(mulaw_decode(telephone(tone(700, amplitude))))
    assert level == pytest.approx(-20.0, abs=1.0)


def test_whole_frames_and_nothing_from_nothing():
    assert len(telephone(tone(500)[:1001])) % 160 == 0
    assert telephone(np.zeros(0, dtype=np.int16)) == b""


def test_noise_has_its_level_and_repeats_without_a_click():
    noise = mulaw_decode(background(-55, 3))
    assert rms_dbfs(noise) == pytest.approx(-55, abs=1)
    assert len(noise) % 160 == 0
    steps = np.abs(np.diff(np.concatenate([noise, noise]).astype(int)))
    assert steps[len(noise) - 1] <= steps[: len(noise) - 1].max()
    assert background(None, 3) == SILENCE * 160


def test_speech_keeps_its_length_under_noise():
    speech = telephone(tone(500))
    assert len(with_noise(speech, background(-55, 1))) == len(speech)
    assert with_noise(speech, background(None, 1)) == speech


def test_mulaw_wav_round_trip(tmp_path):
    path = tmp_path / "x.wav"
    audio = bytes(range(255)) + b"x"
    for content in (audio, audio[:-1]):
        write_mulaw_wav(path, content)
        assert read_mulaw_wav(path) == content


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVE", b"nonsense" * 10])
def test_a_broken_clip_is_told(tmp_path, content):
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.wav"):
        read_mulaw_wav(path)


def test_every_line_of_the_shipped_scripts_has_its_clip():
    assert {path.name for path in CLIPS.glob("*.wav")} == set(shipped_lines())
    assert sum(path.stat().st_size for path in CLIPS.glob("*.wav")) <= MOST_BYTES
    for name in shipped_lines():
        level = rms_dbfs(mulaw_decode(read_mulaw_wav(CLIPS / name)))
        assert -30 < level < -15


async def test_without_flite_the_clips_speak():
    (line, *_) = shipped_lines().values()
    speech = CallerSpeech(None)
    assert (await speech.lines([line]))[line] == read_mulaw_wav(CLIPS / clip_name(*line))
    assert speech.description == "shipped clips of flite (1 lines)"


async def test_a_line_is_spoken_once(tmp_path):
    speech = CallerSpeech(None, tmp_path)
    write_mulaw_wav(tmp_path / clip_name("a", "rms"), b"\x01" * 160)
    await speech.lines([("a", "rms"), ("a", "rms")])
    await speech.lines([("a", "rms")])
    assert speech.used == {"shipped clips of flite": 1}
