"""Conformance of every voice activity engine, and what real and synthetic speech does to them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines import registry
from voice_agent.audio.g711 import mulaw_encode, mulaw_to_float
from voice_agent.errors import ConfigError, EngineUnavailableError
from voice_agent.ports import VoiceActivityEngine

RECORDINGS = Path("/usr/share/pocketsphinx/test/data")


@pytest.fixture(params=["silero", "energy"])
def engine(request: pytest.FixtureRequest) -> VoiceActivityEngine:
    try:
        loaded: VoiceActivityEngine = registry.load("vad", request.param, {})
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    return loaded


def probabilities(engine: VoiceActivityEngine, audio: NDArray[np.float32]) -> NDArray[np.float32]:
    state: Any = engine.initial_state()
    found = []
    for at in range(0, len(audio) - engine.window_samples + 1, engine.window_samples):
        result, (state,) = engine.batch(audio[None, at : at + engine.window_samples], [state])
        found.append(float(result[0]))
    return np.array(found, dtype=np.float32)


def telephone(audio: NDArray[np.float64]) -> NDArray[np.float32]:
    """Through mu-law, as it comes from a carrier."""
    return mulaw_to_float(mulaw_encode(np.clip(audio * 32767, -32768, 32767).astype(np.int16)))


def test_it_keeps_the_port(engine: VoiceActivityEngine) -> None:
    assert isinstance(engine, VoiceActivityEngine)
    assert engine.window_samples == 256
    assert not engine.capabilities.simulated
    result, states = engine.batch(np.zeros((3, 256), np.float32), [engine.initial_state() for _ in range(3)])
    assert result.shape == (3,)
    assert result.dtype == np.float32
    assert len(states) == 3
    assert ((result >= 0) & (result < 0.5)).all()
    assert engine.batch(np.zeros((0, 256), np.float32), [])[1] == []


def test_wrong_shapes_are_refused(engine: VoiceActivityEngine) -> None:
    with pytest.raises(ValueError, match="256"):
        engine.batch(np.zeros((2, 160), np.float32), [engine.initial_state()] * 2)


def test_calls_in_a_batch_do_not_touch_each_other(engine: VoiceActivityEngine) -> None:
    random = np.random.default_rng(3)
    calls = [telephone(random.standard_normal(256 * 20) * level) for level in (0.001, 0.02, 0.2, 0.6, 0.0)]
    alone = np.stack([probabilities(engine, call) for call in calls])
    states: list[Any] = [engine.initial_state() for _ in calls]
    for window in range(20):
        batch = np.stack([call[window * 256 : (window + 1) * 256] for call in calls])
        result, states = engine.batch(batch, states)
        np.testing.assert_allclose(result, alone[:, window], atol=1e-5)


def test_a_state_given_again_gives_the_same_answer(engine: VoiceActivityEngine) -> None:
    window = telephone(np.sin(np.arange(256) / 3))[None]
    state = engine.initial_state()
    first, _ = engine.batch(window, [state])
    second, _ = engine.batch(window, [state])
    assert first == second


def test_digital_silence_and_faint_noise_are_no_speech(engine: VoiceActivityEngine) -> None:
    noise = np.random.default_rng(1).standard_normal(8000 * 4) * 0.001
    for audio in (np.zeros(8000 * 4), noise):
        assert (probabilities(engine, telephone(audio))[10:] < 0.35).mean() > 0.95


@pytest.mark.audio
def test_recorded_speech_is_found(engine: VoiceActivityEngine) -> None:
    """People reading, from Debian's pocketsphinx-testdata: most windows of a sentence are speech."""
    files = sorted(RECORDINGS.rglob("*.raw"))[:3] if RECORDINGS.is_dir() else []
    if not files:
        pytest.skip("pocketsphinx-testdata is not installed")
    for path in files:
        audio = np.fromfile(path, dtype="<i2").astype(np.float64) / 32768
        narrow = audio[: len(audio) // 2 * 2].reshape(-1, 2).mean(axis=1)  # 16 kHz to 8 kHz, good enough here
        quiet = np.random.default_rng(2).standard_normal(4000) * 0.0005
        found = probabilities(engine, telephone(np.concatenate((quiet, narrow))))
        assert (found > 0.5).mean() > 0.3


def test_silero_knows_speech_from_noise_and_tones() -> None:
    torch_is_loaded = "torch" in sys.modules  # by a test of an engine that needs it
    try:
        engine = registry.load("vad", "silero", {})
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    time = np.arange(8000 * 3) / 8000
    noise = np.random.default_rng(1).standard_normal(8000 * 3) * 0.1
    dialtone = 0.2 * np.sin(2 * np.pi * 350 * time) + 0.2 * np.sin(2 * np.pi * 440 * time)
    for audio in (noise, dialtone):
        assert (probabilities(engine, telephone(audio)) > 0.5).mean() < 0.05
    assert ("torch" in sys.modules) is torch_is_loaded


def test_a_missing_model_says_what_to_do() -> None:
    with pytest.raises(EngineUnavailableError, match="cannot be loaded"):
        registry.load("vad", "silero", {"model": "/nowhere/silero.onnx"})


def test_energy_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="slope_db"):
        registry.load("vad", "energy", {"slope_db": 0})
