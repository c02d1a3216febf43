"""A text with what detectors share: tokens, runs of digits, and the words before a place."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from voice_agent.policy.digits import Run, runs_of
from voice_agent.policy.tokens import Token, tokens_of

Span = tuple[int, int]
"""Start and end of a piece of text, in characters."""


class Reading:
    """One text. Everything is worked out when it is first asked for, and once."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def tokens(self) -> list[Token]:
        """Words, digits, masks."""
        return tokens_of(self.text)

    @cached_property
    def runs(self) -> list[Run]:
        """Runs of digits."""
        return runs_of(self.text, self.tokens)

    @cached_property
    def most_digits(self) -> int:
        """Digits of the longest run."""
        return max((sum(len(group.digits) for group in run) for run in self.runs), default=0)

    @cached_property
    def all_digits(self) -> int:
        """Digits of all runs."""
        return sum(len(group.digits) for run in self.runs for group in run)

    @cached_property
    def lowered(self) -> str:
        """The text in lower case."""
        return self.text.lower()

    def nearest_before(self, place: int, words: Iterable[frozenset[str]], reach: int) -> int | None:
        """Which of several sets of words has the word nearest before a token, within ``reach`` tokens; None: none."""
        sets = tuple(words)
        for token in reversed(self.tokens[max(0, place - reach) : place]):
            for number, known in enumerate(sets):
                if token.text in known:
                    return number
        return None
