"""The turn model that needs no model: the core's own heuristic on words, as a probability."""

from __future__ import annotations

from voice_agent.dialog.completeness import Completeness, completeness
from voice_agent.ports import Capabilities

_PROBABILITY = {
    Completeness.COMPLETE: 0.85,
    Completeness.OPEN: 0.5,
    Completeness.SPELLING: 0.2,
    Completeness.INCOMPLETE: 0.1,
}


class TurnWords:
    """Pure and free of cost."""

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return Capabilities(name="words", version="1")

    def complete(self, audio: bytes, text: str) -> float:
        """Probability in [0, 1] that the caller is done, by the words alone; ``audio`` is not used."""
        return _PROBABILITY[completeness(text)]
