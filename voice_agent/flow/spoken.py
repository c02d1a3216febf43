"""Numbers and dates as they are spoken: words into values, and values into words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from voice_agent.policy.tokens import tokens_of

DIGITS: Final = "zero one two three four five six seven eight nine".split()
_TEENS: Final = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS: Final = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS: Final = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth"
).split()
_UNITS: Final = {word: value for value, word in enumerate((*DIGITS, *_TEENS))} | {"oh": 0}
_BY_TEN: Final = {word: 20 + 10 * place for place, word in enumerate(_TENS)}
_SCALES: Final = {"thousand": 1_000, "million": 1_000_000}
_ORDINAL: Final = {word: value for value, word in enumerate(_ORDINALS)} | {"twentieth": 20, "thirtieth": 30}
_SUFFIXES: Final = ("st", "nd", "rd", "th")

WEEKDAYS: Final = "monday tuesday wednesday thursday friday saturday sunday".split()
_NAMES: Final = "january february march april may june july august september october november december".split()
MONTHS: Final = {name: place for place, name in enumerate(_NAMES, 1)}
_LENGTHS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def number_of(text: str) -> str | None:
    """The one number in a text, as ``12`` or ``0.5``; None when there is none or more than one."""
    found: list[str] = []
    words = [token.text for token in tokens_of(text.replace(",", ""))]
    place = 0
    while place < len(words):
        value, taken = _whole(words[place:])
        if not taken:
            place += 1
            continue
        place += taken
        fraction = ""
        # "2.5" comes as three tokens only when it is written; "two point five" as three words.
        if place < len(words) and words[place] == "point":
            fraction, taken = _fraction(words[place + 1 :])
            place += taken + 1 if taken else 0
        found.append(f"{value}.{fraction}" if fraction else str(value))
    if len(found) == 2 and f"{found[0]}.{found[1]}" in text:
        return f"{found[0]}.{found[1]}"
    return found[0] if len(found) == 1 else None


def _whole(words: Sequence[str]) -> tuple[int, int]:
    """A whole number at the beginning of words, and how many it takes; (0, 0) where there is none."""
    if words and words[0].isdecimal():
        return int(words[0][:15]), 1
    total = part = taken = 0
    last = ""
    for place, word in enumerate(words):
        kind = _kind(word)
        if word == "a" and place + 1 < len(words) and words[place + 1] in ("hundred", *_SCALES) and not taken:
            part = 1
        elif kind == "unit" and last in ("", "ten", "hundred", "scale", "and") and not (last == "ten" and part % 10):
            part += _UNITS[word]
        elif kind == "ten" and last in ("", "hundred", "scale", "and"):
            part += _BY_TEN[word]
        elif word == "hundred" and last in ("unit", "ten", "a") and part:
            part, kind = part * 100, "hundred"
        elif word in _SCALES and part:
            total, part, kind = total + part * _SCALES[word], 0, "scale"
        elif word == "and" and last in ("hundred", "scale") and _kind(_at(words, place + 1)) in ("unit", "ten"):
            kind = "and"
        else:
            break
        last, taken = kind or word, place + 1
    return total + part, taken


def _at(words: Sequence[str], place: int) -> str:
    return words[place] if place < len(words) else ""


def _kind(word: str) -> str:
    return "unit" if word in _UNITS else "ten" if word in _BY_TEN else ""


def _fraction(words: Sequence[str]) -> tuple[str, int]:
    digits = ""
    for place, word in enumerate(words):
        if word.isdecimal():
            digits += word
        elif word in _UNITS and _UNITS[word] < 10:
            digits += str(_UNITS[word])
        else:
            return digits, place
    return digits, len(words)


def day_of(words: Sequence[str], month_at: int) -> int | None:
    """The day of the month named at ``words[month_at]``: "june fifth", "the fifth of june", "june 5"."""
    before = [word for word in words[:month_at] if word not in ("of", "the")][-2:]
    after = [word for word in words[month_at + 1 :] if word != "the"][:2]
    for candidate in (after, before, after[:1], before[-1:]):
        day = _day(candidate)
        if day is not None and 1 <= day <= _LENGTHS[MONTHS[words[month_at]] - 1]:
            return day
    return None


def _day(words: Sequence[str]) -> int | None:
    if len(words) == 2 and words[0] in _BY_TEN and _BY_TEN[words[0]] <= 30:
        unit = _ORDINAL.get(words[1], _UNITS.get(words[1], 0))
        return _BY_TEN[words[0]] + unit if 1 <= unit <= 9 else None
    if len(words) == 2 and words[0].isdecimal() and words[1] in _SUFFIXES:
        return int(words[0][:4])
    if len(words) != 1:
        return None
    word = words[0]
    return int(word[:4]) if word.isdecimal() else _ORDINAL.get(word, _UNITS.get(word, _BY_TEN.get(word)))


def spelled(text: str) -> str:
    """Digits one by one, as words."""
    return " ".join(DIGITS[int(sign)] if sign in "0123456789" else sign for sign in text if not sign.isspace())


def spelled_number(digits: str) -> str:
    """A telephone number, in groups that people can write down."""
    sizes = {10: (3, 3, 4), 7: (3, 4), 11: (1, 3, 3, 4)}.get(len(digits), (len(digits),))
    groups, place = [], 0
    for size in sizes:
        groups.append(spelled(digits[place : place + size]))
        place += size
    return ", ".join(groups)


def spoken_date(value: str) -> str:
    """``friday`` as "Friday", ``06-05`` as "June fifth"."""
    if value in WEEKDAYS:
        return value.capitalize()
    month, _, day = value.partition("-")
    if not (month.isdecimal() and day.isdecimal() and 1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return value
    return f"{_NAMES[int(month) - 1].capitalize()} {_ordinal(int(day))}"


def _ordinal(day: int) -> str:
    if day < 20:
        return _ORDINALS[day]
    if day % 10 == 0:
        return "twentieth" if day == 20 else "thirtieth"
    return f"{_TENS[day // 10 - 2]} {_ORDINALS[day % 10]}"


def spoken_email(value: str) -> str:
    """An address as it is read out."""
    names = {"@": " at ", ".": " dot ", "_": " underscore ", "-": " dash ", "+": " plus "}
    return " ".join("".join(names.get(sign, sign) for sign in value).split())
