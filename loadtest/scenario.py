"""Scenarios: a caller's script and what must come of it, many to a YAML file.

```yaml
theme: hesitation
scenarios:
  - name: a long pause inside a sentence
    set: {turn.reprompt_after_s: 3}     # settings this scenario needs; one stack for all that need the same
    voice: rms                          # and every other key of a script, see loadtest.script
    steps: [...]
    expect:
      caller: [rent.*bicycle]           # patterns found in this order in the words recognised, turn by turn
      agent: [twenty five dollars]      # the same for what the agent meant to say
      turns: {least: 1, most: 2}        # replies to the caller
      interrupted: 0                    # turns that were interrupted
      end: caller_hung_up               # pattern of the end reason
      v2v_ms: 1500                      # the largest one, at the ear
```
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import yaml

from loadtest.script import SCRIPT_KEYS, CallerScript, parse_script
from voice_agent.errors import ConfigError

SCENARIOS: Final = Path(__file__).parent / "scenarios"


@dataclass(frozen=True, slots=True)
class Between:
    """A number that must be at least ``least`` and, unless that is None, at most ``most``."""

    least: float = 0
    most: float | None = None

    def holds(self, value: float) -> bool:
        """Whether it is."""
        return value >= self.least and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"at least {self.least:g}"
        return f"{self.least:g}" if self.least == self.most else f"{self.least:g} to {self.most:g}"


@dataclass(frozen=True, slots=True)
class Expect:
    """What must come of a call; what is None or empty is not looked at.

    Attributes:
        caller, agent, heard: patterns, found in this order in the words recognised, meant to be said, and heard.
        never: patterns that no words of the agent match.
        not_kept: patterns that nothing kept of the call matches (the caller's number and ids are left out).
        kinds: kinds of turns that come in this order: greeting, reply, reprompt, apology, goodbye.
        turns: replies to the caller.
        interrupted: turns that ended interrupted.
        cut_offs: lines of the caller into which the agent began to speak. 0 unless said otherwise.
        counters: of the call's record.
        ended_by, end: who ended the call, as the carrier saw it; pattern of the recorded reason.
        tools: called in this order.
        v2v_ms, barge_in_ms: the largest one allowed at the ear.
        whole: every reply that was not interrupted reached the ear without a word lost or repeated.
        heard_error_words: the largest difference allowed between the heard words recorded and those played.
    """

    caller: tuple[str, ...] = ()
    agent: tuple[str, ...] = ()
    heard: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    not_kept: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    turns: Between | None = None
    interrupted: Between | None = None
    cut_offs: Between | None = Between(0, 0)
    counters: tuple[tuple[str, Between], ...] = ()
    ended_by: str = ""
    end: str = ""
    v2v_ms: float | None = None
    barge_in_ms: float | None = None
    heard_error_words: float | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """``sets`` are settings that the stack must have, as (key, value)."""

    name: str
    theme: str
    script: CallerScript
    expect: Expect
    sets: tuple[tuple[str, str], ...] = ()
    about: str = ""


def load_scenarios(folder: Path = SCENARIOS, pattern: str = "*") -> list[Scenario]:
    """All scenarios of the folder's files whose theme or name matches ``pattern`` (as file names do).

    Raises:
        ConfigError: a file says something it must not, two scenarios have one name, or none matches.
    """
    found: list[Scenario] = []
    for path in sorted(folder.glob("*.yaml")):
        found += _read(path)
    names = [scenario.name for scenario in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{folder}: two scenarios are called {name!r}")
    chosen = [s for s in found if fnmatch(s.name, pattern) or fnmatch(s.theme, pattern)]
    if not chosen:
        raise ConfigError(f"{folder}: no scenario matches {pattern!r}; themes: {', '.join(sorted(themes(found)))}")
    return chosen


def themes(scenarios: Sequence[Scenario]) -> set[str]:
    """Their themes."""
    return {scenario.theme for scenario in scenarios}


def _read(path: Path) -> list[Scenario]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    top = _mapping(content, str(path), ("theme", "defaults", "scenarios"))
    listed = top.get("scenarios")
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{path}: scenarios must be a list with at least one")
    defaults = _mapping(top.get("defaults", {}), f"{path}: defaults", (*SCRIPT_KEYS, "set"))
    return [
        parse_scenario({**defaults, **one}, str(top.get("theme", path.stem)), f"{path}: {_name(one)}") for one in listed
    ]


def _name(content: Any) -> str:
    return str(content.get("name", "?")) if isinstance(content, dict) else "?"


def parse_scenario(content: Any, theme: str, where: str) -> Scenario:
    """One scenario from parsed YAML; ``where`` names it in errors.

    Raises:
        ConfigError: as ``load_scenarios``.
    """
    top = _mapping(content, where, (*SCRIPT_KEYS, "set", "expect", "about"))
    if not isinstance(top.get("name"), str):
        raise ConfigError(f"{where}: must have a name")
    sets = top.get("set", {})
    if not isinstance(sets, dict):
        raise ConfigError(f"{where}: set must be a mapping of settings")
    script = parse_script({key: value for key, value in top.items() if key in SCRIPT_KEYS}, where)
    return Scenario(
        name=top["name"],
        theme=theme,
        script=script,
        expect=_expect(top.get("expect", {}), f"{where}: expect"),
        sets=tuple((str(key), str(value)) for key, value in sets.items()),
        about=str(top.get("about", "")),
    )


def _expect(content: Any, where: str) -> Expect:
    top = _mapping(content, where, tuple(_READERS))
    return Expect(**{key: _READERS[key](value, f"{where}: {key}") for key, value in top.items()})


def _patterns(content: Any, where: str) -> tuple[str, ...]:
    found = _texts(content, where)
    for pattern in found:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{where}: {pattern!r} is not a pattern: {error}") from error
    return found


def _texts(content: Any, where: str) -> tuple[str, ...]:
    listed = content if isinstance(content, list) else [content]
    if not all(isinstance(item, str) for item in listed):
        raise ConfigError(f"{where}: must be a text or a list of texts")
    return tuple(listed)


def _text(content: Any, where: str) -> str:
    return _patterns(content, where)[0]


def _between(content: Any, where: str) -> Between:
    if isinstance(content, dict):
        top = _mapping(content, where, ("least", "most"))
        most = top.get("most")
        return Between(_number(top.get("least", 0), where), None if most is None else _number(most, where))
    value = _number(content, where)
    return Between(value, value)


def _counters(content: Any, where: str) -> tuple[tuple[str, Between], ...]:
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: must be a mapping")
    return tuple((str(key), _between(value, f"{where}: {key}")) for key, value in content.items())


def _number(content: Any, where: str) -> float:
    if isinstance(content, bool) or not isinstance(content, int | float):
        raise ConfigError(f"{where}: must be a number")
    return float(content)


def _flag(content: Any, where: str) -> bool:
    if not isinstance(content, bool):
        raise ConfigError(f"{where}: must be true or false")
    return content


_READERS: Final[dict[str, Callable[[Any, str], Any]]] = {
    **dict.fromkeys(("caller", "agent", "heard", "never", "not_kept"), _patterns),
    **dict.fromkeys(("kinds", "tools"), _texts),
    **dict.fromkeys(("turns", "interrupted", "cut_offs"), _between),
    **dict.fromkeys(("ended_by", "end"), _text),
    **dict.fromkeys(("v2v_ms", "barge_in_ms", "heard_error_words"), _number),
    "counters": _counters,
    "whole": _flag,
}


def _mapping(content: Any, where: str, allowed: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: must be a mapping")
    for key in content:
        if key not in allowed:
            raise ConfigError(f"{where}: unknown key {key!r}; allowed: {', '.join(allowed)}")
    return content
