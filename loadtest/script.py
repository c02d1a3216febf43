"""What an emulated caller does: a typed script, and its YAML form.

```yaml
name: opening hours
voice: rms            # of the caller
noise_dbfs: -62       # comfort-level background noise; leave out for a silent line
# noise: {kind: babble, level_db: -15}   # or: noise of a kind (white, babble), relative to the caller's speech
# echo: {level_db: -30, delay_ms: 120}   # the agent's own voice comes back, relative to what was played
seed: 1               # of the noise
max_call_s: 90        # the caller gives up then
steps:
  - say: When are you open?
    when: {agent_silent_ms: 600}      # after the agent has spoken and then been silent this long
  - say: Sorry, another question.
    when: {agent_speaking_ms: 1200}   # a barge-in, this long after the agent began to speak
  - say: I would like to [700] rent a bicycle [cough]   # marks: a pause in ms, noises
    when: {agent_silent_ms: 600}
    cut_ms: 900                       # the line ends there, in the middle of a word
  - press: "1#"
    when: {after_ms: 500}             # a fixed time after the step before
  - await_hang_up_s: 15               # or hang_up: true
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loadtest import sounds
from loadtest.sounds import Echo
from voice_agent.errors import ConfigError
from voice_agent.twilio.messages import DTMF_DIGITS


@dataclass(frozen=True, slots=True)
class AgentSilent:
    """After the agent has spoken since the caller's last words and has then been silent for ``ms``.

    When nothing was heard for ``patience_ms`` the step happens anyway, and the call counts one unanswered line.
    """

    ms: int
    patience_ms: int = 15_000


@dataclass(frozen=True, slots=True)
class AgentSpeaking:
    """``ms`` after the agent began to speak, while it still does. ``patience_ms`` as in ``AgentSilent``."""

    ms: int
    patience_ms: int = 15_000


@dataclass(frozen=True, slots=True)
class After:
    """``ms`` after the step before ended (for the first step: after the call was answered)."""

    ms: int


When = AgentSilent | AgentSpeaking | After


@dataclass(frozen=True, slots=True)
class Say:
    """Speak; ``text`` may hold marks (``loadtest.sounds``). An empty ``voice`` is the script's.

    ``cut_ms`` > 0: only so much of the line is spoken.
    """

    text: str
    when: When
    voice: str = ""
    cut_ms: int = 0


@dataclass(frozen=True, slots=True)
class Press:
    """Press keys, one each 200 ms."""

    digits: str
    when: When


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the call."""

    when: When


@dataclass(frozen=True, slots=True)
class AwaitHangUp:
    """Wait for the agent to end the call; hang up oneself after ``timeout_ms``."""

    timeout_ms: int


Step = Say | Press | HangUp | AwaitHangUp


@dataclass(frozen=True, slots=True)
class CallerScript:
    """A whole script.

    Attributes:
        noise_dbfs: None means digital silence between the words; ``noise_kind`` says what noise.
        hang_up_after_ms: the call's length: the first step that is due later is a hang-up; 0: as many as there are.
    """

    name: str
    steps: tuple[Step, ...]
    voice: str = "rms"
    noise_dbfs: float | None = None
    seed: int = 1
    max_call_ms: int = 120_000
    noise_kind: str = "white"
    echo: Echo | None = None
    hang_up_after_ms: int = 0

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """(text, voice) of everything the caller says, in order."""
        return tuple((step.text, step.voice or self.voice) for step in self.steps if isinstance(step, Say))


SCRIPT_KEYS = ("name", "voice", "noise_dbfs", "noise", "echo", "seed", "max_call_s", "steps")


