"""What the knowledge base tests share."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kb.terms import terms
from voice_agent.ports import Capabilities

SAMPLE = Path(__file__).resolve().parents[2] / "kb" / "sample"


class BagOfWordsEmbedder:
    """Deterministic vectors from words, so that most tests need no model."""

    dimension = 64
    capabilities = Capabilities(name="bag-of-words", version="1")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.full((len(texts), self.dimension), 1e-3, dtype=np.float32)
        for row, text in enumerate(texts):
            for term in terms(text):
                vectors[row, hashlib.md5(term.encode()).digest()[0] % self.dimension] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
