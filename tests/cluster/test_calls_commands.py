"""``voice-agent calls show`` and ``purge``: what a turn rests on, and ages that make sense."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli import app

runner = CliRunner()
TURN = {
    "caller_text_pii": "when do you open",
    "agent_text_pii": "At nine.",
    "heard_text_pii": "At nine.",
    "outcome": "completed",
    "v2v_self_ms": 412,
    "sources": ["hours.md"],
    "tool_calls": ["look_up_order"],
    "failed_stages": ["generate"],
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_show_names_sources_tools_and_failures_also_of_turns_without_a_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"call_id": "CA1", "started_at": "2026-03-01", "duration_ms": 1000, "end_reason": "goodbye"}
    turns = [TURN, TURN | {"v2v_self_ms": None, "tool_calls": [], "failed_stages": []}]
    monkeypatch.setattr("cluster.records.call", lambda *_: call | {"turn_records": turns})
    shown = runner.invoke(app, ["calls", "show", "CA1"]).output
    assert "412 ms, self-reported; from hours.md; tools look_up_order; failed generate" in shown
    assert shown.count("from hours.md") == 2


@pytest.mark.parametrize(("age", "meant"), [("30d", timedelta(days=30)), ("12h", timedelta(hours=12))])
def test_purge_takes_an_age(age: str, meant: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def purge(_settings: Any, before: datetime, *, dry_run: bool) -> dict[str, int]:
        asked.append((datetime.now(UTC) - before, dry_run))
        return {"calls": 7, "call folders": 2}

    monkeypatch.setattr("cluster.records.purge", purge)
    shown = runner.invoke(app, ["calls", "purge", "--older-than", age, "--dry-run"]).output
    assert "calls\t7" in shown
    assert "would go" in shown
    ((passed, dry_run),) = asked
    assert (abs(passed - meant) < timedelta(minutes=5), dry_run) == (True, True)


@pytest.mark.parametrize("age", ["0d", "30", "-1d", "30m", "soon", "0h"])
def test_purge_refuses_what_is_no_age(age: str) -> None:
    result = runner.invoke(app, ["calls", "purge", f"--older-than={age}"])
    assert result.exit_code == 1
    assert "an age of an hour or more is wanted" in " ".join(result.output.split())