def load_script(path: Path) -> CallerScript:
    """Read a script.

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
    return parse_script(content, str(path))


def parse_script(content: Any, where: str) -> CallerScript:
    """A script from parsed YAML; ``where`` names it in errors.

    Raises:
        ConfigError: as ``load_script``.
    """
    top = _mapping(content, where)
    _allowed(top, SCRIPT_KEYS, where)
    steps = top.get("steps")
    if not isinstance(steps, list) or not steps:
        raise ConfigError(f"{where}: steps must be a list with at least one step")
    noise_dbfs, noise_kind = _noise(top, where)
    return CallerScript(
        name=str(top.get("name", where)),
        voice=str(top.get("voice", "rms")),
        noise_dbfs=noise_dbfs,
        noise_kind=noise_kind,
        echo=_echo(top["echo"], f"{where}: echo") if top.get("echo") is not None else None,
        seed=int(_number({"seed": 1, **top}, "seed", where, least=0)),
        max_call_ms=round(1000 * _number({"max_call_s": 120, **top}, "max_call_s", where, least=1)),
        steps=tuple(_step(step, f"{where}: steps[{index}]") for index, step in enumerate(steps)),
    )


def _noise(top: Mapping[str, Any], where: str) -> tuple[float | None, str]:
    """Level in dBFS and kind of the background."""
    if top.get("noise") is None:
        return (None if top.get("noise_dbfs") is None else _number(top, "noise_dbfs", where, below=0)), "white"
    noise = _mapping(top["noise"], f"{where}: noise")
    _allowed(noise, ("kind", "level_db"), f"{where}: noise")
    kind = noise.get("kind", "white")
    if kind not in sounds.NOISE_KINDS:
        raise ConfigError(f"{where}: noise: kind must be one of {', '.join(sounds.NOISE_KINDS)}")
    return sounds.SPEECH_DBFS + _number({"level_db": -20, **noise}, "level_db", f"{where}: noise", below=20), kind


def _echo(content: Any, where: str) -> Echo:
    echo = _mapping(content, where)
    _allowed(echo, ("level_db", "delay_ms"), where)
    level_db = _number({"level_db": -30, **echo}, "level_db", where, below=1)
    return Echo(level_db, round(_number({"delay_ms": 120, **echo}, "delay_ms", where, least=0)))


def _step(content: Any, where: str) -> Step:
    step = _mapping(content, where)
    kinds = [kind for kind in _STEPS if kind in step]
    if len(kinds) != 1:
        raise ConfigError(f"{where}: must have exactly one of {', '.join(_STEPS)}")
    return _STEPS[kinds[0]](step, where)


def _say(step: Mapping[str, Any], where: str) -> Step:
    _allowed(step, ("say", "when", "voice", "cut_ms"), where)
    text = step["say"]
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{where}: say must be a text")
    try:
        sounds.pieces(text)
    except ValueError as error:
        raise ConfigError(f"{where}: say: {error}") from error
    cut_ms = round(_number({"cut_ms": 0, **step}, "cut_ms", where, least=0))
    return Say(" ".join(text.split()), _when(step, where), str(step.get("voice", "")), cut_ms)


def _press(step: Mapping[str, Any], where: str) -> Step:
    _allowed(step, ("press", "when"), where)
    digits = step["press"]
    if not isinstance(digits, str) or not digits or any(digit not in DTMF_DIGITS for digit in digits):
        raise ConfigError(f"{where}: press must be a quoted text of {DTMF_DIGITS}")
    return Press(digits, _when(step, where))


def _hang_up(step: Mapping[str, Any], where: str) -> Step:
    _allowed(step, ("hang_up", "when"), where)
    if step["hang_up"] is not True:
        raise ConfigError(f"{where}: hang_up must be true")
    return HangUp(_when(step, where))


def _await_hang_up(step: Mapping[str, Any], where: str) -> Step:
    _allowed(step, ("await_hang_up_s",), where)
    return AwaitHangUp(round(1000 * _number(step, "await_hang_up_s", where, least=0)))


_STEPS: dict[str, Callable[[Mapping[str, Any], str], Step]] = {
    "say": _say,
    "press": _press,
    "hang_up": _hang_up,
    "await_hang_up_s": _await_hang_up,
}
_WHENS = ("agent_silent_ms", "agent_speaking_ms", "after_ms")


def _when(step: Mapping[str, Any], where: str) -> When:
    when = _mapping(step.get("when", {"agent_silent_ms": 600}), f"{where}: when")
    _allowed(when, (*_WHENS, "patience_s"), f"{where}: when")
    kinds = [kind for kind in _WHENS if kind in when]
    if len(kinds) != 1:
        raise ConfigError(f"{where}: when must have exactly one of {', '.join(_WHENS)}")
    ms = round(_number(when, kinds[0], where, least=0))
    patience_ms = round(1000 * _number({"patience_s": 15, **when}, "patience_s", where, least=0))
    if kinds[0] == "agent_silent_ms":
        return AgentSilent(ms, patience_ms)
    return AgentSpeaking(ms, patience_ms) if kinds[0] == "agent_speaking_ms" else After(ms)


def _mapping(content: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: must be a mapping")
    return content


def _allowed(content: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in keys:
            raise ConfigError(f"{where}: unknown key {key!r}; allowed: {', '.join(keys)}")


def _number(
    content: Mapping[str, Any], key: str, where: str, *, least: float | None = None, below: float | None = None
) -> float:
    value = content[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}: {key} must be a number")
    if least is not None and value < least:
        raise ConfigError(f"{where}: {key} must be at least {least}")
    if below is not None and value >= below:
        raise ConfigError(f"{where}: {key} must be below {below}")
    return float(value)
