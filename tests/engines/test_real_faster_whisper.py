"""faster-whisper with real code and made-up weights: a tiny Whisper, taught two sentences, or none.

The conformance suite runs on the taught one. What a trained Whisper understands is not tested here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_kit import word_ends_ms
from numpy.typing import NDArray
from test_conformance_stt import (  # noqa: F401 - pytest collects them for the fixture `engine` below
    TEXTS,
    Say,
    feed,
    session,
    test_audio_after_a_flush_is_added,
    test_close_is_idempotent_also_in_the_middle,
    test_flush_gives_text_words_and_confidence,
    test_flush_twice_says_the_same,
    test_no_audio_is_no_text,
    test_reload_leaves_open_sessions_alone,
    test_size_of_the_pieces_does_not_matter,
    test_text_grows_while_the_caller_speaks,
    test_two_sessions_do_not_mix,
)
from tiny_whisper import TinyWhisper

from engines import registry
from engines.stt_faster_whisper import FasterWhisperEngine
from engines.whisper_decoder import load_cublas
from serve_apps.speech_to_text import SpeechToText
from voice_agent.audio.g711 import mulaw_decode, mulaw_encode
from voice_agent.audio.resample import StreamingResampler
from voice_agent.errors import CapacityError, ConfigError, EngineUnavailableError
from voice_agent.ports import SpeechToTextEngine, TranscribeRequest, TranscribeResponse

MISSING = [name for name in ("faster_whisper", "torch", "transformers") if importlib.util.find_spec(name) is None]
needs_library = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (extra gpu-stt, torch)")
WINDOW_S = 5
VOICES = ("rms", "slt")

pytestmark = [pytest.mark.audio, pytest.mark.timeout(300)]


def noise(seconds: float, level: float = 2000.0, seed: int = 1) -> bytes:
    return mulaw_encode(np.random.default_rng(seed).normal(0, level, round(8000 * seconds)).astype(np.int16))


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory, say: Say) -> Path:
    """A Whisper with a window of 5 s that knows the suite's two sentences, also when they are cut off, and noise."""
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    from faster_whisper.feature_extractor import FeatureExtractor

    extractor = FeatureExtractor(80, chunk_length=WINDOW_S)

    def features(audio: bytes) -> NDArray[np.float32]:
        window = np.zeros(16000 * WINDOW_S, np.float32)
        pcm = StreamingResampler(8000, 16000).process(mulaw_decode(audio))
        window[: len(pcm)] = pcm / 32768.0
        return np.asarray(extractor(window, padding=0), np.float32)

    examples = [(features(noise(seconds, level)), "") for seconds in (1, 2) for level in (500, 2000)]
    for text, voice in zip(TEXTS, VOICES, strict=True):
        audio, ends = say(text, voice), [240 + end for end in word_ends_ms(text, voice)]
        for cut in (*range(1600, len(audio), 3200), len(audio) // 2, len(audio), len(audio)):
            known = [word for word, end in zip(text.split(), ends, strict=True) if end * 8 <= cut]
            examples.append((features(audio[:cut]), text if cut == len(audio) else " ".join(known)))
    model = TinyWhisper(WINDOW_S, words=sorted({word for text in TEXTS for word in text.split()}))
    assert model.learn(examples) < 0.05
    return model.save(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="session")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, 30 s window."""
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    return TinyWhisper().save(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="session")
def make() -> Iterator[Callable[..., FasterWhisperEngine]]:
    """Engines on the CPU, closed at the end."""
    made: list[FasterWhisperEngine] = []

    def make(model: Path, **options: Any) -> FasterWhisperEngine:
        options = {"device": "cpu", "compute_type": "float32", "max_wait_ms": 1, "cpu_threads": 1, **options}
        made.append(registry.load("stt", "faster-whisper", {"model": str(model), **options}))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture(scope="module")
def engine(taught: Path, make: Callable[..., FasterWhisperEngine]) -> SpeechToTextEngine:
    return make(taught, window_step_s=WINDOW_S, push_interval_ms=200, word_times=True)


def recognise(engine: SpeechToTextEngine, audio: bytes) -> TranscribeResponse:
    spoken = engine.open(call_id="call", utterance=1)
    feed(spoken, audio)
    result = spoken.result(flush=True)
    spoken.close()
    return result


def test_capabilities_are_honest(engine: SpeechToTextEngine) -> None:
    capabilities = engine.capabilities
    assert isinstance(engine, SpeechToTextEngine)
    assert (capabilities.name, capabilities.simulated, capabilities.closed_domain) == ("faster-whisper", False, False)
    assert capabilities.parallel > 1
    assert capabilities.push_interval_ms == 200


def test_threads_share_batches_and_not_texts(taught: Path, make: Callable[..., FasterWhisperEngine], say: Say) -> None:
    engine = make(taught, window_step_s=WINDOW_S, max_batch=8, max_wait_ms=200)
    clips = [say(TEXTS[n % 2], VOICES[n % 2]) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        texts = [result.text for result in pool.map(lambda clip: recognise(engine, clip), clips)]
    assert texts == [TEXTS[n % 2] for n in range(8)]
    assert engine.statistics.largest > 1
    assert engine.statistics.items == 8


async def test_requests_of_a_replica_are_batched(
    untaught: Path, make: Callable[..., FasterWhisperEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(untaught, max_batch=8, max_wait_ms=200)
    monkeypatch.setattr(registry, "load", lambda *_: engine)
    replica = SpeechToText("faster-whisper")
    requests = [TranscribeRequest(f"call-{n}", 1, 0, noise(1 + n / 10, seed=n), flush=True) for n in range(8)]
    responses = await asyncio.gather(*map(replica.transcribe, requests))
    assert all(response.flushed for response in responses)
    assert engine.statistics.largest > 4


def test_company_does_not_change_a_text(untaught: Path, make: Callable[..., FasterWhisperEngine]) -> None:
    """A window has the same size alone and in a batch, so the model says the same."""
    engine = make(untaught, no_speech_threshold=1.0, max_wait_ms=200)
    clips = [noise(0.5 + n / 2, seed=n) for n in range(12)]
    alone = [recognise(engine, clip).text for clip in clips]
    with ThreadPoolExecutor(12) as pool:
        together = [result.text for result in pool.map(lambda clip: recognise(engine, clip), clips)]
    assert together == alone
    assert engine.statistics.largest > 1


@pytest.mark.parametrize(("seconds", "step_s", "frames"), [(1, 5, 500), (4.9, 5, 1000), (4.7, 5, 500), (29.9, 7, 3000)])
def test_the_encoder_gets_a_window_just_longer_than_the_audio(
    untaught: Path,
    make: Callable[..., FasterWhisperEngine],
    seconds: float,
    step_s: float,
    frames: int,
) -> None:
    window = make(untaught, window_step_s=step_s)._decoder.window(np.zeros(round(16000 * seconds), np.int16))
    assert window.features.shape == (80, frames)
    assert window.samples == round(16000 * seconds)


def test_long_utterances_are_settled_in_windows(taught: Path, make: Callable[..., FasterWhisperEngine]) -> None:
    """23 s in a model of 5 s: every window is cut in the pauses of the noise, and a settled text stays."""
    engine = make(taught, no_speech_threshold=1.0, push_interval_ms=1000, word_times=True)
    pause = b"\xff" * 1600
    audio = b"".join(noise(1.5, seed=n) + pause for n in range(14))
    spoken = engine.open(call_id="call", utterance=1)
    texts, settled = [], 0
    for start in range(0, len(audio), 8000):
        spoken.accept(audio[start : start + 8000])
        result = spoken.result(flush=False)
        assert result.text.startswith(" ".join(part.text for part in spoken._settled[:settled]))
        settled = len(spoken._settled)
        assert len(spoken._pcm) <= 2 * engine.max_samples + 2 * 16000
        texts.append(result.text)
    result = spoken.result(flush=True)
    assert settled >= 4
    assert all(texts[1:])
    ends = [0, *(word.end_ms for word in result.words)]
    assert all(word.start_ms >= end for word, end in zip(result.words, ends, strict=False))
    assert 18000 < ends[-1] <= len(audio) // 8


def test_a_long_utterance_in_one_piece_is_the_same(taught: Path, make: Callable[..., FasterWhisperEngine]) -> None:
    engine = make(taught, no_speech_threshold=1.0)
    audio = b"".join(noise(1.5, seed=n) + b"\xff" * 1600 for n in range(14))
    whole = engine.open(call_id="call", utterance=1)
    whole.accept(audio)
    assert whole.result(flush=True).text == recognise(engine, audio).text
    assert len(whole._settled) >= 4


def test_noise_is_no_speech(taught: Path, make: Callable[..., FasterWhisperEngine]) -> None:
    assert recognise(make(taught), noise(1)).text == ""
    assert recognise(make(taught, no_speech_threshold=1.0), noise(1)).text != ""


def test_silence_does_not_reach_the_model(engine: FasterWhisperEngine) -> None:
    before = engine.statistics.items
    result = recognise(engine, b"\xff" * 16000)
    assert (result.text, result.confidence) == ("", 0.0)
    assert engine.statistics.items == before


def test_language_is_found_out_when_none_is_given(
    taught: Path, make: Callable[..., FasterWhisperEngine], say: Say
) -> None:
    assert recognise(make(taught, language="", window_step_s=WINDOW_S), say(TEXTS[0], "rms")).text == TEXTS[0]


def test_prompt_and_beam_are_taken(untaught: Path, make: Callable[..., FasterWhisperEngine]) -> None:
    engine = make(untaught, prompt="Ada's bicycles " * 200, beam_size=3, no_speech_threshold=1.0)
    assert recognise(engine, noise(1)).text


def test_a_loop_has_no_confidence(untaught: Path, make: Callable[..., FasterWhisperEngine]) -> None:
    """Random weights say one word for ever: it ends with the budget of the window, and nobody believes it."""
    result = recognise(make(untaught, no_speech_threshold=1.0), noise(3))
    words = result.text.split()
    assert 30 < len(words) <= 5 * 12 + 16
    assert len(set(words)) < 5
    assert result.confidence == 0.0


def test_a_partial_waits_for_new_audio(engine: FasterWhisperEngine, say: Say) -> None:
    spoken = engine.open(call_id="call", utterance=1)
    feed(spoken, say(TEXTS[0], "rms"))
    first = spoken.result(flush=False)
    before = engine.statistics.items
    spoken.accept(noise(0.1))
    assert spoken.result(flush=False).text == first.text
    assert engine.statistics.items == before
    spoken.close()


def test_partials_are_off_with_interval_0(taught: Path, make: Callable[..., FasterWhisperEngine], say: Say) -> None:
    engine = make(taught, push_interval_ms=0, window_step_s=WINDOW_S)
    spoken = engine.open(call_id="call", utterance=1)
    feed(spoken, say(TEXTS[0], "rms"))
    assert spoken.result(flush=False).text == ""
    assert spoken.result(flush=True).text == TEXTS[0]


def test_too_busy_for_partials_but_not_for_pauses(
    engine: FasterWhisperEngine, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = engine.open(call_id="call", utterance=1)
    feed(spoken, say(TEXTS[0], "rms")[:8000])
    known = spoken.result(flush=False).text
    feed(spoken, say(TEXTS[0], "rms")[8000:])

    def full(*_: object, **__: object) -> None:
        raise CapacityError("full")

    with monkeypatch.context() as patch:
        patch.setattr(engine._batcher, "submit", full)
        assert spoken.result(flush=False).text == known
        with pytest.raises(CapacityError):
            spoken.result(flush=True)
    assert spoken.result(flush=True).text == TEXTS[0], "nothing was lost"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch": 0}, "max_batch must be at least 1"),
        ({"window_step_s": 31}, "window_step_s"),
        ({"word_times": True, "language": ""}, "word_times needs the option language"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FasterWhisperEngine(**options)


@needs_library
def test_wrong_language_is_told(untaught: Path) -> None:
    with pytest.raises(ConfigError, match=r"language must be one of .*en.*; got 'klingon'"):
        FasterWhisperEngine(model=str(untaught), device="cpu", language="klingon")


@needs_library
@pytest.mark.parametrize(
    "options",
    [{"model": "no-such-size"}, {"model": "tiny", "local_files_only": True, "download_dir": "/nowhere"}],
)
def test_a_missing_model_is_told(options: dict[str, Any]) -> None:
    with pytest.raises(EngineUnavailableError, match="cannot load"):
        FasterWhisperEngine(device="cpu", **options)


@pytest.mark.parametrize("names", [(), ("libcublas.so.12",), ("libcublas.so.12", "libcublasLt.so.12")])
def test_cublas_of_the_package_is_loaded_before_it_is_asked_for_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    folder = tmp_path / "nvidia" / "cublas" / "lib"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    for package in (folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    loaded: list[str] = []
    monkeypatch.setattr("engines.whisper_decoder.ctypes.CDLL", lambda path, mode: loaded.append(Path(path).name))
    monkeypatch.syspath_prepend(tmp_path)
    for package_name in [name for name in sys.modules if name.split(".")[0] == "nvidia"]:
        monkeypatch.delitem(sys.modules, package_name)
    whole = len(names) == 2
    assert load_cublas() is whole
    assert loaded == (["libcublasLt.so.12", "libcublas.so.12"] if whole else [])


@pytest.mark.skipif("faster_whisper" not in MISSING, reason="faster-whisper is installed")
def test_a_missing_library_names_the_extra() -> None:
    with pytest.raises(EngineUnavailableError, match="gpu-stt"):
        registry.load("stt", "faster-whisper")
