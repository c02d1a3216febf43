"""A trigram language model in ARPA format, by interpolated absolute discounting (Ney, Essen, Kneser 1994)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

START, END = "<s>", "</s>"
ORDER = 3
Gram = tuple[str, ...]


@dataclass(slots=True)
class _Context:
    """What follows a history: weighted counts by word. ``total`` and ``mass`` are of the finished counts.

    ``mass`` is the share of probability kept back for words not seen here.
    """

    following: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    total: float = 0.0
    mass: float = 0.0

    def settle(self, discount: float) -> None:
        """All has been counted. The sums are asked for once a word, so they are not made anew each time."""
        self.total = sum(self.following.values())
        self.mass = sum(min(discount, count) for count in self.following.values()) / self.total


class TrigramModel:
    """Probabilities of words after up to two words.

    Args:
        sentences: word lists with a weight each; a weight of 3 counts as saying the sentence three times.
        discount: taken off every count, in (0, 1]; more gives unseen sequences more room.
    """

    def __init__(self, sentences: Iterable[tuple[Sequence[str], float]], *, discount: float) -> None:
        self._discount = discount
        self._contexts: dict[Gram, _Context] = defaultdict(_Context)
        for words, weight in sentences:
            self._count((START, *words, END), weight)
        for context in self._contexts.values():
            context.settle(discount)
        self.vocabulary = sorted({word for context in self._contexts.values() for word in context.following})
        self._memo: dict[Gram, float] = {}

    def _count(self, words: Gram, weight: float) -> None:
        for position in range(1, len(words)):
            for length in range(min(ORDER, position + 1)):
                self._contexts[words[position - length : position]].following[words[position]] += weight

    def probability(self, word: str, history: Gram) -> float:
        """P(word | history), for a word of the vocabulary; the history is cut to what was seen."""
        history = history[-(ORDER - 1) :]
        while history and history not in self._contexts:
            history = history[1:]
        key = (*history, word)
        if key not in self._memo:
            context = self._contexts[history]
            lower = self.probability(word, history[1:]) if history else 1.0 / len(self.vocabulary)
            count = context.following.get(word, 0.0)
            kept = max(count - self._discount, 0.0) / context.total
            self._memo[key] = kept + context.mass * lower
        return self._memo[key]

    def arpa(self) -> Iterator[str]:
        """Lines of the ARPA file."""
        grams = [sorted(self._grams(order)) for order in range(1, ORDER + 1)]
        yield "\\data\\"
        for order, entries in enumerate(grams, start=1):
            yield f"ngram {order}={len(entries)}"
        for order, entries in enumerate(grams, start=1):
            yield ""
            yield f"\\{order}-grams:"
            yield from (self._line(gram) for gram in entries)
        yield ""
        yield "\\end\\"

    def _grams(self, order: int) -> Iterator[Gram]:
        if order == 1:
            yield from ((word,) for word in (START, *self.vocabulary))
            return
        for history, context in self._contexts.items():
            if len(history) == order - 1:
                yield from ((*history, word) for word in context.following)

    def _line(self, gram: Gram) -> str:
        # The start is never predicted: the format's convention is -99.
        log = -99.0 if gram == (START,) else math.log10(self.probability(gram[-1], gram[:-1]))
        if len(gram) < ORDER and gram in self._contexts:
            return f"{log:.4f} {' '.join(gram)} {math.log10(self._contexts[gram].mass):.4f}"
        return f"{log:.4f} {' '.join(gram)}"
