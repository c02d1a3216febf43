"""What is refused before anything of a stack starts, and what other processes are told of its files."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from cluster.checks import check, with_whole_paths
from cluster.stack import Stack
from cluster.statefile import DataDirLock, StackRunningError
from cluster.steps import Steps
from configs.settings import Settings
from configs.tool_files import load_tools
from voice_agent.errors import ConfigError


def settings(tmp_path: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {name: {"engine": "simulated"} for name in ("stt", "llm", "tts")}
    return Settings(**(values | {"data_dir": tmp_path / "var", "runs_dir": tmp_path / "runs"} | sections))


def test_what_ships_is_in_order(tmp_path: Path) -> None:
    check(settings(tmp_path, dialog={"flow": "order_status"}, tools={"transfer_targets": {"staff": "+15550100"}}))


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("rules:\n  - {id: x, kind: nonsense}\n")
    (tmp_path / "tools.yaml").write_text("tools:\n  book: {kind: shell}\n")
    wrong = settings(
        tmp_path,
        stt={"engine": "nobody"},
        media={"vad_engine": "ears"},
        tools={"files": [tmp_path / "tools.yaml"]},
        policy={"files": [tmp_path / "rules.yaml"]},
        dialog={"flow": "nowhere.yaml"},
    )
    with pytest.raises(ConfigError) as told:
        check(wrong)
    lines = told.value.message.splitlines()
    assert len(lines) == len(set(lines))
    for part in (
        "stt.engine: there is no stt engine 'nobody'; allowed: ",
        "media.vad_engine: there is no vad engine 'ears'; allowed: energy, silero",
        f"{tmp_path}/tools.yaml:2",
        f"{tmp_path}/rules.yaml:2",
        "nowhere.yaml",
    ):
        assert any(part in line for line in lines), (part, lines)


def test_files_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    mine.mkdir()
    elsewhere.mkdir()
    (mine / "tools.yaml").write_text(
        "tools:\n  take_note: {kind: http, url: 'https://desk.example.com/notes', description: takes a note}\n"
    )
    (mine / "rules.yaml").write_text("rules: []\n")
    monkeypatch.chdir(mine)
    whole = with_whole_paths(
        settings(
            tmp_path,
            tools={"files": ["configs/tools/default.yaml", "tools.yaml"]},
            policy={"files": ["default", "rules.yaml"]},
        )
    )
    monkeypatch.chdir(elsewhere)
    assert all(path.is_absolute() and path.is_file() for path in (*whole.tools.files, whole.policy.files[1]))
    assert "take_note" in {spec.name for spec in load_tools(whole)}
    check(whole)


def test_a_second_stack_is_told_of_the_first_not_of_its_port(tmp_path: Path) -> None:
    first = DataDirLock((tmp_path / "var").absolute())
    first.acquire()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        second = Stack(
            settings(tmp_path, server={"host": "127.0.0.1", "webhook_port": taken.getsockname()[1]}), Steps()
        )
        try:
            with pytest.raises(StackRunningError, match="another stack"):
                second.start()
            first.release()
            with pytest.raises(ConfigError, match="is in use"):
                second.start()
        finally:
            second.stop()
            first.release()
