"""Configuration from its sources: defaults < profile < user file < ``.env`` < environment < ``--set``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs import fields
from configs.checks import contradictions
from configs.layers import EXTENDS, Layer, Value, dotenv_layer, environment_layer, override_layer, read_yaml
from configs.settings import Settings
from voice_agent.errors import ConfigError

PROFILES = Path(__file__).parent / "profiles"
DEFAULT_PROFILE = "embedded"
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings, and where each came from: ``default``, ``FILE:LINE``, ``environment NAME`` or ``--set``."""

    settings: Settings
    origin: dict[str, str]

    def rows(self) -> list[tuple[str, object, str]]:
        """(key, value, origin) of every setting, for people: secrets read ``***``."""
        rows: list[tuple[str, object, str]] = []
        for name in fields.all_keys():
            value = _get(self.settings, name)
            below = sorted(key for key in self.origin if key.startswith(name + "."))
            if not below:
                rows.append((name, fields.shown(name, value), self.origin.get(name, DEFAULT)))
            rows += [(key, fields.shown(key, _inside(value, key, name)), self.origin[key]) for key in below]
        return rows


def profiles() -> list[str]:
    """Names of the profiles that come with the program."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def resolve(
    profile: str | None = None,
    config_file: Path | None = None,
    overrides: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    *,
    env_file: Path | None = None,
) -> Resolved:
    """Read all sources and check them.

    Args:
        profile: a profile's name, or the path of a YAML file. None: what ``config_file`` extends, else ``embedded``.
        config_file: the user's YAML file.
        overrides: ``section.key=value`` each.
        env: environment variables; None: those of this process.
        env_file: a ``.env`` file; it need not exist.

    Raises:
        ConfigError: one line for each thing that is wrong, with its place, key, value and what is allowed.
    """
    user = {} if config_file is None else read_yaml(config_file)
    base, chosen_at = _base_profile(profile, user)
    layers = [*_profile_layers(base, chosen_at), user]
    if env_file is not None:
        layers.append(dotenv_layer(env_file))
    layers.append(environment_layer(os.environ if env is None else env))
    layers.append(override_layer(overrides))
    _refuse_unknown(layers)
    merged = _merge(layers)
    settings = _validate(merged, base)
    return Resolved(settings, _origins(merged) | {fields.SET_BY_LOADER: chosen_at})


def changed(base: Settings, overrides: Sequence[str]) -> Settings:
    """Settings of a running stack with ``section.key=value`` over them; an engine that changes drops its options.

    Raises:
        ConfigError: as ``resolve``.
    """
    running: Layer = {}
    for name in fields.all_keys():
        value = _get(base, name)
        # One option may be set without losing the others of its engine.
        inner = value if name.endswith("options") and value else None
        written = {name: value} if inner is None else {f"{name}.{key}": one for key, one in inner.items()}
        running |= {key: Value(one, "the running stack") for key, one in written.items()}
    chosen = override_layer(overrides)
    _refuse_unknown([chosen])
    del running[fields.SET_BY_LOADER]
    return _validate(_merge([running, chosen]), base.profile)


def differences(old: Settings, new: Settings) -> list[tuple[str, object, object]]:
    """(key, old value, new value) of what differs, for people: secrets read ``***``."""
    return [
        (name, fields.shown(name, _get(old, name)), fields.shown(name, _get(new, name)))
        for name in fields.all_keys()
        if _get(old, name) != _get(new, name)
    ]


def _base_profile(profile: str | None, user: Layer) -> tuple[str, str]:
    """The profile to start from, and where that was said."""
    extends = user.pop(EXTENDS, None)
    if extends is None:
        return (profile, "--profile") if profile else (DEFAULT_PROFILE, DEFAULT)
    wanted = _profile_name(extends)
    if profile is not None and profile != wanted:
        raise ConfigError(f"{extends.origin}: extends {wanted}, but --profile says {profile}; drop one of them")
    return wanted, extends.origin


def _profile_name(extends: Value) -> str:
    if not isinstance(extends.value, str) or not extends.value:
        raise ConfigError(f"{extends.origin}: extends = {extends.value!r}: the name of a profile or a path is wanted")
    return extends.value


def _profile_layers(name: str, origin: str) -> list[Layer]:
    """The profile and what it extends, the root of the chain first."""
    layers: list[Layer] = []
    chain: list[Path] = []
    path = _profile_path(name, origin, Path())
    while True:
        if path in chain:
            raise ConfigError(f"{path}: extends itself by way of {' -> '.join(str(link) for link in chain)}")
        chain.append(path)
        layer = read_yaml(path)
        layers.insert(0, layer)
        extends = layer.pop(EXTENDS, None)
        if extends is None:
            return layers
        path = _profile_path(_profile_name(extends), extends.origin, path.parent)


def _profile_path(name: str, origin: str, folder: Path) -> Path:
    if name in profiles():
        return PROFILES / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        return folder / name
    raise ConfigError(f"{origin}: {name!r} is no profile; there are {', '.join(profiles())}, or give a path to a .yaml")


def _refuse_unknown(layers: Iterable[Layer]) -> None:
    problems = []
    for layer in layers:
        for name, written in layer.items():
            if name == fields.SET_BY_LOADER:
                problems.append(f"{written.origin}: {name}: choose it with --profile, or with '{EXTENDS}:' in a file")
            elif name in fields.sections():
                # `turn:` with nothing below it is an empty section and does no harm.
                if written.value not in (None, {}):
                    allowed = ", ".join(fields.sections()[name].model_fields)
                    problems.append(f"{written.origin}: {name} = {written.value!r}: a section with {allowed} is wanted")
            elif fields.find(name) is None:
                problems.append(f"{written.origin}: {name}: {fields.unknown(name)}")
    if problems:
        raise ConfigError("\n".join(problems))


def _merge(layers: Iterable[Layer]) -> Layer:
    """Later layers win. Options belong to their engine: a layer that changes the engine drops the options below it."""
    merged: Layer = {}
    for layer in layers:
        for name, written in layer.items():
            if name.endswith(".engine") and _engine(merged, name) != written.value:
                options = name.removesuffix("engine") + "options"
                _drop(merged, options)
        for name, written in layer.items():
            if name in fields.sections():
                continue
            _drop(merged, name)
            for parent in _parents(name):
                merged.pop(parent, None)
            merged[name] = written
    return merged


def _engine(merged: Layer, name: str) -> object:
    return merged[name].value if name in merged else fields.all_keys()[name].default


def _drop(merged: Layer, name: str) -> None:
    for key in [key for key in merged if key == name or key.startswith(name + ".")]:
        del merged[key]


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _validate(merged: Layer, profile: str) -> Settings:
    tree: dict[str, Any] = {fields.SET_BY_LOADER: Path(profile).stem}
    for name, written in merged.items():
        *above, last = name.split(".")
        place = tree
        for part in above:
            place = place.setdefault(part, {})
        place[last] = written.value
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_problem(merged, dict(item)) for item in error.errors())) from error
    problems = [
        f"{_origin(merged, name)}: {name} = {fields.shown(name, _get(settings, name))!r}: {wanted}"
        for name, wanted in contradictions(settings)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return settings


def _problem(merged: Layer, item: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    key = next((known for known in [name, *reversed(_parents(name))] if known in fields.all_keys()), name)
    found = fields.find(key)
    allowed = found.allowed if found is not None else str(item["msg"])
    value = fields.shown(key, item["input"])
    hint = "; put it in quotes" if found is not None and found.textual and item["type"] == "string_type" else ""
    return f"{_origin(merged, name)}: {name} = {value!r}: {allowed} is wanted{hint}"


def _origin(merged: Layer, name: str) -> str:
    for candidate in [name, *reversed(_parents(name))]:
        if candidate in merged:
            return merged[candidate].origin
    return DEFAULT


def _origins(merged: Layer) -> dict[str, str]:
    origin = dict.fromkeys(fields.all_keys(), DEFAULT)
    for name, written in merged.items():
        key = fields.find(name)
        if key is not None and key.open_ended and name != key.name:
            origin.pop(key.name, None)
        origin[name] = written.origin
    return origin


def _get(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _inside(value: Any, key: str, name: str) -> Any:
    for part in key.removeprefix(name + ".").split("."):
        value = value[part]
    return value
