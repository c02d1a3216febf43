"""Split running text into sentences that can be spoken on their own."""

from __future__ import annotations

import re

# A full stop after these ends no sentence, whatever follows.
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st ave rd blvd no nr vs approx dept est inc ltd co corp fig e.g i.e etc tel ext u.s".split()
)
_CLOCK = frozenset({"a.m", "p.m"})
_DAYS = frozenset("monday tuesday wednesday thursday friday saturday sunday".split())
_BREAK = re.compile(r"""([.!?…]+["'”’)\]]*)\s+(?=["'“‘(\[]*[A-Z0-9])""")
_LAST_WORD = re.compile(r"[\w.]+$")
_FIRST_WORD = re.compile(r"\w+")


def split_sentences(text: str) -> tuple[str, ...]:
    """Sentences of a paragraph, white space normalised.

    A full stop ends a sentence when a capital or a digit follows, unless it belongs to an abbreviation, an initial,
    or a time of day that runs on ("9 a.m. Monday").
    """
    flat = " ".join(text.split())
    sentences: list[str] = []
    start = 0
    for match in _BREAK.finditer(flat):
        if match.group(1).startswith(".") and _runs_on(flat[start : match.start()], flat[match.end() :]):
            continue
        sentences.append(flat[start : match.end(1)])
        start = match.end()
    if flat[start:]:
        sentences.append(flat[start:])
    return tuple(sentences)


def _runs_on(before: str, after: str) -> bool:
    """Whether the full stop between the two texts belongs to a word instead of ending a sentence."""
    found = _LAST_WORD.search(before)
    if found is None:
        return False
    last = found.group().lower()
    if last in _CLOCK:
        following = _FIRST_WORD.search(after)
        return following is not None and following.group().lower() in _DAYS
    return last in _ABBREVIATIONS or (len(last) == 1 and last.isalpha() and last != "i")


def as_sentence(text: str) -> str:
    """The text with a full stop at its end when it has no closing mark; empty stays empty."""
    flat = " ".join(text.split()).rstrip(";,")
    if not flat or flat[-1] in ".!?…:" or flat[-2:] in ('."', ".”", "!”", "?”"):
        return flat
    return flat + "."
