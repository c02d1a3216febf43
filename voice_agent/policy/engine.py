"""Runs the rules of a policy on what is heard, about to be said, and kept. Pure; a clock may be handed in.

Nothing here waits or fails on a text. A rule that takes longer than its budget is not cut short and not skipped: it is
counted, and reported once when it does so again and again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar

from voice_agent.policy.detect import DETECTORS, Private, bare, find, hide
from voice_agent.policy.phrases import PhraseTree
from voice_agent.policy.reading import Reading
from voice_agent.policy.rules import (
    Abuse,
    Disclosure,
    Escalate,
    Failures,
    ForbiddenSpeech,
    ForbiddenTopic,
    Match,
    PolicySet,
    Redact,
    Rule,
    Where,
)
from voice_agent.policy.tokens import clean, mask

ABUSE = "abuse"
FAILURES = "failures"
"""Names of consecutive counters."""

OVERRUNS = 3
"""A rule that is over its budget this many times in a row is reported."""

_REMEMBERED = 128
_MATCHED = TypeVar("_MATCHED")

Matching = Abuse | ForbiddenTopic | Escalate | ForbiddenSpeech
"""Rules that look for phrases and patterns."""


@dataclass(frozen=True, slots=True)
class PolicyAction:
    """What a rule wants done. ``say`` is spoken first; ``target`` is where a transfer goes."""

    kind: Literal["say", "end_call", "transfer"]
    say: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules make of a text.

    Attributes:
        text: as it may be used: private data masked for the model, or the clause to be spoken (empty: none).
        action: what is to be done instead of going on; None: go on. Of a clause: the reply ends with ``text``.
        findings: ids of the rules that matched.
        counts: the consecutive counters after this.
    """

    text: str
    action: PolicyAction | None = None
    findings: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)


def written(text: str, found: Iterable[Private], name: Callable[[str], str]) -> str:
    """The text with what was found, in order, replaced by ``name`` of its kind."""
    parts, place = list[str](), 0
    for start, end, kind in found:
        parts += [text[place:start], name(kind)]
        place = end
    return "".join((*parts, text[place:]))


@dataclass(slots=True)
class RuleStatistics:
    """How a rule did. Times in ms; 0 without a clock. ``late``: over its budget ``OVERRUNS`` times in a row."""

    budget_ms: float
    runs: int = 0
    total_ms: float = 0.0
    worst_ms: float = 0.0
    overruns: int = 0
    in_a_row: int = 0
    late: bool = False

    def took(self, spent_ms: float) -> bool:
        """Count a run; True when the rule has just become late."""
        self.runs += 1
        self.total_ms += spent_ms
        self.worst_ms = max(self.worst_ms, spent_ms)
        if spent_ms <= self.budget_ms:
            self.in_a_row = 0
            self.late = False
            return False
        self.overruns += 1
        self.in_a_row += 1
        newly = self.in_a_row >= OVERRUNS and not self.late
        self.late = self.late or newly
        return newly


class _Matcher:
    """Phrases and patterns of a rule, ready to search."""

    def __init__(self, match: Match) -> None:
        self._tree = PhraseTree(match.phrases)
        self._patterns = tuple(re.compile(pattern) for pattern in match.patterns)

    def found(self, reading: Reading) -> bool:
        """Is any of them in the text?"""
        return self._tree.found(reading.tokens) or any(pattern.search(reading.lowered) for pattern in self._patterns)


