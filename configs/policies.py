"""Policies from YAML: read, checked with file and line, and laid over each other.

A file is a list of ``rules``. A rule with the id of a rule in an earlier file takes its place, and one with nothing but
``enabled: false`` takes it away.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from configs import patterns
from configs.fields import allowed
from configs.settings import Settings
from configs.yaml_nodes import Document, Keys, named, read_document
from voice_agent.errors import ConfigError
from voice_agent.policy.detect import DETECTORS
from voice_agent.policy.phrases import expand
from voice_agent.policy.rules import (
    Abuse,
    Disclosure,
    Escalate,
    Failures,
    ForbiddenSpeech,
    ForbiddenTopic,
    Match,
    Phrase,
    PolicySet,
    Redact,
    Rule,
    Where,
)

SHIPPED: Final = Path(__file__).parent / "policies"

_ID: Final = re.compile(r"[a-z][a-z0-9-]{0,47}")
_ADDRESS: Final = re.compile(r"\+[1-9]\d{5,14}|sips?:[^\s@:]+@[^\s@]+|queue:[A-Za-z0-9_-]{1,64}")

DetectorName = Literal["card", "iban", "us_ssn", "uk_nino", "phone", "email", "birth_date"]
assert set(DetectorName.__args__) == set(DETECTORS)  # type: ignore[attr-defined]


class RuleFile(BaseModel):
    """What all rules have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="Name of the rule: in findings, statistics and later files.")
    kind: str
    enabled: bool = Field(True, description="False: the rule is read and checked, but not used.")
    budget_ms: float = Field(0.2, gt=0, le=20, description="Time one run may take.")


class MatchFile(RuleFile):
    """Rules that look for words."""

    phrases: list[str] = Field(
        default_factory=list, description="Words; (a|b) is one of several, [a|b] may be left out."
    )
    patterns: list[str] = Field(default_factory=list, description="Regular expressions, searched in lower-case text.")


class RedactFile(RuleFile):
    """Mask private data."""

    find: list[DetectorName] = Field(min_length=1, description="What is private.")
    where: list[Where] = Field(
        default_factory=lambda: list[Where](["stored"]),
        min_length=1,
        description="Which text it is masked in.",
    )
    allow: list[str] = Field(default_factory=list, description="What is public, e.g. the company's own address.")
    budget_ms: float = Field(1.0, gt=0, le=20, description="Time one run may take.")


class AbuseFile(MatchFile):
    """The caller is abusive."""

    warn: str = Field(min_length=1, description="Said from the warn_after-th time in a row.")
    goodbye: str = Field(min_length=1, description="Said before the call ends.")
    warn_after: int = Field(1, ge=1, description="First time that brings a warning.")
    end_after: int = Field(3, ge=1, description="Times in a row that end the call.")


class TopicFile(MatchFile):
    """What the agent does not talk about."""

    say: str = Field(min_length=1, description="Said instead of an answer.")


class EscalateFile(MatchFile):
    """The caller asks for a human."""

    say: str = Field(min_length=1, description="Said before the transfer.")
    unavailable: str = Field(min_length=1, description="Said when there is nobody to transfer to.")
    to: str = Field("", description="Whom to; empty: policy.escalate_to.")


class FailuresFile(RuleFile):
    """The agent failed several times in a row."""

    say: str = Field(min_length=1, description="Said before the transfer.")
    to: str = Field("", description="Whom to; empty: policy.escalate_to.")
    after: int | None = Field(None, ge=1, description="Failures in a row; none: policy.escalate_after_failures.")


class SpeechFile(MatchFile):
    """What the agent must not say."""

    replace: str = Field("", description="Said in place of the clause; empty: the clause is dropped.")
    stop: bool = Field(True, description="The reply ends there.")


class DisclosureFile(RuleFile):
    """Said at the start of every call."""

    say: str = Field(min_length=1, description="The words.")


KINDS: Final[dict[str, type[RuleFile]]] = {
    "redact": RedactFile,
    "abuse": AbuseFile,
    "forbidden_topic": TopicFile,
    "escalate": EscalateFile,
    "failures": FailuresFile,
    "forbidden_speech": SpeechFile,
    "disclosure": DisclosureFile,
}
"""Models of the kinds of rules, as they are written."""

KIND_OF: Final[dict[type[Rule], str]] = {
    Redact: "redact",
    Abuse: "abuse",
    ForbiddenTopic: "forbidden_topic",
    Escalate: "escalate",
    Failures: "failures",
    ForbiddenSpeech: "forbidden_speech",
    Disclosure: "disclosure",
}
"""The word for each kind of rule."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What rules leave to the settings."""

    escalate_to: str = ""
    after_failures: int = 0


