"""A trigram language model in ARPA format: interpolated absolute discounting (Ney, Essen, Kneser 1994), then pruned."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

START, END = "<s>", "</s>"
ORDER = 3
Gram = tuple[str, ...]


class TrigramModel:
    """Probabilities of words after up to two words.

    Args:
        sentences: word lists with a weight each; a weight of 3 counts as saying the sentence three times.
        discount: taken off every count, in (0, 1]; more gives unseen sequences more room.
        prune: a trigram that backing off estimates within this factor is left out; 1 keeps all. Templates make many
            of them, and a decoder's start-up time grows with their number.
    """

    def __init__(
        self, sentences: Iterable[tuple[Sequence[str], float]], *, discount: float, prune: float = 1.0
    ) -> None:
        self._discount = discount
        self._counts: dict[Gram, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for words, weight in sentences:
            self._count((START, *words, END), weight)
        self.vocabulary = sorted(self._counts[()])
        self._kept_back = {history: self._mass(following) for history, following in self._counts.items()}
        self._explicit: dict[Gram, dict[str, float]] = {}
        self._backoff: dict[Gram, float] = {}
        for history in sorted(self._counts, key=lambda history: (len(history), history)):
            self._estimate(history, prune if len(history) == ORDER - 1 else 1.0)

    def _count(self, words: Gram, weight: float) -> None:
        for position in range(1, len(words)):
            for length in range(min(ORDER, position + 1)):
                self._counts[words[position - length : position]][words[position]] += weight

    def _mass(self, following: dict[str, float]) -> float:
        """The share of probability kept back for words not seen after a history."""
        return sum(min(self._discount, count) for count in following.values()) / sum(following.values())

    def _estimate(self, history: Gram, prune: float) -> None:
        """Explicit probabilities after ``history``, and the weight of backing off that makes them sum to one."""
        following, kept_back = self._counts[history], self._kept_back[history]
        total = sum(following.values())
        explicit: dict[str, float] = {}
        seen_below = 0.0
        for word, count in following.items():
            lower = self.probability(word, history[1:]) if history else 1.0 / len(self.vocabulary)
            probability = max(count - self._discount, 0.0) / total + kept_back * lower
            if probability > prune * kept_back * lower or prune == 1.0:
                explicit[word] = probability
                seen_below += lower
        self._explicit[history] = explicit
        if history:
            left = 1.0 - sum(explicit.values())
            # Everything seen: nothing is left to back off to, and the format wants a number.
            self._backoff[history] = left / (1.0 - seen_below) if 1.0 - seen_below > 1e-9 else 1.0

    def probability(self, word: str, history: Gram) -> float:
        """P(word | history), for a word of the vocabulary; only the last two words of the history matter."""
        history = history[-(ORDER - 1) :]
        while history and history not in self._explicit:
            history = history[1:]
        explicit = self._explicit[history]
        if word in explicit or not history:
            return explicit[word]
        return self._backoff[history] * self.probability(word, history[1:])

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
            yield (START,)
        for history, explicit in self._explicit.items():
            if len(history) == order - 1:
                yield from ((*history, word) for word in explicit)

    def _line(self, gram: Gram) -> str:
        # The start is never predicted: the format's convention is -99.
        log = -99.0 if gram == (START,) else math.log10(self._explicit[gram[:-1]][gram[-1]])
        backoff = self._backoff.get(gram)
        return f"{log:.4f} {' '.join(gram)}" + ("" if backoff is None else f" {math.log10(backoff):.4f}")
