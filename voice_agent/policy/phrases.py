"""Phrases: how they are written, and how many of them are found in one walk over the words of a text.

A phrase is words; ``(a|b)`` is one of several, ``[a|b]`` the same or nothing. ``[really] (fire|burn) it`` stands for
four phrases. Matching walks a tree of words, so its cost does not grow with the number of phrases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from voice_agent.errors import ConfigError
from voice_agent.policy.rules import Phrase
from voice_agent.policy.tokens import Token, tokens_of

MAX_PHRASES = 2_000
"""One written phrase may stand for this many."""

_PIECE = re.compile(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]|([^()\[\]|]+)")
_END = ""


def expand(written: str) -> tuple[Phrase, ...]:
    """All phrases that ``written`` stands for.

    Raises:
        ConfigError: brackets do not match, there is no word in it, or it stands for more than ``MAX_PHRASES``.
    """
    choices: list[list[Phrase]] = []
    position, count = 0, 1
    for piece in _PIECE.finditer(written):
        if piece.start() != position:
            break
        position = piece.end()
        required, optional, plain = piece.groups()
        if plain is not None:
            choices.append([_words(plain)])
        else:
            listed = [_words(choice) for choice in (required if required is not None else optional).split("|")]
            choices.append(listed if required is not None else [*listed, ()])
        count *= len(choices[-1])
    if position != len(written):
        raise ConfigError("brackets that match and do not nest: words, (one|of these), [one of these|or nothing]")
    if count > MAX_PHRASES:
        raise ConfigError(f"a phrase that stands for at most {MAX_PHRASES} (this one: {count})")
    phrases = tuple(dict.fromkeys(sum(parts, ()) for parts in product(*choices)))
    if not all(phrases):
        raise ConfigError("at least one word that is not optional")
    return phrases


def _words(text: str) -> Phrase:
    return tuple(token.text for token in tokens_of(text))


class PhraseTree:
    """Finds any of its phrases."""

    def __init__(self, phrases: Iterable[Phrase]) -> None:
        self._root: dict[str, Any] = {}
        for phrase in phrases:
            node = self._root
            for word in phrase:
                node = node.setdefault(word, {})
            node[_END] = {}

    def found(self, tokens: Sequence[Token]) -> bool:
        """Is one of the phrases in these words?"""
        root = self._root
        return any(token.text in root and self._begins(tokens, place) for place, token in enumerate(tokens))

    def _begins(self, tokens: Sequence[Token], place: int) -> bool:
        node = self._root
        while _END not in node:
            if place == len(tokens) or tokens[place].text not in node:
                return False
            node = node[tokens[place].text]
            place += 1
        return True
