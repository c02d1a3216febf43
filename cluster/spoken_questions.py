"""Questions asked aloud: what the recogniser makes of them over a telephone line, and what is found for that."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cluster.knowledge import in_memory
from configs.settings import Settings
from engines import registry
from kb.evaluate import evaluate as measure
from kb.evaluate import load_questions
from loadtest.speech import CallerSpeech
from voice_agent.dialog.completeness import words_of
from voice_agent.errors import ConfigError
from voice_agent.ports import SpeechToTextEngine

PART: Final = 0.6
"""Share of a question after which its words so far are searched too, as they are for a speculative reply."""

_PIECE_BYTES: Final = 1600


def evaluate(settings: Settings, questions: Path, top_k: int, voice: str) -> dict[str, dict[str, Any]]:
    """Measure retrieval on what the configured recogniser hears of the questions, whole and cut off at ``PART``.

    Args:
        settings: sections ``kb``, ``retriever`` and ``stt``.
        questions: their file.
        top_k: passages looked at.
        voice: of the caller.

    Returns:
        By the way of asking, what ``kb.evaluate`` gives, and a ``word_error_rate`` for whole questions.

    Raises:
        ConfigError: the question file is wrong, there is no such voice, or the recogniser is a simulated one.
        EngineUnavailableError: the recogniser or the voice cannot run here.
    """
    asked = load_questions(questions)
    lines = asyncio.run(CallerSpeech.open().lines((text, voice) for text in asked.texts()))
    audio = {text: lines[text, voice] for text in asked.texts()}
    with tempfile.TemporaryDirectory() as folder, in_memory(settings, Path(folder)) as base:
        engine = _recogniser(settings, folder)
        whole = {text: _heard(engine, speech, text) for text, speech in audio.items()}
        part = {text: _heard(engine, speech[: int(len(speech) * PART)], text) for text, speech in audio.items()}
        found = {}
        for name, heard in ((voice, whole), (f"{voice}, first {PART:.0%}", part)):
            least = settings.retriever.min_dense
            found[name] = measure(base.search, asked.as_heard(heard), top_k=top_k, min_dense=least).as_dict()
    # Foreign questions are made of words that a recogniser of this domain cannot know.
    found[voice]["word_error_rate"] = word_error_rate({item.text: whole[item.text] for item in asked.in_domain})
    return found


def word_error_rate(heard: Mapping[str, str]) -> float:
    """Words put in, left out or exchanged, by the words said. Keys are what was said."""
    pairs = [(words_of(said), words_of(text)) for said, text in heard.items()]
    return sum(_distance(said, text) for said, text in pairs) / max(1, sum(len(said) for said, _ in pairs))


def _recogniser(settings: Settings, vocabulary_dir: str) -> SpeechToTextEngine:
    options = settings.stt.options
    if settings.stt.engine == "pocketsphinx":
        options = {"vocabulary_dir": vocabulary_dir} | options
    engine: SpeechToTextEngine = registry.load("stt", settings.stt.engine, options)
    if engine.capabilities.simulated:
        raise ConfigError(f"stt.engine {settings.stt.engine} hears nothing: name a recogniser to measure with")
    return engine


def _heard(engine: SpeechToTextEngine, speech: bytes, call_id: str) -> str:
    """Every question is a call of its own: nothing is learnt of the line from the one before."""
    session = engine.open(call_id=call_id, utterance=1)
    try:
        for at in range(0, len(speech), _PIECE_BYTES):
            session.accept(speech[at : at + _PIECE_BYTES])
        return session.result(flush=True).text
    finally:
        session.close()


def _distance(said: Sequence[str], heard: Sequence[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, start=1):
        before, row[0] = row[0], number
        for place, other in enumerate(heard, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (word != other))
    return row[-1]
