"""Turn models: the port's contract, and Smart Turn on its real file where that is installed."""

from __future__ import annotations

import numpy as np
import pytest

from engines import registry
from engines.log_mel import log_mel
from serve_apps.speech_to_text import SpeechToText
from voice_agent.audio.g711 import mulaw_encode
from voice_agent.errors import EngineUnavailableError
from voice_agent.ports import TranscribeRequest, TurnModel


def noise(seconds: float, seed: int = 0) -> bytes:
    samples = np.random.default_rng(seed).normal(0, 3000, round(seconds * 8000))
    return mulaw_encode(samples.astype(np.int16))


@pytest.fixture(params=["words", "smart-turn"])
def model(request: pytest.FixtureRequest) -> TurnModel:
    try:
        loaded: TurnModel = registry.load("turn", request.param)
    except EngineUnavailableError as error:
        pytest.skip(error.message)
    return loaded


@pytest.mark.parametrize("seconds", [0.0, 0.3, 8.0, 20.0])
def test_a_probability_for_any_length_of_audio(model: TurnModel, seconds: float) -> None:
    assert isinstance(model, TurnModel)
    assert 0.0 <= model.complete(noise(seconds), "when do you open") <= 1.0


def test_the_same_question_has_the_same_answer(model: TurnModel) -> None:
    audio = noise(2.0)
    assert model.complete(audio, "yes") == model.complete(audio, "yes")


def test_words_order_turns_by_how_finished_they_look() -> None:
    model = registry.load("turn", "words")
    finished, short, cut = (model.complete(b"", text) for text in ("when do you open", "goodbye", "i would like to"))
    assert finished > short > cut


def test_smart_turn_needs_its_file() -> None:
    with pytest.raises(EngineUnavailableError, match="no-such-model"):
        registry.load("turn", "smart-turn", {"model": "no-such-model.onnx"})


def test_log_mel_is_whispers() -> None:
    """A tone lights the mel band it lies in, and nothing is further than 2 (8 in log10, over 4) below the top."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    features = log_mel(tone)
    assert features.shape == (80, 100)
    # 1000 Hz is mel 15 of 45.25 on Slaney's scale: band 15 / (45.25 / 81) - 1.
    assert abs(int(features.mean(axis=1).argmax()) - 26) <= 1
    assert features.max() - features.min() <= 2.0 + 1e-6


async def test_the_replica_asks_the_turn_model_at_a_flush_only() -> None:
    replica = SpeechToText("simulated", {"final_ms": 0}, turn_model="words")
    audio = noise(1.0)
    partial = await replica.transcribe(TranscribeRequest("CA1", 1, 0, audio))
    flushed = await replica.transcribe(TranscribeRequest("CA1", 1, len(audio), b"", flush=True))
    assert partial.complete is None
    assert flushed.complete is not None
    plain = await SpeechToText("simulated", {"final_ms": 0}).transcribe(
        TranscribeRequest("CA1", 1, 0, audio, flush=True)
    )
    assert plain.complete is None
