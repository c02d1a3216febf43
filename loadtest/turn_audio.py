"""Each of the agent's turns at the ear, against the same words rendered by the same voice (``loadtest.hearing``)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engines import registry
from loadtest.hearing import TurnAudio, compare, words_between, words_over
from voice_agent.audio.g711 import mulaw_decode
from voice_agent.dialog.clauses import ClauseSplitter
from voice_agent.errors import EngineUnavailableError
from voice_agent.ports import SpeakRequest, TextToSpeechEngine

_SAMPLES_PER_MS: Final = 8
_BEFORE_MS: Final = 100
_TRUSTED: Final = 0.5
"""Less of a reference found than this is another voice or another text, and proves nothing."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A text as it sounds uninterrupted: int16 8 kHz, and the end of each word in ms."""

    audio: NDArray[np.int16]
    word_ends_ms: tuple[int, ...]


@dataclass(slots=True)
class AgentVoice:
    """Renders what the agent says. Without flite nothing is compared: no other engine here tells its word ends."""

    engine: TextToSpeechEngine | None
    _known: dict[str, Reference] = field(default_factory=dict)

    @classmethod
    def open(cls) -> AgentVoice:
        """Blocking: loads a library."""
        try:
            return cls(registry.load("tts", "flite", {}))
        except EngineUnavailableError:
            return cls(None)

    async def turns(
        self, agent: NDArray[np.int16], records: Sequence[Mapping[str, Any]], offset_ms: int
    ) -> tuple[TurnAudio, ...]:
        """Compare every turn that played; ``agent`` is the ear on the caller's clock, ``offset_ms`` the media's start.

        Turns whose words could not be found at the ear at all are left out.
        """
        if self.engine is None:
            return ()
        played = [record for record in records if "playout_started_ms" in record["times_ms"]]
        found = []
        for number, record in enumerate(played):
            start_ms = record["times_ms"]["playout_started_ms"] + offset_ms
            later = [other["times_ms"]["playout_started_ms"] + offset_ms for other in played[number + 1 :]]
            until = min(later) * _SAMPLES_PER_MS if later else len(agent)
            ear = agent[max(start_ms - _BEFORE_MS, 0) * _SAMPLES_PER_MS : until]
            reference = await self.reference(record["agent_text_pii"])
            turn = await asyncio.to_thread(_compared, record, ear, reference)
            found += [turn] if turn is not None else []
        return tuple(found)

    async def reference(self, text: str) -> Reference:
        """Render a text clause by clause, as the platform does."""
        if text not in self._known:
            self._known[text] = await self._render(text)
        return self._known[text]

    async def _render(self, text: str) -> Reference:
        assert self.engine is not None
        splitter = ClauseSplitter()
        audio, ends = b"", []
        for clause in [*splitter.feed(text), *splitter.finish()]:
            began_ms = len(audio) // _SAMPLES_PER_MS
            async for chunk in self.engine.speak(SpeakRequest(call_id="reference", turn=0, clause=0, text=clause)):
                audio += chunk.audio
                ends += [began_ms + end for end in chunk.word_ends_ms]
        return Reference(mulaw_decode(audio), tuple(ends))


def _compared(record: Mapping[str, Any], ear: NDArray[np.int16], reference: Reference) -> TurnAudio | None:
    comparison = compare(ear, reference.audio)
    interrupted = record["outcome"] != "completed"
    if comparison.found_share < (0.0 if interrupted else _TRUSTED) or not comparison.found_share:
        return None
    words = len(record["agent_text_pii"].split())
    length_ms = len(reference.audio) // _SAMPLES_PER_MS
    played = words if comparison.to_the_end else words_over(reference.word_ends_ms, comparison.played_ms)
    return TurnAudio(
        turn=record["turn"],
        interrupted=interrupted,
        words=words,
        words_lost=words_between(comparison.lost_ms, length_ms, words) + (0 if interrupted else words - played),
        words_repeated=words_between(comparison.repeated_ms, length_ms, words),
        words_recorded=len(record["heard_text_pii"].split()),
        words_played=played,
        found_share=round(comparison.found_share, 2),
    )
