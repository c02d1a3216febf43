"""Judgements on words: is the caller done, is this an interruption, or only a nod or our own echo?"""

from __future__ import annotations

import re
from enum import Enum

from voice_agent.dialog.policy import TurnPolicy

_WORD = re.compile(r"[a-z0-9']+")

BACKCHANNELS = frozenset(
    """mhm mm hm hmm uh huh uhhuh um er ah oh okay ok right sure yeah yes yep yup aha alright fine good great nice cool
    i see got it""".split()
)
"""Words that, alone, tell the agent to go on."""

_UNFINISHED = frozenset(
    """a an the and or but so because if when that which who to of in on at for with from about into by as is are was
    were am be my your our their his her its this these those can could would will shall should may might must do does
    did i'm you're what where how um uh er like than then not no""".split()
)
"""A turn that ends on one of these is rarely over. (``not`` and ``no`` only when more words stand before.)"""

_SPELLED = re.compile(
    r"^(?:[a-z]|\d+|zero|oh|one|two|three|four|five|six|seven|eight|nine|ten|double|triple|dash|dot|at)$"
)


class Completeness(Enum):
    """Do the words look like a finished turn?"""

    COMPLETE = "complete"
    OPEN = "open"
    INCOMPLETE = "incomplete"


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return _WORD.findall(text.lower())


def completeness(text: str) -> Completeness:
    """A pure heuristic on words: trailing function words and spelling are unfinished, longer sentences are finished."""
    words = words_of(text)
    if not words:
        return Completeness.INCOMPLETE
    if words[-1] in _UNFINISHED and not (len(words) == 1 and words[-1] in ("no", "what", "how", "where")):
        return Completeness.INCOMPLETE
    if _SPELLED.match(words[-1]) and (len(words) == 1 or _SPELLED.match(words[-2])):
        return Completeness.INCOMPLETE
    return Completeness.COMPLETE if len(words) >= 3 else Completeness.OPEN


def endpoint_silence_ms(text: str | None, policy: TurnPolicy) -> int:
    """Silence after the last loud frame that ends the turn, for the words known so far (None: not known yet)."""
    if text is None:
        return policy.endpoint_ms
    return {
        Completeness.COMPLETE: policy.endpoint_short_ms,
        Completeness.OPEN: policy.endpoint_ms,
        Completeness.INCOMPLETE: policy.endpoint_long_ms,
    }[completeness(text)]


def is_backchannel(text: str) -> bool:
    """Only nods: "mhm", "okay", "yeah right"."""
    words = words_of(text)
    return bool(words) and len(words) <= 3 and all(word in BACKCHANNELS for word in words)


def is_echo(text: str, spoken: str) -> bool:
    """Is this our own voice coming back? Nearly all of its words stand in this order in what was just spoken."""
    words, told = words_of(text), words_of(spoken)
    if len(words) < 2 or not told:
        return False
    position, found = 0, 0
    for word in words:
        try:
            position = told.index(word, position) + 1
        except ValueError:
            continue
        found += 1
    return found >= max(2, -(-len(words) * 4 // 5))


def interrupts(text: str, confidence: float, spoken: str, policy: TurnPolicy) -> bool:
    """Do these words, said over the agent's voice, take the turn?"""
    if not words_of(text) or confidence < policy.barge_in_min_confidence:
        return False
    return not is_backchannel(text) and not is_echo(text, spoken)
