"""docs/engines.md names every engine and every option, and nothing that is not there; the profiles fit the engines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from configs.loader import profiles, resolve
from engines import registry
from voice_agent.errors import EngineUnavailableError

PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^### `(?P<name>[^`]+)` \((?P<port>\w+)\)\n(?P<text>.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
SECTIONS = {(found["port"], found["name"]): found["text"] for found in SECTION.finditer(PAGE)}
ENGINES = [(port, name) for port in registry.ports() for name in registry._TABLE[port]]
LABELS = ("Real", "Closed domain", "Rule", "Simulated")
# Given by the stack or by tests, never by a file.
NOT_FOR_FILES = {"server", "transport"}


def options_of(port: str, name: str) -> set[str]:
    try:
        known = registry._option_names(registry._factory(port, name))
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    assert known is not None
    return known - NOT_FOR_FILES


def test_the_page_has_every_engine_and_no_other() -> None:
    assert set(SECTIONS) == set(ENGINES)
    overview = PAGE.split("## Speech to text")[0]
    for _, name in ENGINES:
        assert f"`{name}`" in overview


@pytest.mark.parametrize(("port", "name"), ENGINES)
def test_a_section_has_a_label_and_every_option(port: str, name: str) -> None:
    text = SECTIONS[port, name].strip()
    assert text.startswith(LABELS)
    assert text.startswith("Simulated") is (name in ("simulated", "faulty"))
    table = [line for line in text.splitlines() if line.startswith("| `")]
    named = {option for line in table for option in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named == options_of(port, name)


@pytest.mark.parametrize("port", registry.ports())
def test_everything_but_rules_and_stand_ins_names_a_licence(port: str) -> None:
    for (at, name), text in SECTIONS.items():
        ours = text.strip().startswith(("Rule", "Simulated")) or name == "extractive"
        if at == port and not ours:
            assert re.search(r"licen[cs]e|MIT|BSD|Apache|GPL", text, re.IGNORECASE), name


@pytest.mark.parametrize("profile", profiles())
def test_options_of_the_profiles_are_options_of_their_engines(profile: str) -> None:
    settings: Any = resolve(profile, env={}).settings
    stages = {"stt": settings.stt, "llm": settings.llm, "tts": settings.tts, "embed": settings.retriever}
    for port, stage in stages.items():
        if stage.engine != registry.AUTO:
            assert set(stage.options) <= options_of(port, stage.engine), port
