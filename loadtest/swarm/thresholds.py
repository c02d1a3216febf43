"""A verdict: figures of a summary against thresholds in YAML. Pure but for reading the file.

```yaml
- figure: ms.v2v_at_the_ear.p95.value   # where it stands in summary.json
  most: 600                              # or least
- figure: cost.growth.all.low
  most: 0
  when: {plan.steady_s: 1200}            # only where these figures are at least so large
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from voice_agent.errors import ConfigError

THRESHOLDS = Path(__file__).parents[1] / "thresholds"
_KEYS = ("figure", "most", "least", "when")
PASSED, FAILED, INVALID = "passed", "failed", "invalid"


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a figure may be. ``when``: it counts only where each of these figures is at least so large."""

    figure: str
    most: float | None = None
    least: float | None = None
    when: Mapping[str, float] = field(default_factory=dict)

    @property
    def allowed(self) -> str:
        """In words."""
        parts = [f"at least {self.least:g}"] if self.least is not None else []
        return " and ".join([*parts, f"at most {self.most:g}"] if self.most is not None else parts)


@dataclass(frozen=True, slots=True)
class Check:
    """A threshold and what was found; a figure that is not there is not passed."""

    threshold: Threshold
    found: float | None

    @property
    def passed(self) -> bool:
        """Whether the figure is as it must be."""
        limit = self.threshold
        return self.found is not None and (
            (limit.most is None or self.found <= limit.most) and (limit.least is None or self.found >= limit.least)
        )


def load_thresholds(path: Path) -> tuple[Threshold, ...]:
    """Read a file.

    Raises:
        ConfigError: it cannot be read or says something it must not.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    if not isinstance(content, list) or not content:
        raise ConfigError(f"{path}: must be a list of thresholds")
    return tuple(_threshold(item, f"{path}: [{number}]") for number, item in enumerate(content))


def _threshold(content: Any, where: str) -> Threshold:
    if not isinstance(content, dict) or not isinstance(content.get("figure"), str):
        raise ConfigError(f"{where}: must be a mapping with a figure")
    for key in content:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}; allowed: {', '.join(_KEYS)}")
    when = content.get("when") or {}
    limits = {key: content[key] for key in ("most", "least") if key in content}
    if not limits or not isinstance(when, dict):
        raise ConfigError(f"{where}: must have most or least; when must be a mapping")
    for key, value in {**limits, **when}.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{where}: {key} must be a number")
    return Threshold(content["figure"], limits.get("most"), limits.get("least"), when)


def check(content: Mapping[str, Any], thresholds: Sequence[Threshold]) -> list[Check]:
    """Each threshold that counts for this summary."""
    return [
        Check(item, figure(content, item.figure))
        for item in thresholds
        if all((figure(content, name) or 0.0) >= least for name, least in item.when.items())
    ]


def figure(content: Mapping[str, Any], path: str) -> float | None:
    """The figure at a dotted path; None when it is not there."""
    found: Any = content
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, int | float) else None


def verdict(content: Mapping[str, Any], checks: Sequence[Check]) -> str:
    """``invalid`` where the generator was late: then the figures are not the platform's, whatever they are."""
    if content["invalid"]:
        return INVALID
    return PASSED if all(item.passed for item in checks) else FAILED
