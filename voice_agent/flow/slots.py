"""What callers say, as values of slots: spoken or keyed, checked, or refused.

A value is text: digits as ``412207``, yes_no as ``yes`` or ``no``, a number as ``12`` or ``0.5``, a date as a weekday
(``friday``) or as month and day (``06-05``), an e-mail address in lower case. Days like "tomorrow" are not known here:
what they mean depends on today.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from voice_agent.flow.definition import Choice, Kind, SlotType
from voice_agent.flow.spoken import MONTHS, WEEKDAYS, day_of, number_of
from voice_agent.policy.digits import runs_of
from voice_agent.policy.rules import Phrase
from voice_agent.policy.tokens import tokens_of

LONGEST: Final = 500
"""Characters of a value; a caller's message rarely has more."""

YES: Final = frozenset("yes yeah yep yup yea sure correct right exactly absolutely definitely okay ok fine".split())
NO: Final = frozenset("no nope nah not wrong incorrect never isn't don't doesn't wasn't".split())
_FILLERS: Final = frozenset("uh uhm um er erm ah hm hmm well please the a it's it is that's my".split())
_EMAIL = re.compile(r"[a-z0-9][a-z0-9._%+-]*@[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}")
_SIGNS: Final = {"at": "@", "dot": ".", "point": ".", "underscore": "_", "dash": "-", "hyphen": "-", "plus": "+"}
_ORDINARY: Final = re.compile(r"[a-z0-9'.@_+%-]+")


def words_of(text: str) -> Phrase:
    """Words in lower case, and runs of digits."""
    return tuple(token.text for token in tokens_of(text))


def contains(words: Phrase, phrase: Phrase) -> bool:
    """Does a phrase stand in these words, in one piece?"""
    size = len(phrase)
    return any(words[place : place + size] == phrase for place in range(len(words) - size + 1))


def only(words: Phrase, phrase: Phrase) -> bool:
    """Is the phrase all that was said, but for fillers?"""
    core = tuple(word for word in words if word not in _FILLERS)
    return core == tuple(word for word in phrase if word not in _FILLERS) and bool(core)


def of_words(slot: SlotType, text: str) -> str | None:
    """The value that words give a slot; None when they give none."""
    return _BY_WORDS[slot.kind](slot, text[:LONGEST])


def of_keys(slot: SlotType, digits: str) -> str | None:
    """The value that keys give a slot; None when they give none."""
    if slot.kind in ("digits", "phone"):
        return digits if digits.isdecimal() and slot.shortest <= len(digits) <= slot.longest else None
    if slot.kind == "number":
        # A star is how a point is keyed.
        return _in_range(slot, digits.replace("*", "."))
    if slot.kind == "yes_no":
        return {"1": "yes", "2": "no"}.get(digits)
    if slot.kind == "choice":
        return next((choice.value for choice in slot.choices if choice.key and choice.key == digits), None)
    return None


def keys_wanted(slot: SlotType) -> int:
    """How many keys fill a slot; 0: until a pause or ``#``."""
    if slot.kind in ("digits", "phone"):
        return slot.longest if slot.shortest == slot.longest else 0
    return 1 if slot.kind in ("yes_no", "choice") else 0


def finished(slot: SlotType, text: str) -> bool | None:
    """True: the text fills the slot; False: it is visibly the beginning of what does; None: it cannot be told."""
    if slot.kind == "text" or not text.strip():
        return None
    if slot.kind in ("digits", "phone"):
        return _digits_finished(slot, text)
    if of_words(slot, text) is not None:
        # More may follow a number: "one hundred ... and five".
        return None if slot.kind == "number" else True
    if slot.kind == "email" and any(word in ("at", "dot") for word in words_of(text)):
        return False
    return None


def chosen(choices: Sequence[Choice], words: Phrase) -> str | None:
    """The value whose longest phrase stands in the words; None when none does or two values are named alike."""
    best: dict[str, int] = {}
    for choice in choices:
        sizes = [len(phrase) for phrase in choice.phrases if contains(words, phrase)]
        if sizes:
            best[choice.value] = max(sizes)
    longest = [value for value, size in best.items() if size == max(best.values())]
    return longest[0] if len(longest) == 1 else None


def _digits_finished(slot: SlotType, text: str) -> bool | None:
    if of_words(slot, text) is not None:
        usual = slot.longest if slot.kind == "digits" else 10
        return True if len(_all_digits(text)) >= min(usual, slot.longest) else None
    spoken = len(_all_digits(text))
    return False if 0 < spoken < slot.shortest else None


def _runs(text: str) -> list[str]:
    tokens = tokens_of(text)
    return ["".join(group.digits for group in run if not group.amount) for run in runs_of(text, tokens)]


def _all_digits(text: str) -> str:
    return "".join(_runs(text))


def _digits(slot: SlotType, text: str) -> str | None:
    """The last run that fits, so that "four one, no, four two" is four two; else all there are together."""
    for digits in (*reversed(_runs(text)), _all_digits(text)):
        if slot.shortest <= len(digits) <= slot.longest:
            return digits
    return None


def _yes_no(_: SlotType, text: str) -> str | None:
    words = [word for word in words_of(text) if word not in _FILLERS]
    if words[:1] == ["yes"] or words[:1] == ["no"]:
        return words[0]
    no, yes = NO.intersection(words), YES.intersection(words)
    if no & {"not", "isn't", "wrong", "incorrect"}:
        return "no"
    return None if bool(no) == bool(yes) else "no" if no else "yes"


def _number(slot: SlotType, text: str) -> str | None:
    return _in_range(slot, number_of(text) or "")


def _in_range(slot: SlotType, written: str) -> str | None:
    try:
        value = float(written)
    except ValueError:
        return None
    low = slot.low if slot.low is not None else -1e12
    high = slot.high if slot.high is not None else 1e12
    return f"{value:.12g}" if low <= value <= high else None


def _date(_: SlotType, text: str) -> str | None:
    words = words_of(text)
    weekdays = [day for day in WEEKDAYS if day in words]
    months = [place for place, word in enumerate(words) if word in MONTHS]
    if len(months) == 1:
        day = day_of(words, months[0])
        return None if day is None else f"{MONTHS[words[months[0]]]:02}-{day:02}"
    return weekdays[0] if len(weekdays) == 1 and not months else None


def _choice(slot: SlotType, text: str) -> str | None:
    return chosen(slot.choices, words_of(text))


def _text(_: SlotType, text: str) -> str | None:
    words = [word for word in words_of(text) if word not in _FILLERS]
    return " ".join(text.split()) if words else None


def _email(_: SlotType, text: str) -> str | None:
    words = [word.rstrip(".,") for word in _ORDINARY.findall(text.lower())]
    # Words are joined round the signs; what stands before the last gap is talk ("my address is ...").
    joined = "".join(_SIGNS.get(word, f" {word}") for word in words)
    joined = re.sub(r"(?<=[@._+-]) ", "", joined)
    name, at, _rest = joined.partition("@")
    # A name spelled letter by letter is one name.
    spelled = re.search(r"(?:(?<=\s)|^)(?:[a-z0-9] )+[a-z0-9]+$", name) if at else None
    if spelled is not None:
        joined = joined.replace(spelled[0], spelled[0].replace(" ", ""), 1)
    found = _EMAIL.search(joined)
    return found[0] if found is not None else None


_BY_WORDS: Final[dict[Kind, Callable[[SlotType, str], str | None]]] = {
    "digits": _digits,
    "phone": _digits,
    "yes_no": _yes_no,
    "number": _number,
    "date": _date,
    "choice": _choice,
    "text": _text,
    "email": _email,
}
