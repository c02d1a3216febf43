"""XTTS by coqui-tts with real code and random weights. What of the conformance suite is not about speech runs on it.

The model of this test makes the same length of noise for every text.
"""

from __future__ import annotations

import importlib.util
import wave
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_conformance_tts import (  # noqa: F401 - pytest collects them for the fixture `engine` below
    SENTENCE,
    ask,
    audio_of,
    collect,
    test_cancelling_the_reader_stops_the_work,
    test_capabilities_are_honest,
    test_every_voice_speaks_in_its_own_way,
    test_nothing_to_say_is_one_empty_chunk,
    test_speech_is_loud_and_starts_at_once,
    test_stream_never_started_costs_nothing,
    test_symbols_alone_do_no_harm,
)
from tiny_coqui import tiny_xtts

from engines import registry
from engines.tts_coqui import CLONED, CoquiEngine
from voice_agent.errors import ConfigError, EngineUnavailableError

MISSING = [name for name in ("TTS", "torch", "torchaudio", "torchcodec") if importlib.util.find_spec(name) is None]
needs_library = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (extra gpu-tts)")
pytestmark = pytest.mark.audio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)} (extra gpu-tts)")
    return tiny_xtts(tmp_path_factory.mktemp("xtts"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> CoquiEngine:
    loaded: CoquiEngine = registry.load("tts", "coqui", {"model": str(folder), "device": "cpu"})
    return loaded


@pytest.fixture
def chunks_made(engine: CoquiEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts what the model has given, a number per chunk."""
    made: list[int] = []
    model = engine._model._model  # type: ignore[attr-defined]
    stream_of = model.inference_stream

    def counted(*arguments: object, **options: object):  # type: ignore[no-untyped-def]
        for number, chunk in enumerate(stream_of(*arguments, **options)):
            made.append(number)
            yield chunk

    monkeypatch.setattr(model, "inference_stream", counted)
    return made


async def test_sound_comes_while_the_model_works(engine: CoquiEngine, chunks_made: list[int]) -> None:
    stream = engine.speak(ask(SENTENCE))
    first = await anext(stream)
    early = len(chunks_made)
    rest = await collect(stream)
    assert len(first.audio) >= 800
    assert early < len(chunks_made)
    assert rest[-1].last
    assert rest[-1].word_ends_ms == ()


async def test_closing_stops_the_model_at_its_next_chunk(engine: CoquiEngine, chunks_made: list[int]) -> None:
    await collect(engine.speak(ask(SENTENCE)))
    whole = len(chunks_made)
    chunks_made.clear()
    async with aclosing(engine.speak(ask(" ".join([SENTENCE] * 9)))) as stream:  # type: ignore[type-var]
        await anext(stream)
    await collect(engine.speak(ask("Hello.")))
    assert len(chunks_made) <= whole + 3, "the rest of the long text was not made"


@pytest.mark.parametrize("text", ["Café Zoë costs €5 — or “six”…", "東京 смело 🙂", "a\0b \ud800 c", "ha" * 200])
async def test_any_text_is_said(engine: CoquiEngine, text: str) -> None:
    chunks = await collect(engine.speak(ask(text)))
    assert chunks[-1].last
    assert len(audio_of(chunks)) > 300 * 8


async def test_long_texts_are_cut_to_what_the_model_takes(engine: CoquiEngine, chunks_made: list[int]) -> None:
    await collect(engine.speak(ask("x" * 600)))
    assert chunks_made.count(0) == 3


@needs_library
def test_a_voice_is_taken_from_a_recording(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read by hand: torchcodec's wheels of the registry need the CUDA build of torch."""
    path = tmp_path / "voice.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(22050)
        file.writeframes(np.random.default_rng(0).normal(0, 3000, 22050 * 4).astype("<i2").tobytes())

    def load_audio(name: str, rate_hz: int) -> Any:
        import torch

        with wave.open(name, "rb") as file:
            assert file.getframerate() == rate_hz
            pcm = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        return torch.from_numpy(pcm.astype(np.float32) / 32768.0)[None]

    monkeypatch.setattr("TTS.tts.models.xtts.load_audio", load_audio)
    engine = CoquiEngine(model=str(folder), device="cpu", speaker_wav=str(path))
    assert engine.voices == (CLONED, "ada", "ben")
    assert engine._known("") == CLONED


@needs_library
def test_a_recording_that_cannot_be_read_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "voice.wav").write_bytes(b"nonsense")
    with pytest.raises(EngineUnavailableError, match="cannot take a voice from"):
        CoquiEngine(model=str(folder), device="cpu", speaker_wav=str(tmp_path / "voice.wav"))


@needs_library
def test_options_that_do_not_fit_are_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="language must be one of en; got 'xx'"):
        CoquiEngine(model=str(folder), device="cpu", language="xx")
    with pytest.raises(ConfigError, match=r"speaker_wav names .*gone\.wav, which is no file"):
        CoquiEngine(model=str(folder), device="cpu", speaker_wav=[str(tmp_path / "gone.wav")])
