"""What only pocketsphinx does: vocabularies, the line's cepstral mean, decoders used again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_vocabulary import SENTENCES, write_vocabulary

from engines import registry
from engines.stt_pocketsphinx import PocketsphinxEngine
from voice_agent.audio.g711 import mulaw_decode, mulaw_encode
from voice_agent.errors import EngineUnavailableError

Say = Callable[[str, str], bytes]


def recognise(engine: PocketsphinxEngine, audio: bytes, call_id: str) -> str:
    session = engine.open(call_id=call_id, utterance=1)
    session.accept(audio)
    text = session.result(flush=True).text
    session.close()
    return text


def test_missing_vocabulary_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailableError, match="voice-agent kb ingest"):
        registry.load("stt", "pocketsphinx", {"vocabulary_dir": str(tmp_path)})


@pytest.mark.parametrize("content", ["", "gone"])
def test_pointer_to_nothing_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "current").write_text(content)
    with pytest.raises(EngineUnavailableError, match="voice-agent kb ingest"):
        PocketsphinxEngine(vocabulary_dir=tmp_path)


def test_broken_vocabulary_is_told_and_the_old_one_stays(tmp_path: Path, say: Say) -> None:
    engine = PocketsphinxEngine(vocabulary_dir=write_vocabulary(tmp_path))
    write_vocabulary(tmp_path, "v2")
    (tmp_path / "v2" / "kb.arpa").write_text("nonsense")
    with pytest.raises(EngineUnavailableError, match="cannot load the vocabulary v2"):
        engine.reload()
    assert engine.vocabulary == "v1"
    assert recognise(engine, say(SENTENCES[1], "rms"), "call") == SENTENCES[1]


def test_reload_learns_new_words_and_drops_old_decoders(tmp_path: Path, say: Say) -> None:
    engine = PocketsphinxEngine(vocabulary_dir=write_vocabulary(tmp_path, "v1", ("good morning",)))
    question = "do you repair electric bicycles"
    old = engine.open(call_id="old", utterance=1)
    assert recognise(engine, say(question, "rms"), "call") != question
    write_vocabulary(tmp_path, "v2", ("good morning", question))
    engine.reload()
    assert engine.vocabulary == "v2"
    old.close()
    for turn in range(3):  # more than the pool holds: none of them is the old session's decoder
        assert recognise(engine, say(question, "rms"), f"call-{turn}") == question


def test_vocabulary_is_closed(vocabulary_dir: Path, say: Say) -> None:
    engine = PocketsphinxEngine(vocabulary_dir=vocabulary_dir)
    known = {word for sentence in SENTENCES for word in sentence.split()}
    heard = recognise(engine, say("the president of france plays football", "rms"), "call").split()
    assert set(heard) <= known


@pytest.mark.audio
@pytest.mark.parametrize("voice", ["rms", "slt"])
def test_accuracy_over_the_telephone(vocabulary_dir: Path, say: Say, voice: str) -> None:
    """Each sentence as the first of a call, so nothing learnt of the line helps."""
    engine = PocketsphinxEngine(vocabulary_dir=vocabulary_dir)
    right = [recognise(engine, say(sentence, voice), sentence) == sentence for sentence in SENTENCES]
    assert sum(right) >= len(SENTENCES) - 2


@pytest.mark.audio
def test_a_faint_line_is_learnt_in_the_first_utterance(vocabulary_dir: Path, say: Say) -> None:
    engine = PocketsphinxEngine(vocabulary_dir=vocabulary_dir)
    faint = {
        sentence: mulaw_encode((mulaw_decode(say(sentence, "rms")) * 0.12).astype("int16")) for sentence in SENTENCES
    }
    right = [recognise(engine, audio, sentence) == sentence for sentence, audio in faint.items()]
    assert sum(right) >= len(SENTENCES) - 3


def test_a_line_is_known_to_its_own_call_only(vocabulary_dir: Path, say: Say) -> None:
    """A decoder comes from the pool as a new one does, whoever had it before."""
    engine = PocketsphinxEngine(vocabulary_dir=vocabulary_dir, pool_size=1)

    def mean_at_start(call_id: str) -> str:
        session = engine.open(call_id=call_id, utterance=1)
        mean: str = session._decoder.get_cmn(False)
        session.close()
        return mean

    unknown = mean_at_start("a")
    recognise(engine, mulaw_encode(mulaw_decode(say(SENTENCES[1], "slt")) // 8), "b")
    assert mean_at_start("b") != unknown
    assert mean_at_start("c") == unknown


def test_long_pause_makes_a_new_segment(vocabulary_dir: Path, say: Say) -> None:
    engine = PocketsphinxEngine(vocabulary_dir=vocabulary_dir, replay_ms=0)
    session = engine.open(call_id="call", utterance=1)
    both = ("where is your workshop", "thank you goodbye")
    session.accept(say(both[0], "rms"))
    first = session.result(flush=True)
    session.accept(say(both[1], "rms"))
    second = session.result(flush=True)
    session.close()
    # flite adds noise of its own, so single words may differ from run to run; the segments may not.
    assert second.text.startswith(f"{both[0]} ")
    assert second.text.endswith("goodbye")
    assert second.words[: len(first.words)] == first.words
    assert second.words[len(first.words)].start_ms >= first.words[-1].end_ms
