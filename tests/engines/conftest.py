"""Speech and a vocabulary for the conformance suites."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from engine_kit import clip, phone_line, tts
from tiny_vocabulary import write_vocabulary

from voice_agent.errors import EngineUnavailableError


@pytest.fixture(scope="session")
def say() -> Callable[[str, str], bytes]:
    """Synthesised speech over a telephone line: ``say(text, voice)`` gives mu-law 8 kHz."""
    try:
        tts("flite")
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    return lambda text, voice: phone_line(clip(text, voice))


@pytest.fixture(scope="session")
def vocabulary_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary"))
