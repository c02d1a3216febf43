"""The page on turn-taking tells what the code does."""

from __future__ import annotations

from pathlib import Path

from voice_agent.dialog.state import State
from voice_agent.dialog.table import insert, render

PAGE = Path(__file__).parents[2] / "docs" / "turn-taking.md"


def test_the_state_table_is_that_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert insert(page) == page, "run: python -m voice_agent.dialog.table docs/turn-taking.md"
    assert all(state.value in render() for state in State if state is not State.ENDED)
