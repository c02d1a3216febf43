"""What a search of the embedded store or of a copy reads: vectors in flat arrays, so that none loops over sentences.

Qdrant's embedded client walks every point in Python, and copies what it returns; this takes 1 % of that. Scores are
the client's: cosine, and BM25 with the inverse document frequency ln(1 + (n - df + 0.5) / (df + 0.5)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Found:
    """A row found by either search: its cosine, and its BM25 score (0 when the lexical search missed it)."""

    row: int
    dense: float
    sparse: float


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """Vectors of n rows. Never changed: a change makes another one, so that searches need no lock.

    Attributes:
        dense: unit vectors, float32, shape (n, dimension).
        terms: term id of each entry of the sparse vectors, int64, ascending.
        rows: its row.
        weights: its weight, float32.
    """

    dense: NDArray[np.float32]
    terms: NDArray[np.int64]
    rows: NDArray[np.int64]
    weights: NDArray[np.float32]

    def without(self, dropped: NDArray[np.bool_]) -> VectorIndex:
        """The same without some rows, the others moved up; ``dropped`` has shape (n,)."""
        kept = ~dropped
        moved = np.cumsum(kept) - 1
        entries = kept[self.rows]
        return VectorIndex(self.dense[kept], self.terms[entries], moved[self.rows[entries]], self.weights[entries])

    def joined(self, other: VectorIndex) -> VectorIndex:
        """The rows of both, the other's last."""
        terms = np.concatenate([self.terms, other.terms])
        rows = np.concatenate([self.rows, other.rows + len(self.dense)])
        order = np.argsort(terms, kind="stable")
        weights = np.concatenate([self.weights, other.weights])
        return VectorIndex(np.concatenate([self.dense, other.dense]), terms[order], rows[order], weights[order])

    def has(self, term: int) -> bool:
        """Whether any row has this term id."""
        entries = self._entries(term)
        return bool(entries.stop > entries.start)

    def search(self, dense: NDArray[np.float32], sparse: Mapping[int, float], *, limit: int) -> list[Found]:
        """Rows found by either search, at most ``limit`` each, in no order."""
        cosines = self.dense @ (dense / max(float(np.linalg.norm(dense)), 1e-12))
        scores = self._lexical(sparse)
        best = set(_largest(cosines, limit))
        lexical = {row for row in _largest(scores, limit) if scores[row] > 0}
        return [
            Found(row, float(cosines[row]), float(scores[row]) if row in lexical else 0.0) for row in best | lexical
        ]

    def _lexical(self, sparse: Mapping[int, float]) -> NDArray[np.float32]:
        scores = np.zeros(len(self.dense), dtype=np.float32)
        for term, weight in sparse.items():
            entries = self._entries(term)
            count = entries.stop - entries.start
            idf = math.log((len(self.dense) - count + 0.5) / (count + 0.5) + 1)
            # A row has a term once, so no index comes twice.
            scores[self.rows[entries]] += np.float32(weight * idf) * self.weights[entries]
        return scores

    def _entries(self, term: int) -> slice:
        return slice(*(int(np.searchsorted(self.terms, term, side=side)) for side in ("left", "right")))


def build_index(dense: NDArray[np.float32], sparse: Sequence[Mapping[int, float]]) -> VectorIndex:
    """An index of rows given as dense vectors, shape (n, dimension), of any length, and weights by term id."""
    lengths = np.linalg.norm(dense, axis=1, keepdims=True)
    entries = [(term, row, weight) for row, weights in enumerate(sparse) for term, weight in weights.items()]
    terms = np.array([term for term, _, _ in entries], dtype=np.int64)
    order = np.argsort(terms, kind="stable")
    return VectorIndex(
        dense=(dense / np.maximum(lengths, 1e-12)).astype(np.float32),
        terms=terms[order],
        rows=np.array([row for _, row, _ in entries], dtype=np.int64)[order],
        weights=np.array([weight for _, _, weight in entries], dtype=np.float32)[order],
    )


def _largest(scores: NDArray[np.float32], limit: int) -> list[int]:
    if len(scores) <= limit:
        return list(range(len(scores)))
    rows: list[int] = np.argpartition(scores, -limit)[-limit:].tolist()
    return rows
