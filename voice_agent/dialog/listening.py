"""Judgements on words: is the caller done, is this an interruption, or only a nod or our own echo?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voice_agent.dialog.completeness import Completeness, completeness, words_of
from voice_agent.dialog.policy import TurnPolicy

SURE_DONE = 0.8
SURE_NOT_DONE = 0.3
PAUSES_KEPT = 12
TURNS_TO_LEARN = 3
PAUSE_MARGIN_MS = 120

BACKCHANNELS = frozenset(
    """mhm mm hm hmm uh huh uhhuh um er ah oh okay ok right sure yeah yes yep yup aha alright fine good great nice cool
    wow really exactly perfect i see got it""".split()
)
"""Words that, alone, tell the agent to go on."""

TAKES_THE_TURN = frozenset("stop wait no hello help hey excuse sorry hold cancel goodbye bye".split())
"""Single words that interrupt even when the agent has just said them."""

URGENT = frozenset("stop wait hold cancel help".split())
"""Single words that interrupt however unsure they are: no nod sounds like them, and going on is the worse mistake."""

NOD_MS = 600
REQUEST_MS = 1300
NOD_CONFIDENCE = 0.25
"""Speech over the agent of up to ``NOD_MS`` is mostly a nod, which a recogniser that does not know it takes for some
word; so its words must be surer by ``NOD_CONFIDENCE``. From ``REQUEST_MS`` on they need not; in between, in proportion.
"""


def judge(text: str, finished: bool | None, complete: float | None, *, sure: bool = True) -> Completeness:
    """The best judgement there is: a filled slot beats the turn model, and a sure turn model beats the words alone.

    Words the recogniser is not sure of say nothing about an end; the answer to them would be to ask again, and that can
    wait for what else the caller says.

    Args:
        text: the caller's words of this turn.
        finished: whether what was asked for was answered; None: nothing was asked.
        complete: the turn model's probability that the caller is done; None: there is no model.
        sure: whether the recogniser is sure of the words.
    """
    if finished is not None:
        return Completeness.COMPLETE if finished else Completeness.INCOMPLETE
    by_words = completeness(text) if sure else Completeness.INCOMPLETE
    if complete is None or by_words is Completeness.INCOMPLETE:
        return by_words
    if complete >= SURE_DONE:
        return Completeness.COMPLETE
    return Completeness.INCOMPLETE if complete <= SURE_NOT_DONE else by_words


def endpoint_silence_ms(judged: Completeness | None, pace: Pace, policy: TurnPolicy) -> int:
    """Silence after the last loud frame that ends the turn (None: no words yet)."""
    if judged is None:
        return pace.fit(policy.endpoint_ms, policy)
    if judged is Completeness.INCOMPLETE:
        return policy.endpoint_long_ms
    if judged is Completeness.SPELLING:
        return pace.between_figures(policy)
    return pace.fit(policy.endpoint_short_ms if judged is Completeness.COMPLETE else policy.endpoint_ms, policy)


def surprises(judged: Completeness | None) -> bool:
    """Did a pause inside a turn come where the words did not announce it? Only such a one says how a caller speaks."""
    return judged not in (Completeness.INCOMPLETE, Completeness.SPELLING)


@dataclass(frozen=True, slots=True)
class Pace:
    """What a caller's own pauses teach.

    ``pauses_ms``: those that surprised, newest last; ``unbroken_turns``: turns in a row without one; ``in_turn_ms``:
    the longest of any kind in this turn.
    """

    pauses_ms: Sequence[int] = ()
    unbroken_turns: int = 0
    in_turn_ms: int = 0

    def fit(self, silence_ms: int, policy: TurnPolicy) -> int:
        """Longer at once for a caller who was cut off or nearly; shorter for one who has not paused for some turns."""
        if self.unbroken_turns >= TURNS_TO_LEARN:
            return max(policy.endpoint_min_ms, silence_ms * 17 // 20)
        if self.pauses_ms:
            usual = sorted(self.pauses_ms)[(len(self.pauses_ms) * 9 - 1) // 10]
            return max(silence_ms, min(usual + PAUSE_MARGIN_MS, policy.endpoint_long_ms))
        return silence_ms

    def between_figures(self, policy: TurnPolicy) -> int:
        """Figures come in groups at a beat of their own: half as long again as the longest pause so far."""
        beat_ms = self.in_turn_ms * 3 // 2 if self.in_turn_ms else policy.endpoint_long_ms * 3 // 4
        return min(policy.endpoint_long_ms, max(policy.endpoint_ms, beat_ms + policy.endpoint_short_ms // 2))


def is_backchannel(text: str) -> bool:
    """Only nods: "mhm", "okay", "yeah right"."""
    words = words_of(text)
    return bool(words) and len(words) <= 3 and all(word in BACKCHANNELS for word in words)


def is_echo(text: str, spoken: str) -> bool:
    """Is this our own voice coming back? Nearly all of its words stand in this order in what was just spoken."""
    words, told = words_of(text), words_of(spoken)
    if not words or not told:
        return False
    if len(words) == 1:
        return words[0] in told and words[0] not in TAKES_THE_TURN
    position, found = 0, 0
    for word in words:
        try:
            position = told.index(word, position) + 1
        except ValueError:
            continue
        found += 1
    return found >= max(2, -(-len(words) * 4 // 5))


def is_urgent(text: str) -> bool:
    """One word that must be obeyed at once: "stop"."""
    words = words_of(text)
    return len(words) == 1 and words[0] in URGENT


def sure_enough(confidence: float, spoke_ms: int, policy: TurnPolicy) -> bool:
    """Is what was recognised of ``spoke_ms`` of speech over the agent more than a nod taken for words?"""
    shortness = (REQUEST_MS - min(max(spoke_ms, NOD_MS), REQUEST_MS)) / (REQUEST_MS - NOD_MS)
    return confidence >= min(policy.barge_in_min_confidence + NOD_CONFIDENCE * shortness, 1.0)


def interrupts(text: str, confidence: float, spoke_ms: int, spoken: str, policy: TurnPolicy) -> bool:
    """Do these words, said in ``spoke_ms`` over the agent's voice that said ``spoken``, take the turn?"""
    if is_urgent(text):
        return True
    if not words_of(text) or not sure_enough(confidence, spoke_ms, policy):
        return False
    return not is_backchannel(text) and not is_echo(text, spoken)