class PolicyEngine:
    """The rules of one policy. One per process: it keeps nothing of a call.

    Args:
        policies: the rules, in order.
        clock: seconds, ever rising, for the time rules take; None: time is not taken.
    """

    def __init__(self, policies: PolicySet, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._rules = policies.rules
        self._statistics = {rule.id: RuleStatistics(rule.budget_ms) for rule in self._rules}
        self._late: list[str] = []
        self._matchers = {rule.id: _Matcher(rule.match) for rule in self._rules if isinstance(rule, Matching)}
        self._redact = {where: _redacting(self._rules, where) for where in ("stored", "model", "spoken")}
        self._allow = {
            rule.id: frozenset(bare(value) for value in rule.allow) for rule in self._rules if isinstance(rule, Redact)
        }
        self._newest = Reading("")
        self._kept: dict[tuple[str, str], tuple[tuple[Private, ...], tuple[str, ...]]] = {}

    # --- on what is heard ---

    def heard(self, text: str, counts: Mapping[str, int]) -> Verdict:
        """Judge what the caller said. ``counts`` are consecutive counters, by name."""
        reading, after = self._reading(text), dict(counts)
        findings, actions = list[str](), list[PolicyAction]()
        insulted = False
        for rule in self._rules:
            if not isinstance(rule, Abuse | ForbiddenTopic | Escalate) or not self._found(rule, reading):
                continue
            findings.append(rule.id)
            if isinstance(rule, Abuse):
                after[ABUSE] = counts.get(ABUSE, 0) + 1
                insulted = True
            action = _action(rule, after)
            if action is not None:
                actions.append(action)
        if not insulted and after.get(ABUSE):
            after[ABUSE] = 0
        hidden, found_by = self._private(text, "model")
        masked = written(text, hidden, mask)
        return Verdict(masked, actions[0] if actions else None, (*findings, *found_by), after)

    def after_failures(self, counts: Mapping[str, int]) -> PolicyAction | None:
        """What to do when the agent has failed as often in a row as ``counts`` says; None: nothing yet."""
        for rule in self._rules:
            if isinstance(rule, Failures) and self._run(rule, partial(_has_failed, rule, counts)):
                return PolicyAction("transfer", rule.say, rule.to)
        return None

    def for_model(self, text: str) -> str:
        """Text as a language model, or a person who is told what the caller said, may see it."""
        return written(text, self._private(text, "model")[0], mask)

    # --- on what is said ---

    def about_to_say(self, text: str, before: str = "") -> Verdict:
        """Judge a clause before it is spoken. With an action, the reply ends with the verdict's text.

        ``before`` is what the same reply has said already: what must not be said may begin there, and is stopped here.
        """
        for rule in self._rules:
            if isinstance(rule, ForbiddenSpeech) and self._completes(rule, text, before):
                action = PolicyAction("say", rule.replace) if rule.stop else None
                return Verdict(rule.replace, action, (rule.id,))
        hidden, found_by = self._private_after(text, before, "spoken")
        return Verdict(written(text, hidden, _spoken), None, found_by)

    def disclosures(self) -> tuple[str, ...]:
        """What has to be said at the start of a call."""
        return tuple(rule.say for rule in self._rules if isinstance(rule, Disclosure))

    # --- on what is kept ---

    def redact(self, text: str, before: str = "") -> str:
        """Text as it may be stored or logged.

        Args:
            text: what is to be kept.
            before: text that came before it and is kept apart; private data may begin there.
        """
        return written(text, self.private(text, before), mask)

    def private(self, text: str, before: str = "") -> tuple[Private, ...]:
        """What ``redact`` masks in ``text``, in order."""
        return self._private_after(text, before, "stored")[0]

    # --- what it costs ---

    def statistics(self) -> dict[str, RuleStatistics]:
        """How each rule did, by id."""
        return dict(self._statistics)

    def take_late(self) -> list[str]:
        """Ids of rules that have become late since this was last asked: somebody should be told."""
        late, self._late = self._late, []
        return late

    # --- inside ---

    def _reading(self, text: str) -> Reading:
        """A text is judged by several rules, one after the other."""
        text = clean(text)
        if self._newest.text != text:
            self._newest = Reading(text)
        return self._newest

    def _completes(self, rule: ForbiddenSpeech, text: str, before: str) -> bool:
        """Does the rule match the text, or with what was said before it what that alone did not?"""
        if self._found(rule, self._reading(text)):
            return True
        if not before or not self._found(rule, self._reading(f"{before} {text}")):
            return False
        return not self._found(rule, self._reading(before))

    def _found(self, rule: Rule, reading: Reading) -> bool:
        return self._run(rule, partial(self._matchers[rule.id].found, reading))

    def _run(self, rule: Rule, work: Callable[[], _MATCHED]) -> _MATCHED:
        began_s = self._clock() if self._clock else 0.0
        result = work()
        spent_ms = (self._clock() - began_s) * 1000 if self._clock else 0.0
        if self._statistics[rule.id].took(spent_ms):
            self._late.append(rule.id)
        return result

    def _private(self, text: str, where: Where) -> tuple[tuple[Private, ...], tuple[str, ...]]:
        """What the rules for ``where`` find, and which did. The same text comes often: partials, clauses, records."""
        known = self._kept.get((where, text))
        if known is None:
            if len(self._kept) >= _REMEMBERED:
                del self._kept[next(iter(self._kept))]
            known = self._kept[where, text] = self._look(text, where)
        return known

    def _private_after(self, text: str, before: str, where: Where) -> tuple[tuple[Private, ...], tuple[str, ...]]:
        """What of ``text`` is private when it is read behind ``before``."""
        if not before:
            return self._private(text, where)
        offset = len(before) + 1
        found, ids = self._private(f"{before} {text}", where)
        inside = tuple(
            Private(max(0, start - offset), end - offset, kind) for start, end, kind in found if end > offset
        )
        return inside, ids if inside else ()

    def _look(self, text: str, where: Where) -> tuple[tuple[Private, ...], tuple[str, ...]]:
        reading, found, ids = self._reading(text), list[Private](), dict[str, None]()
        again = True
        while again:
            again = False
            for rule in self._redact[where]:
                more = self._run(rule, partial(find, reading, rule.find, self._allow[rule.id]))
                if more:
                    found += more
                    ids[rule.id] = None
                    reading, again = Reading(hide(reading.text, more)), True
        return tuple(sorted(found)), tuple(ids)


def _redacting(rules: tuple[Rule, ...], where: str) -> tuple[Redact, ...]:
    return tuple(rule for rule in rules if isinstance(rule, Redact) and where in rule.where)


def _action(rule: Abuse | ForbiddenTopic | Escalate, counts: Mapping[str, int]) -> PolicyAction | None:
    if isinstance(rule, ForbiddenTopic):
        return PolicyAction("say", rule.say)
    if isinstance(rule, Escalate):
        return PolicyAction("transfer", rule.say, rule.to) if rule.to else PolicyAction("say", rule.unavailable)
    times = counts[ABUSE]
    if times >= rule.end_after:
        return PolicyAction("end_call", rule.goodbye)
    return PolicyAction("say", rule.warn) if times >= rule.warn_after else None


def _has_failed(rule: Failures, counts: Mapping[str, int]) -> bool:
    return bool(rule.to) and 0 < rule.after <= counts.get(FAILURES, 0)


def _spoken(kind: str) -> str:
    return DETECTORS[kind].spoken
