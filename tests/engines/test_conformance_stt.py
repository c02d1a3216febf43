"""What every speech-to-text engine keeps, simulated or real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from engine_kit import load_or_skip

from voice_agent.ports import SpeechToTextEngine, SpeechToTextSession

# In the order in which the simulated engine gives them: by the number of the utterance.
TEXTS = ("when are you open on saturday", "how much does delivery cost")
Say = Callable[[str, str], bytes]


@pytest.fixture(params=["simulated", "pocketsphinx", "fallback"], scope="module")
def engine(request: pytest.FixtureRequest, vocabulary_dir: Path) -> SpeechToTextEngine:
    quick = {"texts": list(TEXTS), "final_ms": 5}
    # Its first engine fails always: what is heard is the second one's.
    broken = {"engine": "faulty", "options": {"fault": "error", "options": quick}}
    options = {
        "simulated": quick,
        "fallback": {"engines": [broken, {"engine": "simulated", "options": quick}]},
        "pocketsphinx": {"vocabulary_dir": str(vocabulary_dir)},
    }[request.param]
    return load_or_skip("stt", request.param, options)


@pytest.fixture
def session(engine: SpeechToTextEngine) -> Iterator[SpeechToTextSession]:
    session = engine.open(call_id="call", utterance=1)
    yield session
    session.close()


def feed(session: SpeechToTextSession, audio: bytes, piece: int = 1600) -> None:
    for start in range(0, len(audio), piece):
        session.accept(audio[start : start + piece])


def test_capabilities_are_honest(engine: SpeechToTextEngine) -> None:
    capabilities = engine.capabilities
    assert isinstance(engine, SpeechToTextEngine)
    assert capabilities.name in (("simulated", "faulty") if capabilities.simulated else ("pocketsphinx",))
    assert capabilities.closed_domain is not capabilities.simulated
    assert capabilities.parallel >= 1
    assert capabilities.push_interval_ms >= 0


def test_flush_gives_text_words_and_confidence(session: SpeechToTextSession, say: Say) -> None:
    audio = say(TEXTS[0], "rms")
    feed(session, audio)
    result = session.result(flush=True)
    assert result.text == TEXTS[0]
    assert result.flushed
    assert [word.text for word in result.words] == TEXTS[0].split()
    assert 0.5 < result.confidence <= 1.0
    assert all(0.0 <= word.confidence <= 1.0 for word in result.words)
    ends = [0, *(word.end_ms for word in result.words)]
    assert all(begun.start_ms >= end for begun, end in zip(result.words, ends, strict=False))
    assert ends == sorted(ends)
    assert ends[-1] <= len(audio) // 8
    assert result.engine_ms >= 0


def test_text_grows_while_the_caller_speaks(session: SpeechToTextSession, say: Say) -> None:
    audio = say(TEXTS[0], "rms")
    partials = []
    for start in range(0, len(audio), 1600):
        session.accept(audio[start : start + 1600])
        result = session.result(flush=False)
        assert not result.flushed
        partials.append(len(result.words))
    assert partials[0] == 0
    assert partials[-1] >= 3
    assert len(set(partials)) > 3


def test_flush_twice_says_the_same(session: SpeechToTextSession, say: Say) -> None:
    feed(session, say(TEXTS[0], "rms"))
    first = session.result(flush=True)
    second = session.result(flush=True)
    assert (second.text, second.words, second.confidence) == (first.text, first.words, first.confidence)


def test_audio_after_a_flush_is_added(session: SpeechToTextSession, say: Say) -> None:
    audio = say(TEXTS[0], "rms")
    feed(session, audio[: len(audio) // 2])
    session.result(flush=True)
    feed(session, audio[len(audio) // 2 :])
    assert session.result(flush=True).text == TEXTS[0]


def test_size_of_the_pieces_does_not_matter(engine: SpeechToTextEngine, say: Say) -> None:
    audio = say(TEXTS[0], "rms")
    for piece in (160, 777, len(audio)):
        session = engine.open(call_id=f"piece-{piece}", utterance=1)
        feed(session, audio, piece)
        assert session.result(flush=True).text == TEXTS[0]
        session.close()


def likeness(one: str, other: str) -> float:
    """Share of words in common and in order, [0, 1]."""
    return SequenceMatcher(None, one.split(), other.split()).ratio()


def test_two_sessions_do_not_mix(engine: SpeechToTextEngine, say: Say) -> None:
    clips = [say(text, voice) for text, voice in zip(TEXTS, ("rms", "slt"), strict=True)]
    sessions = [engine.open(call_id=f"call-{n}", utterance=n) for n in (1, 2)]
    for start in range(0, max(map(len, clips)), 800):
        for session, clip in zip(sessions, clips, strict=True):
            session.accept(clip[start : start + 800])
            session.result(flush=False)
    heard = [session.result(flush=True).text for session in sessions]
    # A synthesiser adds noise of its own, so a word may differ from run to run; whose words they are may not.
    for own, other, text in zip(TEXTS, reversed(TEXTS), heard, strict=True):
        assert likeness(text, own) >= 0.6 > likeness(text, other)
    for session in sessions:
        session.close()


def test_no_audio_is_no_text(session: SpeechToTextSession) -> None:
    session.accept(b"")
    for flush in (False, True):
        result = session.result(flush=flush)
        assert (result.text, result.words, result.confidence) == ("", (), 0.0)


def test_close_is_idempotent_also_in_the_middle(engine: SpeechToTextEngine, say: Say) -> None:
    for _ in range(3):
        session = engine.open(call_id="closing", utterance=1)
        session.accept(say(TEXTS[0], "rms")[:4000])
        session.close()
        session.close()
    session = engine.open(call_id="after", utterance=1)
    feed(session, say(TEXTS[0], "rms"))
    assert session.result(flush=True).text == TEXTS[0]


def test_reload_leaves_open_sessions_alone(engine: SpeechToTextEngine, say: Say) -> None:
    audio = say(TEXTS[0], "rms")
    session = engine.open(call_id="call", utterance=1)
    feed(session, audio[:8000])
    engine.reload()
    feed(session, audio[8000:])
    assert session.result(flush=True).text == TEXTS[0]
    session.close()
