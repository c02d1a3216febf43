"""What each rule of a policy costs, measured on this machine on clauses of 200 characters."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from voice_agent.policy.engine import FAILURES, PolicyEngine
from voice_agent.policy.rules import Disclosure, Failures, ForbiddenSpeech, PolicySet, Redact, Rule

LENGTH: Final = 200
"""Characters of a long clause: speech of 12 to 15 s."""

_REPEATS: Final = 20

_SAMPLES: Final = (
    "I would like to know whether you are open on saturday, because my bicycle has a flat tire and I have to be at "
    "work at half past nine, and how much that would cost me; last time it was twenty dollars",
    "you can reach me at five five five eight six seven five three oh nine or by mail, that is john dot smith at "
    "example dot com, and my card is four one one one double one double one one one one one",
    "4111 1111 1111 1112 4111-1111-1111-1113 +32 2 555 01 00 078-05-1120 BE68 5390 0754 7035 AB123456C ",
    "can I speak to can I talk to you are a go to get me a as an my system connect me through to as a large ",
    "john.smith@mail.example.co.uk jane@example.org at dot com at example dot at x dot ",
    "a",
    "1 ",
    "one ",
)


@dataclass(frozen=True, slots=True)
class RuleCost:
    """Times of one run in ms: the median over the samples, and the worst of them."""

    id: str
    budget_ms: float
    typical_ms: float
    worst_ms: float

    @property
    def fits(self) -> bool:
        """Within the rule's budget, at worst."""
        return self.worst_ms <= self.budget_ms


def measure(rules: PolicySet, clock: Callable[[], float] = time.thread_time) -> list[RuleCost]:
    """Each rule by itself, on every sample, the best of several runs: what it costs, not what else the machine does."""
    return [_cost(rule, clock) for rule in rules.rules]


def _cost(rule: Rule, clock: Callable[[], float]) -> RuleCost:
    if isinstance(rule, Disclosure):
        return RuleCost(rule.id, rule.budget_ms, 0.0, 0.0)
    engine = PolicyEngine(PolicySet((rule,)), clock)
    run = _runner(rule, engine)
    times_ms = []
    for sample in _SAMPLES:
        text = (sample * LENGTH)[:LENGTH]
        # A different end each time, so that no answer is remembered from the run before.
        times_ms.append(min(_once_ms(engine, rule.id, run, text + "!" * extra) for extra in range(_REPEATS)))
    return RuleCost(rule.id, rule.budget_ms, statistics.median(times_ms), max(times_ms))


def _runner(rule: Rule, engine: PolicyEngine) -> Callable[[str], object]:
    if isinstance(rule, Failures):
        return lambda _text: engine.after_failures({FAILURES: 1})
    if isinstance(rule, ForbiddenSpeech) or (isinstance(rule, Redact) and rule.where == ("spoken",)):
        return engine.about_to_say
    if isinstance(rule, Redact) and "stored" in rule.where:
        return engine.redact
    return lambda text: engine.heard(text, {})


def _once_ms(engine: PolicyEngine, name: str, run: Callable[[str], object], text: str) -> float:
    before_ms = engine.statistics()[name].total_ms
    run(text)
    return engine.statistics()[name].total_ms - before_ms