@dataclass(frozen=True, slots=True)
class Policies:
    """Rules in force, and where each was written: ``FILE:LINE`` by id."""

    rules: PolicySet
    origin: dict[str, str]


def of(settings: Settings, *, probe: bool = False) -> PolicySet:
    """The rules that the settings name.

    Args:
        settings: their ``policy`` section.
        probe: also time patterns on texts made to be slow for them; once, at the start of a stack, is enough.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    return in_force(settings, probe=probe).rules


def in_force(settings: Settings, *, probe: bool = False) -> Policies:
    """The same, with where each rule was written.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    chosen = settings.policy
    loaded = load(chosen.files, Defaults(chosen.escalate_to, chosen.escalate_after_failures), probe=probe)
    problems = [
        f"{loaded.origin[rule.id]}: {rule.id}: to = {rule.to!r}: a name of tools.transfer_targets, a number like "
        "+15550100, sip:user@host or queue:name is wanted"
        for rule in loaded.rules.rules
        if isinstance(rule, Escalate | Failures) and rule.to and not _reachable(rule.to, settings)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return loaded


def put_through_to(settings: Settings) -> frozenset[str]:
    """Everybody whom a rule puts callers through to: names and addresses.

    Raises:
        ConfigError: one line for each thing that is wrong.
    """
    return frozenset(rule.to for rule in of(settings).rules if isinstance(rule, Escalate | Failures) and rule.to)


def found(path: Path) -> Path:
    """The file that is meant: ``default`` and its like ship with the program."""
    shipped = SHIPPED / f"{path}.yaml"
    return shipped if shipped.exists() else path


def load(files: Sequence[Path], defaults: Defaults | None = None, *, probe: bool = True) -> Policies:
    """Read files and lay them over each other.

    Raises:
        ConfigError: one line for each thing that is wrong, with file, line, key, value and what is allowed.
    """
    rules: dict[str, Rule | None] = {}
    origin: dict[str, str] = {}
    problems: list[str] = []
    for path in files:
        reader = _Reader(read_document(found(path)), defaults or Defaults(), known=frozenset(rules), probe=probe)
        for name, rule, place in reader.rules():
            rules[name] = rule
            origin[name] = place
        problems += reader.problems
    if problems:
        raise ConfigError("\n".join(problems))
    kept = tuple(rule for rule in rules.values() if rule is not None)
    return Policies(PolicySet(kept), {rule.id: origin[rule.id] for rule in kept})


def _reachable(target: str, settings: Settings) -> bool:
    return target in settings.tools.transfer_targets or _ADDRESS.fullmatch(target) is not None


class _Reader:
    """One file."""

    def __init__(self, document: Document, defaults: Defaults, *, known: frozenset[str], probe: bool) -> None:
        self.problems: list[str] = []
        self._document = document
        self._defaults = defaults
        self._known = known
        self._probe = probe
        self._ids: dict[str, str] = {}

    def rules(self) -> Iterator[tuple[str, Rule | None, str]]:
        """(id, rule or None where it is switched off, place) of each rule that is right."""
        whole = self._document.value
        if whole is None:
            return
        if not isinstance(whole, dict):
            self._wrong((), "a mapping with rules: is wanted")
            return
        for key in whole:
            if key != "rules":
                self._wrong((key,), "there is no such key; a policy file has rules")
        listed = whole.get("rules")
        if not isinstance(listed, list):
            self._wrong(("rules",), "a list of rules is wanted, each with id: and kind:")
            return
        for place, written in enumerate(listed):
            keys: Keys = ("rules", place)
            before = len(self.problems)
            rule = self._rule(keys, written)
            if len(self.problems) == before:
                yield written["id"], rule, self._document.at(keys)

    def _rule(self, keys: Keys, written: Any) -> Rule | None:
        if not isinstance(written, dict):
            self._wrong(keys, "a mapping with id: and kind: is wanted")
            return None
        if not self._named(keys, written.get("id")):
            return None
        if set(written) == {"id", "enabled"} and written["enabled"] is False:
            if written["id"] not in self._known:
                self._wrong((*keys, "id"), "no file before this one has such a rule to be switched off")
            return None
        model = KINDS.get(str(written.get("kind")))
        if model is None:
            self._wrong((*keys, "kind"), f"one of {', '.join(KINDS)} is wanted", written.get("kind"))
            return None
        try:
            read = model.model_validate(written, strict=True)
        except ValidationError as error:
            for item in error.errors():
                self._wrong((*keys, *item["loc"]), _wanted(model, item["loc"], item["type"]), item["input"])
            return None
        rule = _MAKERS[type(read)](self, keys, read)
        return rule if read.enabled else None

    def _named(self, keys: Keys, name: Any) -> bool:
        if not isinstance(name, str) or not _ID.fullmatch(name):
            self._wrong((*keys, "id"), "a name of small letters, digits and - is wanted", name)
            return False
        place = self._document.at(keys)
        if name in self._ids:
            self._wrong((*keys, "id"), f"another name is wanted: it is taken at {self._ids[name]}", name)
            return False
        self._ids[name] = place
        return True

    def match(self, keys: Keys, read: MatchFile) -> Match:
        """Phrases spread out, patterns tried."""
        if not read.phrases and not read.patterns:
            self._wrong(keys, f"{read.id}: phrases or patterns are wanted")
        phrases = list[Phrase]()
        for place, phrase in enumerate(read.phrases):
            try:
                phrases += expand(phrase)
            except ConfigError as error:
                self._wrong((*keys, "phrases", place), f"{error.message} is wanted", phrase)
        for place, pattern in enumerate(read.patterns):
            problem = patterns.problem(pattern) if self._probe else None
            if problem is not None:
                self._wrong((*keys, "patterns", place), problem, pattern)
        return Match(tuple(dict.fromkeys(phrases)), tuple(read.patterns))

    def redact(self, _keys: Keys, read: RedactFile) -> Rule:
        """Private data."""
        return Redact(read.id, tuple(read.find), tuple(read.where), tuple(read.allow), read.budget_ms)

    def abuse(self, keys: Keys, read: AbuseFile) -> Rule:
        """Abuse."""
        if read.end_after < read.warn_after:
            wanted = f"at least warn_after ({read.warn_after}) is wanted"
            self._wrong((*keys, "end_after"), wanted, read.end_after)
        match = self.match(keys, read)
        return Abuse(read.id, match, read.warn, read.goodbye, read.warn_after, read.end_after, read.budget_ms)

    def topic(self, keys: Keys, read: TopicFile) -> Rule:
        """A topic."""
        return ForbiddenTopic(read.id, self.match(keys, read), read.say, read.budget_ms)

    def escalate(self, keys: Keys, read: EscalateFile) -> Rule:
        """A wish for a human."""
        to = read.to or self._defaults.escalate_to
        return Escalate(read.id, self.match(keys, read), read.say, read.unavailable, to, read.budget_ms)

    def failures(self, _keys: Keys, read: FailuresFile) -> Rule:
        """Failures in a row."""
        after = self._defaults.after_failures if read.after is None else read.after
        return Failures(read.id, read.say, after, read.to or self._defaults.escalate_to, read.budget_ms)

    def speech(self, keys: Keys, read: SpeechFile) -> Rule:
        """Words the agent must not say."""
        return ForbiddenSpeech(read.id, self.match(keys, read), read.replace, read.stop, read.budget_ms)

    def disclosure(self, _keys: Keys, read: DisclosureFile) -> Rule:
        """Words at the start."""
        return Disclosure(read.id, read.say, read.budget_ms)

    def _wrong(self, keys: Keys, wanted: str, *value: Any) -> None:
        """Note what is wrong at a place, with the value that is there."""
        is_there = value and not isinstance(value[0], dict) and keys in self._document.lines
        shown = f" = {value[0]!r}" if is_there else ""
        self.problems.append(f"{self._document.at(keys)}: {named(keys) or 'the file'}{shown}: {wanted}")


_MAKERS: Final[dict[type[RuleFile], Callable[[_Reader, Keys, Any], Rule]]] = {
    RedactFile: _Reader.redact,
    AbuseFile: _Reader.abuse,
    TopicFile: _Reader.topic,
    EscalateFile: _Reader.escalate,
    FailuresFile: _Reader.failures,
    SpeechFile: _Reader.speech,
    DisclosureFile: _Reader.disclosure,
}


def _wanted(model: type[BaseModel], place: tuple[str | int, ...], problem: str) -> str:
    field: FieldInfo | None = model.model_fields.get(str(place[0]))
    if field is None:
        close = difflib.get_close_matches(str(place[0]), list(model.model_fields), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"there is no such key; {hint}(there are {', '.join(model.model_fields)})"
    if len(place) > 1 and get_origin(item := get_args(field.annotation)[0]) is Literal:
        return f"one of {', '.join(get_args(item))} is wanted"
    if problem == "missing":
        return f"it is missing: {_words(field)} is wanted"
    return f"{_words(field)} is wanted" + ("; put it in quotes" if problem == "string_type" else "")


def _words(field: FieldInfo) -> str:
    empty = any(getattr(rule, "min_length", None) for rule in field.metadata)
    return allowed(field) + (" that is not empty" if empty else "")
