"""Every command and every error of this room is in the documentation."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import cluster
from cluster.cli import app
from voice_agent.errors import VoiceAgentError

ROOT = Path(__file__).parents[2]


def _commands() -> Iterator[str]:
    for command in app.registered_commands:
        yield str(command.name)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for command in group.typer_instance.registered_commands:
            yield f"{group.name} {command.name}"


def test_every_command_is_in_the_operations_page() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert [name for name in _commands() if f"| `{name}" not in page] == []


def test_every_error_code_of_this_room_is_in_the_operations_page() -> None:
    for module in pkgutil.walk_packages(cluster.__path__, "cluster."):
        importlib.import_module(module.name)
    page = (ROOT / "docs" / "operations.md").read_text()
    kinds = [kind for kind in _below(VoiceAgentError) if kind.__module__.startswith("cluster.")]
    assert len(kinds) > 5
    assert [kind.code for kind in kinds if f"| `{kind.code}` |" not in page] == []


def _below(kind: type[VoiceAgentError]) -> Iterator[type[VoiceAgentError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _below(below)
