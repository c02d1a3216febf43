"""Do the caller's words look like a finished turn? A pure heuristic on English as it is spoken to a telephone."""

from __future__ import annotations

import re
from enum import Enum

_WORD = re.compile(r"[a-z0-9']+")
_SPOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


class Completeness(Enum):
    """What the words say. ``SPELLING``: figures or letters one by one, of which more may come."""

    COMPLETE = "complete"
    OPEN = "open"
    SPELLING = "spelling"
    INCOMPLETE = "incomplete"


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return _WORD.findall(text.lower())


def same_words(text: str, other: str) -> bool:
    """Is it the same when spoken? Case, white space and punctuation do not count; in any script."""
    return _SPOKEN.findall(text.casefold()) == _SPOKEN.findall(other.casefold())


_UNFINISHED = frozenset(
    """a an the and or but so because if unless when whether that which who to of in on at for with from about into by
    until till since during between through without within under near per as is are was were am be been my your our
    their his her its this these those can could would will shall should may might must do does did i'm i'll i'd i've
    it's that's what's you're we're what where how um uh er like than then not no any every each another some very
    really quite too such several also maybe well next last few many much more most""".split()
)
"""A turn that ends on one of these is rarely over."""

_ENDS_A_TURN = frozenset("no what how where well like more much that last some".split())
"""Of these, words that are a turn when they stand alone, and may end one (see ``_MAY_END``)."""

_MAY_END = re.compile(
    r"(?:\b(?:how|that|so|very|too|any|some|no|one|once|there|thank you very) (?:much|many|more)"
    r"|\bat last|\blike (?:this|that)|\bdo (?:this|that)|\babout (?:this|that)|\bas well|\bthe most|\bit'?s? like"
    r"|\bof (?:this|that|some)|\bwith (?:this|that)|\bis (?:this|that))$"
)

_NEEDS_AN_OBJECT = frozenset("want need have buy find bring give make send".split())
_MAY_NEED_ONE = frozenset(
    "pay rent renting order ordering return cancel book know ask repair fix sell use change check get".split()
)
_ASKED_FOR = frozenset("what which who whom how where when".split())
_AUXILIARIES = frozenset("do does did can could would will shall should may might must have has had".split())
_PRONOUNS = frozenset("i you we they he she it".split())
_ARTICLES = frozenset("a an the my your our this that".split())

_SPELLED = re.compile(
    r"^(?:[a-z]|\d+|zero|oh|one|two|three|four|five|six|seven|eight|nine|ten|double|triple|dash|dot|at)$"
)
_WORDS_TOO = frozenset("a i at".split())
_ANNOUNCES_SPELLING = frozenset("number numbers code zip extension postcode serial spelled digits is it's".split())
_NUMBER = re.compile(r"\b(?:number|code|zip|extension|postcode|spelled|digits)\b")
_ANNOUNCES_MORE = re.compile(
    r"(?:\b(?:have|got|had|ask(?: you)?) (?:a|an|another|one more) (?:\w+ )?(?:question|problem|issue|request)s?"
    r"|\bwas wondering|\b(?:wanted|like|want) to (?:ask|know)|\bask you something|\bone more thing"
    r"|\b(?:could|can) you tell me|\bdo you know)$"
)
_NAMED = re.compile(r"\bname(?: is|'s)?(?: \w+){0,1}$")


def completeness(text: str) -> Completeness:
    """Trailing function words, verbs without their object, announcements and spelling are unfinished."""
    words = words_of(text)
    if not words or _unfinished(words):
        return Completeness.INCOMPLETE
    if _spelling(words):
        return Completeness.SPELLING
    return Completeness.OPEN if len(words) < 3 or _perhaps_unfinished(words) else Completeness.COMPLETE


def _unfinished(words: list[str]) -> bool:
    text, last, alone = " ".join(words), words[-1], len(words) == 1
    if _ANNOUNCES_MORE.search(text):
        return True
    if last in _UNFINISHED:
        return not (alone and last in _ENDS_A_TURN) and not _MAY_END.search(text)
    if alone:
        return False
    if last in _PRONOUNS and words[-2] in _AUXILIARIES:
        return True  # "what time do you"
    return last in _NEEDS_AN_OBJECT and words[0] not in _ASKED_FOR


def _perhaps_unfinished(words: list[str]) -> bool:
    if _NAMED.search(" ".join(words)):
        return True
    if len(words) == 3 and words[0] in _AUXILIARIES and words[1] in _PRONOUNS:
        return True  # "can i pay", and perhaps how
    if words[-1] in _MAY_NEED_ONE and words[0] not in _ASKED_FOR:
        return True
    # "how much does the delivery": the verb is to come
    return len(words) >= 4 and words[-3] in ("do", "does", "did") and words[-2] in _ARTICLES


def _spelling(words: list[str]) -> bool:
    if not _SPELLED.match(words[-1]):
        return False
    before = words[-2] if len(words) > 1 else ""
    if not before or (_SPELLED.match(before) and before not in _WORDS_TOO):
        return True
    return before in _ANNOUNCES_SPELLING and bool(_NUMBER.search(" ".join(words)))
