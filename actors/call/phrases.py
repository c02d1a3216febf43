"""Recordings of the agent's own phrases, made while all is well, so that they need no engine when none is well."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from actors.call.plane import ModelPlane
from voice_agent.audio.g711 import mulaw_decode
from voice_agent.audio.levels import loud_frames
from voice_agent.dialog.clauses import ClauseSplitter
from voice_agent.dialog.policy import AgentPhrases
from voice_agent.errors import EngineFailedError, VoiceAgentError
from voice_agent.ports import SpeakRequest

logger = logging.getLogger(__name__)

RECORD_S: Final = 20.0
MAX_PHRASE_BYTES: Final = 30 * 8000
LOUD_DBFS: Final = -50.0
FRAME_SAMPLES: Final = 80
SPOKEN: Final = (
    "filler", "hold", "apology", "not_understood", "greeting", "reprompt", "goodbye", "silence_goodbye"
)  # fmt: skip
"""Phrases worth a recording, those that break silences first."""
FILLERS: Final = ("filler", "hold")


@dataclass(slots=True)
class Recordings:
    """Audio by text: mu-law mono 8 kHz.

    ``wanted`` are names of phrases by text; ``missing`` are names of those that could not be recorded.
    """

    wanted: Mapping[str, str] = field(default_factory=dict)
    audio: dict[str, bytes] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def of(self, text: str) -> bytes | None:
        """The recording of a phrase, word for word; None when there is none."""
        return self.audio.get(text)

    async def record(self, plane: ModelPlane, voice: str) -> None:
        """Have the synthesiser say every phrase once. What it fails at is told, and is missing; nothing is raised."""
        for text, name in self.wanted.items():
            try:
                async with asyncio.timeout(RECORD_S):
                    self.audio[text] = await _said(plane, text, voice)
            except (TimeoutError, VoiceAgentError) as error:
                self.missing.append(name)
                logger.warning("phrase not recorded", extra={"phrase": name, "reason": repr(error)})


def texts_of(phrases: AgentPhrases, first_clause_words: int) -> dict[str, str]:
    """What to record: names of phrases by text, cut into clauses as the dialog cuts them; fillers are said whole."""
    texts: dict[str, str] = {}
    for name in SPOKEN:
        phrase = getattr(phrases, name).strip()
        splitter = ClauseSplitter(first_min_words=first_clause_words)
        clauses = [phrase] if name in FILLERS else splitter.feed(phrase) + splitter.finish()
        texts |= {clause: name for clause in clauses if clause and clause not in texts}
    return texts


async def _said(plane: ModelPlane, text: str, voice: str) -> bytes:
    said = bytearray()
    async with aclosing(plane.speak(SpeakRequest("", 0, 0, text, voice))) as stream:
        async for chunk in stream:
            said += chunk.audio
            if len(said) > MAX_PHRASE_BYTES:
                raise EngineFailedError("a phrase of the agent is longer than half a minute")
    if not loud_frames(mulaw_decode(bytes(said)), FRAME_SAMPLES, LOUD_DBFS).any():
        raise EngineFailedError("the synthesiser gave silence")
    return bytes(said)
