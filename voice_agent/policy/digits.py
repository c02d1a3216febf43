"""Digits as people write and say them: ``4111-1111``, ``four one one one``, ``double five``, ``forty two``.

What belongs together is a run of groups. A group that is only loosely joined to the one before it (a word like "and"
between them, a colon, a "for" that may be a misheard four) is *soft*: checksums may span it, weaker detectors do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from voice_agent.policy.tokens import Token

_ONES = {
    "zero": "0", "oh": "0", "o": "0", "nought": "0", "naught": "0", "one": "1", "two": "2", "three": "3", "four": "4",
    "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "niner": "9",
}  # fmt: skip
_TEENS = {
    "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14", "fifteen": "15", "sixteen": "16",
    "seventeen": "17", "eighteen": "18", "nineteen": "19",
}  # fmt: skip
_TENS = {
    "twenty": "2", "thirty": "3", "forty": "4", "fourty": "4", "fifty": "5", "sixty": "6", "seventy": "7",
    "eighty": "8", "ninety": "9",
}  # fmt: skip
_TIMES = {"double": 2, "triple": 3, "treble": 3, "quadruple": 4}
_MISHEARD = {"to": "2", "too": "2", "for": "4", "fore": "4", "ate": "8", "won": "1"}
_FILLERS = frozenset("uh uhm um er erm ah hm hmm dash hyphen space".split())
_LINKS = frozenset("and then next followed by yes yeah okay ok so comma".split())

_TIGHT = frozenset(" \t\u00a0\u2009\u202f.,-()+\u2010\u2011\u2012\u2013\u2014·")
_CURRENCIES = frozenset("$€£¥")
_MAX_BETWEEN = 2


class Group(NamedTuple):
    """Digits that were written or said as one. ``start``, ``end`` in characters; ``token`` is the place of the first.

    ``amount``: a sign of currency stands before it. ``guess``: a word that may be a misheard digit.
    """

    digits: str
    start: int
    end: int
    token: int
    spoken: bool
    soft: bool = False
    amount: bool = False
    guess: bool = False


Run = list[Group]


def runs_of(text: str, tokens: Sequence[Token]) -> list[Run]:
    """Runs of digits, in order. Linear in the number of tokens."""
    return list(_Runs(text, tokens).walk())


def goes_on(tokens: Sequence[Token], run: Run) -> bool:
    """May digits that come next still belong to this run?"""
    after = [token.text for token in tokens if token.start >= run[-1].end]
    return len(after) <= _MAX_BETWEEN and all(word in _FILLERS or word in _LINKS or word in _MISHEARD for word in after)


def firm(run: Run) -> Iterator[Run]:
    """A run cut where it is only loosely joined; without guesses and amounts."""
    part: Run = []
    for group in run:
        if part and (group.soft or group.amount or group.guess):
            yield part
            part = []
        if not (group.amount or group.guess):
            part.append(group)
    if part:
        yield part


def group_at(text: str, tokens: Sequence[Token], place: int) -> tuple[Group, int] | None:
    """The group that begins at a token, and how many tokens it takes; None where there is none."""
    token = tokens[place]
    word = token.text
    following = tokens[place + 1].text if place + 1 < len(tokens) else ""
    if word[0].isdecimal():
        amount = token.start > 0 and text[token.start - 1] in _CURRENCIES
        return Group(word, token.start, token.end, place, spoken=False, amount=amount), 1
    digits, taken = _spoken(word, following)
    if not digits:
        return None
    if taken == 1 and len(digits) < 3 and following == "hundred" and _is_digits(tokens, place + 2):
        digits, taken = digits + "00", 2
    return Group(digits, token.start, tokens[place + taken - 1].end, place, spoken=True), taken


def _spoken(word: str, following: str) -> tuple[str, int]:
    if word in _ONES:
        return _ONES[word], 1
    if word in _TEENS:
        return _TEENS[word], 1
    if word in _TENS:
        unit = _ONES.get(following, "0")
        return (_TENS[word] + unit, 2) if unit != "0" else (_TENS[word] + "0", 1)
    if word in _TIMES:
        digit = following if len(following) == 1 and following.isdecimal() else _ONES.get(following, "")
        return digit * _TIMES[word], 2
    return "", 0


def _is_digits(tokens: Sequence[Token], place: int) -> bool:
    if place >= len(tokens):
        return False
    word = tokens[place].text
    return word[0].isdecimal() or word in _ONES or word in _TEENS or word in _TENS or word in _TIMES


class _Runs:
    """One walk over the tokens. ``between`` holds what may turn out to stand inside a run."""

    def __init__(self, text: str, tokens: Sequence[Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._run: Run = []
        self._between: list[Group | None] = []
        self._soft = False

    def walk(self) -> Iterator[Run]:
        place = 0
        while place < len(self._tokens):
            if self._run:
                self._note_gap(place)
            found = group_at(self._text, self._tokens, place)
            if found is not None:
                self._add(found[0])
                place += found[1]
                continue
            if self._run and not self._glue(place):
                yield from self._close()
            place += 1
        yield from self._close()

    def _note_gap(self, place: int) -> None:
        gap = self._text[self._tokens[place - 1].end : self._tokens[place].start]
        if gap != " " and not _TIGHT.issuperset(gap):
            self._soft = True

    def _add(self, group: Group) -> None:
        if self._run:
            soft = self._soft or any(item is not None for item in self._between)
            self._run += [item for item in self._between if item is not None]
            group = group._replace(soft=True) if soft else group
        self._run.append(group)
        self._between, self._soft = [], False

    def _glue(self, place: int) -> bool:
        token = self._tokens[place]
        if token.text in _MISHEARD:
            digit = _MISHEARD[token.text]
            self._between.append(Group(digit, token.start, token.end, place, spoken=True, soft=True, guess=True))
        elif token.text in _FILLERS or token.text in _LINKS:
            self._soft = self._soft or token.text in _LINKS
            self._between.append(None)
        else:
            return False
        return len(self._between) <= _MAX_BETWEEN

    def _close(self) -> Iterator[Run]:
        if self._run:
            yield self._run
        self._run, self._between, self._soft = [], [], False
