"""Small talk by rule: what callers say that no document answers.

An utterance counts only when *all* of its words belong to known phrases and fillers, so a question is never taken for
small talk. The table is English, as are the embedded recogniser and voices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

GOODBYE, THANKS, GREETING, REPEAT, YES, NO = "goodbye", "thanks", "greeting", "repeat", "yes", "no"

PHRASES: Mapping[str, Sequence[str]] = {
    GOODBYE: (
        "goodbye",
        "good bye",
        "bye",
        "bye bye",
        "that's all",
        "that is all",
        "that was all",
        "that's all i needed",
        "that's it",
        "that is it",
        "that is everything",
        "nothing else",
        "have a nice day",
        "have a good day",
        "see you",
        "see you later",
        "talk to you later",
        "hang up",
    ),
    REPEAT: (
        "repeat that",
        "say that again",
        "say it again",
        "repeat",
        "again",
        "what did you say",
        "what was that",
        "i did not get that",
        "i did not hear you",
        "i didn't get that",
        "i don't understand",
        "i did not understand",
        "pardon",
        "excuse me",
    ),
    THANKS: ("thank you", "thanks", "many thanks", "for your help", "thank you for calling"),
    GREETING: ("hello", "hi", "hey", "hi there", "good morning", "good afternoon", "good evening", "hello there"),
    YES: ("yes", "yeah", "yep", "sure", "of course", "exactly", "that is right", "that's right", "correct"),
    NO: ("no", "nope", "not really", "no that's not it"),
}
FILLERS: Sequence[str] = (
    "um",
    "uh",
    "hm",
    "hmm",
    "mhm",
    "oh",
    "ah",
    "well",
    "so",
    "and",
    "okay",
    "ok",
    "all right",
    "alright",
    "right",
    "great",
    "perfect",
    "good",
    "fine",
    "please",
    "sorry",
    "a lot",
    "very much",
    "so much",
    "can you",
    "could you",
    "can you please",
    "would you",
    "i see",
    "got it",
    "now",
    "then",
    "me",
    "for me",
)
# Who says more than one thing means the one that comes first here: "no, thank you, goodbye" ends the call.
_ORDER = (GOODBYE, REPEAT, NO, YES, THANKS, GREETING)
# These end a call even when the recogniser is not sure of the words before them.
_LAST_WORDS = (("goodbye",), ("good", "bye"), ("bye", "bye"), ("bye",))
_SHORT = 6
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def _table() -> dict[tuple[str, ...], str]:
    phrases = {tuple(phrase.split()): intent for intent, said in PHRASES.items() for phrase in said}
    return {tuple(filler.split()): "" for filler in FILLERS} | phrases


_TABLE = _table()
_LONGEST = max(map(len, _TABLE))


def words(text: str) -> tuple[str, ...]:
    """Lower-case words without punctuation."""
    return tuple(_WORD.findall(text.lower().replace("’", "'")))


def intent_of(text: str) -> str | None:
    """The intent of an utterance that is small talk throughout; None for anything else.

    ``goodbye``, ``thanks``, ``greeting``, ``repeat``, ``yes`` or ``no``; an empty string when there are only fillers.
    """
    said = words(text)
    if not said:
        return None
    found = _covered(said)
    if found is None:
        return GOODBYE if len(said) <= _SHORT and any(said[-len(last) :] == last for last in _LAST_WORDS) else None
    return next((intent for intent in _ORDER if intent in found), "")


def _covered(said: tuple[str, ...]) -> set[str] | None:
    """Intents of the phrases the words fall into, longest first; None when a word is left over."""
    found: set[str] = set()
    at = 0
    while at < len(said):
        for length in range(min(_LONGEST, len(said) - at), 0, -1):
            intent = _TABLE.get(said[at : at + length])
            if intent is not None:
                found.add(intent)
                at += length
                break
        else:
            return None
    return found
