"""VITS by coqui-tts with real code and random weights: noise of the right length. The conformance suite runs on it."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import pytest
from test_conformance_tts import (  # noqa: F401 - pytest collects them for the fixture `engine` below
    SENTENCE,
    ask,
    audio_of,
    collect,
    test_any_text_can_be_said,
    test_cancelling_the_reader_stops_the_work,
    test_capabilities_are_honest,
    test_chunks_are_long_enough_and_only_the_last_is_last,
    test_clauses_at_the_same_time_do_not_mix,
    test_closing_stops_the_work,
    test_every_voice_speaks_in_its_own_way,
    test_long_text_comes_whole_and_soon,
    test_nothing_to_say_is_one_empty_chunk,
    test_one_endless_word_is_said,
    test_same_text_sounds_the_same,
    test_speech_is_loud_and_starts_at_once,
    test_stream_never_started_costs_nothing,
    test_symbols_alone_do_no_harm,
    test_unknown_voice_is_the_default_one,
    test_word_ends_follow_the_words,
)
from tiny_coqui import FRAMES_A_LETTER, HOP, RATE_HZ, SPEAKERS, tiny_vits

from engines import registry
from engines.tts_coqui import CoquiEngine, sayable
from voice_agent.errors import ConfigError, EngineUnavailableError

MISSING = [name for name in ("TTS", "torch", "torchaudio", "torchcodec") if importlib.util.find_spec(name) is None]
needs_library = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (extra gpu-tts)")
pytestmark = pytest.mark.audio


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)} (extra gpu-tts)")
    return tiny_vits(tmp_path_factory.mktemp("vits"))


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> CoquiEngine:
    loaded: CoquiEngine = registry.load("tts", "coqui", {"model": str(checkpoint), "device": "cpu"})
    return loaded


def test_it_names_the_model_and_its_speakers(engine: CoquiEngine, checkpoint: Path) -> None:
    assert engine.capabilities.name == "coqui"
    assert str(checkpoint) in engine.capabilities.version
    assert engine.voices == SPEAKERS


async def test_word_ends_are_those_of_the_model(engine: CoquiEngine) -> None:
    """Every letter of the test's model takes the same time, also commas; a space belongs to no word."""
    words = "one, three eleven".split()
    chunks = await collect(engine.speak(ask(" ".join(words))))
    letter_ms = FRAMES_A_LETTER * HOP * 1000 / RATE_HZ
    letters = [len(" ".join(words[: number + 1])) for number in range(len(words))]
    assert chunks[-1].word_ends_ms == pytest.approx([count * letter_ms for count in letters], abs=25)


async def test_words_that_the_cleaner_rewrites_have_no_ends(engine: CoquiEngine) -> None:
    chunks = await collect(engine.speak(ask("one & two")))
    assert audio_of(chunks)
    assert chunks[-1].word_ends_ms in ((), chunks[-1].word_ends_ms[:3])


async def test_the_voice_of_the_options_is_the_default(checkpoint: Path) -> None:
    engine = CoquiEngine(model=str(checkpoint), device="cpu", voice="bob")
    assert engine._known("") == "bob"
    assert engine._known("carol") == "carol"
    assert engine._known("nobody") == "bob"


async def test_a_model_of_one_voice_has_no_names(tmp_path: Path) -> None:
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)} (extra gpu-tts)")
    engine = CoquiEngine(model=str(tiny_vits(tmp_path, speakers=("one",))), device="cpu")
    assert engine.voices == ()
    assert audio_of(await collect(engine.speak(ask("Hello."))))


async def test_what_is_said_is_not_logged(engine: CoquiEngine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await collect(engine.speak(ask("secret 東京 @ #")))
    assert "secret" not in caplog.text


@needs_library
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"voice": "dave"}, r"voice must be one of alice, bob, carol; got 'dave'"),
        ({"language": "de"}, "language must be one of en; got 'de'"),
        ({"speaker_wav": "voice.wav"}, "speaker_wav needs an XTTS model"),
        ({"stream_chunk_tokens": 1}, "stream_chunk_tokens"),
    ],
)
def test_options_that_do_not_fit_are_told(checkpoint: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CoquiEngine(model=str(checkpoint), device="cpu", **options)  # type: ignore[arg-type]


@needs_library
def test_a_missing_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.pth").touch()
    with pytest.raises(EngineUnavailableError, match="cannot load"):
        CoquiEngine(model=str(tmp_path / "model.pth"), device="cpu")
    with pytest.raises(EngineUnavailableError, match="cannot load"):
        CoquiEngine(model="tts_models/no/such/model", device="cpu")


def test_xtts_weights_want_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COQUI_TOS_AGREED", raising=False)
    with pytest.raises(ConfigError, match=r"may not be used commercially.*COQUI_TOS_AGREED=1"):
        CoquiEngine(model="tts_models/multilingual/multi-dataset/xtts_v2")


@pytest.mark.skipif("TTS" not in MISSING, reason="coqui-tts is installed")
def test_a_missing_library_names_the_extra() -> None:
    with pytest.raises(EngineUnavailableError, match="gpu-tts"):
        registry.load("tts", "coqui")


@pytest.mark.parametrize(
    ("text", "said"),
    [("Hello,  you", "Hello, you"), ("... — !?", ""), ("a\0b", "a b"), ("x\ud800", "x?"), ("東京", "東京"), ("", "")],
)
def test_sayable(text: str, said: str) -> None:
    assert sayable(text) == said
