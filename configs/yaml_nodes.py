"""YAML that remembers its lines, for error texts that say where. Settings, policies and flows are read by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from voice_agent.errors import ConfigError

Keys = tuple[str | int, ...]
"""The way to a value: keys of mappings and places in lists."""

_DEEPEST = 30
_MERGE = "tag:yaml.org,2002:merge"
_TOO_MUCH = 20_000


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file as plain values, and the line of each of them."""

    path: Path
    value: Any
    lines: Mapping[Keys, int]

    def at(self, keys: Keys = ()) -> str:
        """``FILE:LINE`` of a value; of what it would be in when it is not there."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return f"{self.path}:{self.lines.get(keys, 1)}"


def named(keys: Keys) -> str:
    """``rules[0].find`` of ``("rules", 0, "find")``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.removeprefix(".")


def read_document(path: Path) -> Document:
    """Read a whole file; an empty one has the value None.

    Raises:
        ConfigError: the file is missing, no YAML, gives a key twice, or is nested without end.
    """
    lines: dict[Keys, int] = {}
    with opened(path) as (loader, root):
        value = None if root is None else _plain(loader, root, path, (), lines)
    return Document(path, value, lines)


@contextmanager
def opened(path: Path) -> Iterator[tuple[yaml.SafeLoader, yaml.Node | None]]:
    """The nodes of a file, and the loader that makes values of them; for use inside the block.

    Raises:
        ConfigError: the file is missing or no YAML; names file and, where known, line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    loader = yaml.SafeLoader(text)
    try:
        yield loader, loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f":{mark.line + 1}"
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    finally:
        loader.dispose()


def refuse_doubles(loader: yaml.SafeLoader, node: yaml.MappingNode, path: Path, prefix: str) -> None:
    """YAML readers keep the last of two equal keys without a word; here that is an error.

    Raises:
        ConfigError: a key is given twice, or is no text.
    """
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag == _MERGE:
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise ConfigError(f"{path}:{line}: the key {key!r} is not text; put it in quotes")
        if key in lines:
            raise ConfigError(f"{path}:{line}: {prefix}{'.' if prefix else ''}{key} is given twice (line {lines[key]})")
        lines[key] = line


def _plain(loader: yaml.SafeLoader, node: yaml.Node, path: Path, keys: Keys, lines: dict[Keys, int]) -> Any:
    line = node.start_mark.line + 1
    # An alias that names what it is in, or a tree of aliases, would go on for ever.
    if len(keys) > _DEEPEST or len(lines) > _TOO_MUCH:
        raise ConfigError(f"{path}:{line}: {named(keys[:3])} ... is nested too deep or too large")
    lines.setdefault(keys, line)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, path, (*keys, place), lines) for place, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node, deep=True)
    refuse_doubles(loader, node, path, named(keys))
    loader.flatten_mapping(node)
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        lines[(*keys, key)] = key_node.start_mark.line + 1
        found[key] = _plain(loader, value_node, path, (*keys, key), lines)
    return found
