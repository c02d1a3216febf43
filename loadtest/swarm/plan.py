"""What a load is: a typed plan, its YAML form, and the caller that each number of it stands for.

```yaml
name: soak
calls: 100             # at once
rate_per_s: 2          # calls that the carrier places in a second; more wait in its queue
steady_s: 300          # once all are up, a call that ends is followed by another for so long; 0: each only once
most_calls: 2000       # never more than so many in all
processes: 1           # that generate
seed: 1                # of everything that is drawn
sample_audio: 10       # recordings that are kept; all calls are measured
callers:               # drawn by weight
  - weight: 3
    call_s: [120, 180] # lines in an order that is drawn, again and again, until so long; leave out for the steps once
    script:            # as in loadtest/scripts, or the name of a file, seen from this one
      name: asks
      steps: [...]
network:               # leave out for a perfect one
  jitter_ms: 40
  loss_share: 0.01
  cut_share: 0.05      # of the calls lose their socket once, and come back by the action URL
  cut_s: [10, 60]
stack:                 # that is started for it, where none is given
  profile: simulated
  sets: {calls.max_calls: 110}
thresholds: ../thresholds/soak.yaml   # a file, seen from this one
```
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from loadtest.network import Network
from loadtest.script import CallerScript, HangUp, Press, Say, Step, load_script, parse_script
from loadtest.swarm.thresholds import Threshold, load_thresholds
from voice_agent.errors import ConfigError

LOADS = Path(__file__).parents[1] / "loads"
_SHORTEST_STEP_MS = 2_000
_AFTER_LEAVING_MS = 60_000


@dataclass(frozen=True, slots=True)
class CallerKind:
    """Callers of one script. ``call_s``: least and most seconds of a call; (0, 0) plays the steps once."""

    script: CallerScript
    weight: float = 1.0
    call_s: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """Conditions of all calls; see ``loadtest.network``. ``cut_share`` of them are cut once, within ``cut_s``."""

    jitter_ms: int = 0
    loss_share: float = 0.0
    cut_share: float = 0.0
    cut_s: tuple[float, float] = (10.0, 60.0)


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A whole load; the attributes are those of the YAML form."""

    name: str
    calls: int
    callers: tuple[CallerKind, ...]
    rate_per_s: float = 1.0
    steady_s: float = 0.0
    most_calls: int = 10_000
    processes: int = 1
    seed: int = 1
    sample_audio: int = 5
    network: NetworkPlan = NetworkPlan()
    profile: str = "simulated"
    sets: Mapping[str, str] = field(default_factory=dict)
    thresholds: tuple[Threshold, ...] = ()

    @property
    def total_calls(self) -> int:
        """The most that are placed."""
        return self.most_calls if self.steady_s else min(self.calls, self.most_calls)


@dataclass(frozen=True, slots=True)
class DrawnCall:
    """Call ``number`` of a plan: who calls, over what."""

    number: int
    script: CallerScript
    network: Network


def draw(plan: LoadPlan, number: int) -> DrawnCall:
    """The call of this number: the same plan and number give the same call, in whatever process."""
    chance = random.Random(f"{plan.seed}:{number}")
    kind = chance.choices(plan.callers, [kind.weight for kind in plan.callers])[0]
    script = kind.script
    if kind.call_s[1]:
        length_ms = round(1000 * chance.uniform(*kind.call_s))
        moves = tuple(step for step in script.steps if isinstance(step, Say | Press))
        rounds = length_ms // (_SHORTEST_STEP_MS * len(moves)) + 1
        script = replace(
            script,
            steps=tuple(step for _ in range(rounds) for step in _shuffled(moves, chance)),
            hang_up_after_ms=length_ms,
            max_call_ms=max(script.max_call_ms, length_ms + _AFTER_LEAVING_MS),
        )
    elif number:
        script = replace(script, steps=_shuffled(script.steps, chance))
    network = plan.network
    cuts = (round(1000 * chance.uniform(*network.cut_s)),) if chance.random() < network.cut_share else ()
    script = replace(script, seed=chance.randrange(1 << 16))
    return DrawnCall(number, script, Network(network.jitter_ms, network.loss_share, cuts))


def _shuffled(steps: tuple[Step, ...], chance: random.Random) -> tuple[Step, ...]:
    """The same moments, the lines of each kind of moment in another order. Goodbyes stay where they are."""
    places: dict[type, list[int]] = {}
    for place, step in enumerate(steps):
        followed = place + 1 < len(steps) and isinstance(steps[place + 1], Say | HangUp)
        if isinstance(step, Say) and followed:
            places.setdefault(type(step.when), []).append(place)
    found = list(steps)
    for members in places.values():
        texts = [steps[place] for place in members]
        chance.shuffle(texts)
        for place, source in zip(members, texts, strict=True):
            target = steps[place]
            assert isinstance(target, Say)
            assert isinstance(source, Say)
            found[place] = replace(target, text=source.text, cut_ms=source.cut_ms)
    return tuple(found)


