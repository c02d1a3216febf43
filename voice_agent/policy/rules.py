"""The rules a policy is made of: one frozen record per kind, in the closed union ``Rule``.

They are data. ``voice_agent.policy.engine`` runs them, ``configs.policies`` reads them from YAML and checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Where = Literal["stored", "model", "spoken"]
"""Text as it is kept or logged; as the language model and the history see it; as the agent speaks it."""

Phrase = tuple[str, ...]
"""Words in lower case, one after the other."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule looks for: phrases (whole words, whatever stands between them) and regular expressions.

    Patterns are searched in lower-case text, and were found to be of linear cost when they were loaded.
    """

    phrases: tuple[Phrase, ...] = ()
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Redact:
    """Mask private data found by detectors (names of ``voice_agent.policy.detect.DETECTORS``).

    ``allow`` lists what is public, e.g. the company's own address; case and spacing do not matter.
    """

    id: str
    find: tuple[str, ...]
    where: tuple[Where, ...] = ("stored",)
    allow: tuple[str, ...] = ()
    budget_ms: float = 1.0


@dataclass(frozen=True, slots=True)
class Abuse:
    """The caller is abusive: from the ``warn_after``-th time in a row say ``warn``, at the ``end_after``-th hang up."""

    id: str
    match: Match
    warn: str
    goodbye: str
    warn_after: int = 1
    end_after: int = 3
    budget_ms: float = 0.2


@dataclass(frozen=True, slots=True)
class ForbiddenTopic:
    """The caller brings up what the agent does not talk about: ``say`` this instead of asking the model."""

    id: str
    match: Match
    say: str
    budget_ms: float = 0.2


@dataclass(frozen=True, slots=True)
class Escalate:
    """The caller asks for a human: ``say``, then transfer ``to``; ``unavailable`` is said when there is no target."""

    id: str
    match: Match
    say: str
    unavailable: str
    to: str = ""
    budget_ms: float = 0.2


@dataclass(frozen=True, slots=True)
class Failures:
    """The agent failed ``after`` times in a row: ``say``, then transfer ``to``. Inert when either is missing."""

    id: str
    say: str
    after: int = 0
    to: str = ""
    budget_ms: float = 0.1


@dataclass(frozen=True, slots=True)
class ForbiddenSpeech:
    """The agent is about to say what it must not: the clause becomes ``replace`` (empty: it is dropped).

    ``stop`` ends the reply there; else it goes on with the next clause.
    """

    id: str
    match: Match
    replace: str = ""
    stop: bool = True
    budget_ms: float = 0.2


@dataclass(frozen=True, slots=True)
class Disclosure:
    """Said at the start of every call, e.g. that it is recorded."""

    id: str
    say: str
    budget_ms: float = 0.1


Rule = Redact | Abuse | ForbiddenTopic | Escalate | Failures | ForbiddenSpeech | Disclosure


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Rules in the order they are asked; of those that want to act, the first does."""

    rules: tuple[Rule, ...] = ()
