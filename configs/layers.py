"""Where values come from: YAML files with line numbers, the environment, ``.env``, and ``--set``.

Each source becomes a flat layer of dotted names; every value keeps the place it was written at.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values
from dotenv.parser import parse_stream

from configs import fields
from configs.yaml_nodes import opened, refuse_doubles
from voice_agent.errors import ConfigError

PREFIX = "VOICE_AGENT__"
ALIASES: Mapping[str, str] = {
    "TWILIO_AUTH_TOKEN": "twilio.auth_token",
    "TWILIO_ACCOUNT_SID": "twilio.account_sid",
    "PUBLIC_URL": "server.public_url",
    "VOICE_AGENT_API_KEY": "server.api_key",
}
"""Names people already have in their environment. Empty ones count as not set."""

EXTENDS = "extends"

_DEEPEST = 10
_MAPPING = "tag:yaml.org,2002:map"


@dataclass(frozen=True, slots=True)
class Value:
    """A value and the place it was written at, e.g. ``configs/profiles/gpu.yaml:12`` or ``environment PUBLIC_URL``."""

    value: Any
    origin: str


Layer = dict[str, Value]


def read_yaml(path: Path) -> Layer:
    """The leaves of a YAML file by dotted name, with ``FILE:LINE`` as origin. ``extends`` is one of them.

    Raises:
        ConfigError: the file is missing, no YAML, no mapping, or gives a key twice.
    """
    with opened(path) as (loader, root):
        return {} if root is None else dict(_leaves(loader, root, path, ""))


def _leaves(loader: yaml.SafeLoader, node: yaml.Node, path: Path, prefix: str) -> Iterator[tuple[str, Value]]:
    origin = f"{path}:{node.start_mark.line + 1}"
    if not isinstance(node, yaml.MappingNode) or node.tag != _MAPPING:
        if not prefix:
            raise ConfigError(f"{origin}: a configuration is a mapping of sections, e.g. 'turn:' with keys below it")
        yield prefix, Value(loader.construct_object(node, deep=True), origin)
        return
    if prefix.count(".") > _DEEPEST:
        raise ConfigError(f"{origin}: {prefix} is nested too deep")
    if prefix and not node.value:
        yield prefix, Value({}, origin)
        return
    refuse_doubles(loader, node, path, prefix)
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        yield from _leaves(loader, value_node, path, f"{prefix}.{key}" if prefix else key)


def environment_layer(env: Mapping[str, str], where: Mapping[str, str] | None = None) -> Layer:
    """Settings from variables: the aliases, and ``VOICE_AGENT__SECTION__KEY``, which wins over an alias.

    Args:
        env: the variables.
        where: origin of a variable, when it is not simply the environment.
    """
    layer: Layer = {}
    places = where or {}
    for variable, name in ALIASES.items():
        if env.get(variable):
            layer[name] = Value(env[variable], places.get(variable, f"environment {variable}"))
    for variable in sorted(env):
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX).lower().replace("__", ".")
            origin = places.get(variable, f"environment {variable}")
            layer[name] = Value(_typed(name, env[variable], origin), origin)
    return layer


def dotenv_layer(path: Path) -> Layer:
    """Settings from a ``.env`` file; no file, no settings.

    Raises:
        ConfigError: a line is none of ``NAME=value``; names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    where: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            # The line itself may hold a secret, so it is not quoted.
            raise ConfigError(f"{path}:{binding.original.line}: not of the form NAME=value")
        if binding.key:
            where[binding.key] = f"{path}:{binding.original.line}"
    values = dotenv_values(stream=io.StringIO(text), encoding=None)
    return environment_layer({key: value for key, value in values.items() if value is not None}, where)


def override_layer(overrides: Iterable[str]) -> Layer:
    """Settings from ``--set section.key=value``; a later one wins.

    Raises:
        ConfigError: no ``=`` in it.
    """
    layer: Layer = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {name}: expected section.key=value, e.g. --set turn.endpoint_ms=500")
        layer[name.strip()] = Value(_typed(name.strip(), value, "--set"), "--set")
    return layer


def _typed(name: str, text: str, origin: str) -> Any:
    """Text as it is where text is wanted, else read as YAML: ``true``, ``5``, ``[a, b]``."""
    key = fields.find(name)
    if key is None or key.textual:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: {name} = {fields.shown(name, text)!r}: not valid YAML") from error