# --- YAML -----------------------------------------------------------------------------------------------------

PLAN_KEYS = (
    "name",
    "calls",
    "rate_per_s",
    "steady_s",
    "most_calls",
    "processes",
    "seed",
    "sample_audio",
    "callers",
    "network",
    "stack",
    "thresholds",
)
_CALLER_KEYS = ("weight", "call_s", "script")
_STACK_KEYS = ("profile", "sets")
_NETWORK_KEYS = ("jitter_ms", "loss_share", "cut_share", "cut_s")
_LIMITS = {"calls": 1000, "rate_per_s": 50, "steady_s": 4 * 3600, "most_calls": 100_000, "processes": 16}
"""A load is bounded, whatever its file says."""


def load_plan(path: Path) -> LoadPlan:
    """Read a plan.

    Raises:
        ConfigError: the file cannot be read or says something it must not; the message names file, key and what is
            allowed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    return parse_plan(content, str(path), path.parent)


def parse_plan(content: Any, where: str, folder: Path) -> LoadPlan:
    """A plan from parsed YAML; ``where`` names it in errors, scripts are looked for in ``folder``.

    Raises:
        ConfigError: as ``load_plan``.
    """
    top = _mapping(content, where, PLAN_KEYS)
    callers = top.get("callers")
    if not isinstance(callers, list) or not callers:
        raise ConfigError(f"{where}: callers must be a list with at least one caller")
    stack = _mapping(top.get("stack") or {}, f"{where}: stack", _STACK_KEYS)
    plan = LoadPlan(
        name=str(top.get("name", where)),
        calls=int(_number(top, "calls", where, 1, least=1)),
        callers=tuple(_caller(item, f"{where}: callers[{n}]", folder) for n, item in enumerate(callers)),
        rate_per_s=_number(top, "rate_per_s", where, 1.0, least=0.01),
        steady_s=_number(top, "steady_s", where, 0.0),
        most_calls=int(_number(top, "most_calls", where, 10_000, least=1)),
        processes=int(_number(top, "processes", where, 1, least=1)),
        seed=int(_number(top, "seed", where, 1)),
        sample_audio=int(_number(top, "sample_audio", where, 5)),
        network=_network(top.get("network") or {}, f"{where}: network"),
        profile=str(stack.get("profile", "simulated")),
        sets={str(key): _setting(value) for key, value in (stack.get("sets") or {}).items()},
        thresholds=load_thresholds(folder / str(top["thresholds"])) if top.get("thresholds") else (),
    )
    return bounded(plan, where)


def _setting(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def bounded(plan: LoadPlan, where: str) -> LoadPlan:
    """The plan, if it is within the limits of any load.

    Raises:
        ConfigError: it is not.
    """
    for key, most in _LIMITS.items():
        if getattr(plan, key) > most:
            raise ConfigError(f"{where}: {key} must be at most {most}")
    return plan


def _caller(content: Any, where: str, folder: Path) -> CallerKind:
    caller = _mapping(content, where, _CALLER_KEYS)
    script = caller.get("script")
    loaded = load_script(folder / script) if isinstance(script, str) else parse_script(script, f"{where}: script")
    span = _span(caller, "call_s", where, (0.0, 0.0))
    if span[1] and not any(isinstance(step, Say) for step in loaded.steps):
        raise ConfigError(f"{where}: call_s needs a script that says something")
    return CallerKind(loaded, _number(caller, "weight", where, 1.0, least=0.001), span)


def _network(content: Any, where: str) -> NetworkPlan:
    network = _mapping(content, where, _NETWORK_KEYS)
    return NetworkPlan(
        jitter_ms=int(_number(network, "jitter_ms", where, 0)),
        loss_share=_number(network, "loss_share", where, 0.0, below=1),
        cut_share=_number(network, "cut_share", where, 0.0, below=1.001),
        cut_s=_span(network, "cut_s", where, (10.0, 60.0)),
    )


def _span(content: Mapping[str, Any], key: str, where: str, default: tuple[float, float]) -> tuple[float, float]:
    value = content.get(key)
    if value is None:
        return default
    pair = value if isinstance(value, list) else [value, value]
    if len(pair) != 2 or not all(isinstance(item, int | float) and item >= 0 for item in pair) or pair[0] > pair[1]:
        raise ConfigError(f"{where}: {key} must be seconds, or [least, most]")
    return float(pair[0]), float(pair[1])


def _mapping(content: Any, where: str, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: must be a mapping")
    for key in content:
        if key not in keys:
            raise ConfigError(f"{where}: unknown key {key!r}; allowed: {', '.join(keys)}")
    return content


def _number(
    content: Mapping[str, Any],
    key: str,
    where: str,
    default: float,
    *,
    least: float = 0,
    below: float | None = None,
) -> float:
    value = content.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}: {key} must be a number")
    if value < least or (below is not None and value >= below):
        upper = f" and below {below:g}" if below is not None else ""
        raise ConfigError(f"{where}: {key} must be at least {least:g}{upper}")
    return float(value)
