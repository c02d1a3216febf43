"""Identifiers of letters and digits: IBAN and UK National Insurance numbers, written, spelled or spoken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from voice_agent.policy.digits import group_at
from voice_agent.policy.reading import Reading, Span

IBAN_LENGTHS = {
    "ad": 24, "ae": 23, "al": 28, "at": 20, "az": 28, "ba": 20, "be": 16, "bg": 22, "bh": 22, "br": 29, "by": 28,
    "ch": 21, "cr": 22, "cy": 28, "cz": 24, "de": 22, "dk": 18, "do": 28, "ee": 20, "eg": 29, "es": 24, "fi": 18,
    "fo": 18, "fr": 27, "gb": 22, "ge": 22, "gi": 23, "gl": 18, "gr": 27, "gt": 28, "hr": 21, "hu": 28, "ie": 22,
    "il": 23, "iq": 23, "is": 26, "it": 27, "jo": 30, "kw": 30, "kz": 20, "lb": 28, "lc": 32, "li": 21, "lt": 20,
    "lu": 20, "lv": 21, "ly": 25, "mc": 27, "md": 24, "me": 22, "mk": 19, "mr": 27, "mt": 31, "mu": 30, "nl": 18,
    "no": 15, "pk": 24, "pl": 28, "ps": 29, "pt": 25, "qa": 29, "ro": 24, "rs": 22, "sa": 24, "sc": 31, "se": 24,
    "si": 19, "sk": 24, "sm": 27, "st": 25, "sv": 28, "tl": 23, "tn": 24, "tr": 26, "ua": 29, "va": 22, "vg": 24,
    "xk": 20,
}  # fmt: skip
"""Length of an IBAN by country (SWIFT IBAN registry)."""

_SPELLED = {
    word: word[0]
    for word in (
        "alpha alfa bravo charlie delta echo foxtrot golf hotel india juliet juliett kilo lima mike november oscar "
        "papa quebec romeo sierra tango uniform victor whiskey xray yankee zulu"
    ).split()
}
_TIMES = {"double": 2, "triple": 3}
_JOINTS = frozenset(" \t\u00a0.,-")

_NINO_FIRST = frozenset("abceghjklmnoprstwxyz")
_NINO_SECOND = frozenset("abceghjklmnprstwxyz")
_NINO_NEVER = frozenset("bg gb kn nk nt tn zz".split())
_NINO_WORDS = frozenset("insurance nino".split())
_NINO_LENGTH = 9


class Piece(NamedTuple):
    """Letters or digits of an identifier. ``plain``: a word in lower case of more than one letter, a guess at best."""

    text: str
    start: int
    end: int
    plain: bool


def ibans(reading: Reading) -> list[Span]:
    """A country, its length, and the checksum of ISO 13616 (mod 97)."""
    spans = []
    for place, token in enumerate(reading.tokens):
        word = token.text
        if (len(word) <= 2 or word in _SPELLED or word in _TIMES) and word[0].isalpha():
            span = _iban_at(reading, place)
            if span is not None:
                spans.append(span)
    return spans


def _iban_at(reading: Reading, place: int) -> Span | None:
    compact, start, wanted = "", -1, 34
    for piece in _pieces(reading, place):
        start = piece.start if start < 0 else start
        compact += piece.text
        if len(compact) >= 2:
            wanted = IBAN_LENGTHS.get(compact[:2], 0)
        if len(compact) > 2 and not compact[2:4].isdecimal():
            return None
        if len(compact) >= wanted:
            return (start, piece.end) if len(compact) == wanted and _mod_97(compact) else None
    return None


def _mod_97(compact: str) -> bool:
    number = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return int(number) % 97 == 1


def national_insurance_numbers(reading: Reading) -> list[Span]:
    """Two letters, six digits, and A to D (HM Revenue & Customs, NIM39110).

    Two letters of ordinary words do not count as the beginning, unless "national insurance" was said.
    """
    spans = []
    for place, token in enumerate(reading.tokens):
        if token.text[0] in _NINO_FIRST and (len(token.text) <= 2 or token.text in _SPELLED):
            span = _nino_at(reading, place)
            if span is not None:
                spans.append(span)
    return spans


def _nino_at(reading: Reading, place: int) -> Span | None:
    compact, start, plain = "", -1, False
    for piece in _pieces(reading, place):
        start = piece.start if start < 0 else start
        compact += piece.text
        plain = plain or (piece.plain and len(compact) <= 2)
        if not compact[2:8].isdecimal() and len(compact) > 2:
            return None
        if len(compact) >= _NINO_LENGTH:
            sure = not plain or reading.nearest_before(place, (_NINO_WORDS,), 8) is not None
            return (start, piece.end) if sure and _is_nino(compact) else None
    return None


def _is_nino(compact: str) -> bool:
    return (
        len(compact) == _NINO_LENGTH
        and compact[0] in _NINO_FIRST
        and compact[1] in _NINO_SECOND
        and compact[:2] not in _NINO_NEVER
        and compact[8] in "abcd"
    )


def _pieces(reading: Reading, place: int) -> Iterator[Piece]:
    """What stands from a token on, as long as it can be part of an identifier."""
    first = True
    while place < len(reading.tokens):
        gap = "" if first else reading.text[reading.tokens[place - 1].end : reading.tokens[place].start]
        if not _JOINTS.issuperset(gap):
            return
        found = _piece(reading, place, first=first, joined=not first and not gap)
        if found is None:
            return
        yield found[0]
        place += found[1]
        first = False


def _piece(reading: Reading, place: int, *, first: bool, joined: bool) -> tuple[Piece, int] | None:
    token = reading.tokens[place]
    word = token.text
    following = reading.tokens[place + 1] if place + 1 < len(reading.tokens) else None
    written = reading.text[token.start : token.end]
    if word in _TIMES and following is not None and len(following.text) == 1 and following.text.isalpha():
        return Piece(following.text * _TIMES[word], token.start, following.end, plain=False), 2
    if len(word) == 1 and word.isascii() and word.isalpha():
        return Piece(word, token.start, token.end, plain=False), 1
    if word in _SPELLED:
        return Piece(_SPELLED[word], token.start, token.end, plain=False), 1
    group = group_at(reading.text, reading.tokens, place)
    if group is not None:
        return Piece(group[0].digits, group[0].start, group[0].end, plain=False), group[1]
    touches = joined or (following is not None and following.start == token.end and following.text[0].isdecimal())
    if word.isascii() and word.isalpha() and len(word) <= 6 and (first or touches or written.isupper()):
        return Piece(word, token.start, token.end, plain=not (touches or written.isupper())), 1
    return None
