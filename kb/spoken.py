"""Written text to the words a person says: numbers, times, prices, dates, e-mail and web addresses.

One normaliser serves the recogniser's vocabulary and the lexical side of retrieval, so "9 AM", "nine a.m." and what
the recogniser writes are the same words.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ((1_000_000_000, "billion"), (1_000_000, "million"), (1_000, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
_CURRENCIES = {
    "$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny"), "¥": ("yen", ""),
}  # fmt: skip
_ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "st": "street", "ave": "avenue", "rd": "road", "blvd": "boulevard",
    "no": "no", "vs": "versus", "approx": "approximately", "tel": "telephone", "dept": "department", "etc": "et cetera",
    "e.g": "for example", "i.e": "that is", "km": "kilometers", "kg": "kilograms", "cm": "centimeters",
    "mm": "millimeters", "lb": "pounds", "lbs": "pounds", "hr": "hour", "hrs": "hours", "min": "minutes",
    "mins": "minutes", "mph": "miles per hour", "ft": "feet", "oz": "ounces", "mon": "monday", "tue": "tuesday",
    "wed": "wednesday", "thu": "thursday", "fri": "friday", "sat": "saturday", "sun": "sunday",
}  # fmt: skip
# Only a number before them makes these units; alone they are words or names.
_UNITS = frozenset("km kg cm mm lb lbs hr hrs min mins mph ft oz".split())
# Short forms of days are only read as days between digits, dashes or other days; "sun" and "sat" are words too.
_DAYS = frozenset("mon tue wed thu fri sat sun".split())
_SYMBOLS = {"&": "and", "+": "plus", "%": "percent", "@": "at", "#": "number", "=": "equals"}


def cardinal(number: int) -> str:
    """``1250`` -> ``one thousand two hundred fifty``; digits one by one from a trillion on."""
    if number < 0:
        return "minus " + cardinal(-number)
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f" {_ONES[number % 10]}" if number % 10 else "")
    if number >= 10**12:
        return digits(str(number))
    size, name = next(scale for scale in _SCALES if number >= scale[0])
    rest = number % size
    return f"{cardinal(number // size)} {name}" + (f" {cardinal(rest)}" if rest else "")


def ordinal(number: int) -> str:
    """``21`` -> ``twenty first``."""
    *head, last = cardinal(number).split()
    regular = (last[:-1] + "ie" if last.endswith("y") else last) + "th"
    return " ".join([*head, _ORDINALS.get(last, regular)])


def digits(text: str) -> str:
    """Digits one by one."""
    return " ".join(_ONES[int(character)] for character in text if character.isdigit())


def _year(number: int) -> str:
    if 2000 <= number < 2010:
        return cardinal(number)
    head, tail = divmod(number, 100)
    return f"{cardinal(head)} " + ("hundred" if not tail else f"oh {cardinal(tail)}" if tail < 10 else cardinal(tail))


def _integer(text: str) -> int:
    return int(text.replace(",", ""))


def _price(match: re.Match[str]) -> str:
    name, small = _CURRENCIES[match["currency"]]
    whole, cents = _integer(match["whole"]), int((match["cents"] or "0").ljust(2, "0"))
    parts = []
    if whole or not cents:
        parts.append(f"{cardinal(whole)} {name}{'' if whole == 1 or not small else 's'}")
    if cents:
        plural = "pence" if small == "penny" else f"{small}s"
        parts.append(f"{cardinal(cents)} {small if cents == 1 else plural}")
    return f" {' and '.join(parts)} "


def _clock(match: re.Match[str]) -> str:
    hour, minute = int(match["hour"]), int(match["minute"] or 0)
    half = f"{match['half'].lower()}.m." if match["half"] else ""
    if hour > 24 or minute > 59:
        return match.group()
    if hour > 12:
        hour, half = (hour - 12, "p.m.") if hour < 24 else (12, "a.m.")
    exact = "" if minute else "o'clock"
    told = f"oh {cardinal(minute)}" if 0 < minute < 10 else cardinal(minute) if minute else ""
    return f" {cardinal(hour or 12)} {told} {half or exact} "


def _number(match: re.Match[str]) -> str:
    whole, fraction = match["whole"], match["fraction"]
    if fraction:
        return f" {cardinal(_integer(whole))} point {digits(fraction)} "
    if len(whole) > 1 and whole.startswith("0"):
        return f" {digits(whole)} "
    if len(whole) == 4 and whole[:2] in ("19", "20"):
        return f" {_year(int(whole))} "
    return f" {cardinal(_integer(whole))} "


def _address(match: re.Match[str]) -> str:
    text = re.sub(r"^(https?://)?", "", match.group().rstrip("./"))
    for mark, word in (("@", "at"), (".", "dot"), ("/", "slash"), ("_", "underscore"), ("-", "dash")):
        text = text.replace(mark, f" {word} ")
    return f" {re.sub(r'([0-9]+)', lambda found: digits(found.group()), text)} "


def _abbreviation(match: re.Match[str]) -> str:
    return f" {_ABBREVIATIONS[match.group().lower().rstrip('.')]} "


_Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def _rule(pattern: str, replace: Callable[[re.Match[str]], str]) -> _Rule:
    return re.compile(pattern, re.IGNORECASE), replace


_DAY = "|".join(sorted(_DAYS))
_RULES: tuple[_Rule, ...] = (
    _rule(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", _address),
    _rule(r"\bhttps?://[\w./-]+|\bwww\.[\w./-]+|\b[\w-]+\.(com|org|net|io|edu|gov|co|info)(/[\w./-]*)?\b", _address),
    _rule(r"(?<=\d)\s*[–—]\s*(?=[\d$€£])|(?<=\d)\s*-\s*(?=\d{1,2}(:\d\d)?\s*[ap]\.?m\b)", lambda _: " to "),
    _rule(r"(?<=[ap]\.m\.)\s*[-–—]\s*(?=\d)|(?<=[ap]m)\s*[-–—]\s*(?=\d)", lambda _: " to "),
    _rule(r"(?<=\d:\d\d)\s*-\s*(?=\d{1,2}:\d\d)", lambda _: " to "),
    _rule(rf"\b({_DAY})\b\.?\s*[-–—]\s*({_DAY})\b\.?", lambda found: _day_range(found)),
    _rule(r"\b(?P<hour>\d{1,2})(:(?P<minute>\d\d))?\s*(?P<half>[ap])\.?\s?m\b\.?", _clock),
    _rule(r"\b(?P<hour>\d{1,2}):(?P<minute>\d\d)\b(?P<half>)", _clock),
    _rule(r"(?P<currency>[$€£¥])\s?(?P<whole>\d{1,3}(,\d{3})+|\d+)(\.(?P<cents>\d{1,2}))?(?!\d)", _price),
    _rule(r"(?<!\w)\+?\(?\d{1,4}\)?([ .-]\d{2,4}){1,4}\b(?<=\d{4})", lambda found: f" {digits(found.group())} "),
    _rule(r"\b(\d+)(st|nd|rd|th)\b", lambda found: f" {ordinal(int(found.group(1)))} "),
    _rule(r"\b24/7\b", lambda _: " twenty four seven "),
    _rule(rf"(?<=\d)\s?({'|'.join(sorted(_UNITS, key=len, reverse=True))})\b\.?", lambda found: _unit(found)),
    _rule(r"(?<=\d)\s*-\s*(?=\d)", lambda _: " to "),
    _rule(r"(?P<whole>\d{1,3}(,\d{3})+|\d+)(\.(?P<fraction>\d+))?", _number),
    _rule(r"\b(mr|mrs|dr|st|ave|rd|blvd|vs|approx|tel|dept|etc|e\.g|i\.e)\.(?!\w)", _abbreviation),
    _rule(r"[&+%@#=]", lambda found: f" {_SYMBOLS[found.group()]} "),
)
_WORD = re.compile(r"[ap]\.m\.|[a-z]+(?:'[a-z]+)*'?")


def _day_range(match: re.Match[str]) -> str:
    return f" {_ABBREVIATIONS[match.group(1).lower()]} to {_ABBREVIATIONS[match.group(2).lower()]} "


def _unit(match: re.Match[str]) -> str:
    return f" {_ABBREVIATIONS[match.group().strip().lower().rstrip('.')]} "


def spoken_words(text: str) -> list[str]:
    """Lower-case words as said aloud: letters and apostrophes only, except ``a.m.`` and ``p.m.``."""
    flat = text.replace("’", "'").replace("‘", "'")
    flat = flat.translate(_ACCENTS)
    for pattern, replace in _RULES:
        flat = pattern.sub(replace, flat)
    return [word.strip("'") or word for word in _WORD.findall(flat.lower())]


_ACCENTS = str.maketrans(
    "àáâãäåçèéêëìíîïñòóôõöùúûüýÿÀÁÂÃÄÅÇÈÉÊËÌÍÎÏÑÒÓÔÕÖÙÚÛÜÝ", "aaaaaaceeeeiiiinooooouuuuyyAAAAAACEEEEIIIINOOOOOUUUUY"
)
