"""A text as words, runs of digits and masks, each with its place."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

KINDS = ("card", "iban", "us_ssn", "uk_nino", "phone", "email", "birth_date", "number")
"""Kinds of private data. ``[card]`` in a text says that there was one."""

_MASK = "|".join(KINDS)
_TOKEN = re.compile(rf"\[(?:{_MASK})\]|\x01\x00*|\d+|[^\W\d_]+(?:['’][^\W\d_]+)*")
_CONTROL = str.maketrans({"\x00": " ", "\x01": " "})


class Token(NamedTuple):
    """A word in lower case with plain apostrophes, digits as ASCII, or a mask, which is neither word nor digits."""

    text: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """The tokens of ``text``, in one linear pass."""
    return [Token(_plain(match[0]), match.start(), match.end()) for match in _TOKEN.finditer(text)]


def clean(text: str) -> str:
    """``text`` without the characters that ``hidden`` writes; of the same length."""
    return text.translate(_CONTROL)


def hidden(text: str, start: int, end: int) -> str:
    """``text`` with one mask in place of a piece of it; of the same length."""
    return "".join((text[:start], "\x01", "\x00" * (end - start - 1), text[end:]))


def mask(kind: str) -> str:
    """What stands for private data in a text."""
    return f"[{kind}]"


def _plain(text: str) -> str:
    if text[0].isdecimal() and not text.isascii():
        return "".join(str(unicodedata.decimal(character)) for character in text)
    return text.lower().replace("’", "'")
