"""Every key of a load's file is in the page on load testing."""

from pathlib import Path

from loadtest.swarm.plan import PLAN_KEYS

PAGE = Path(__file__).parents[2] / "docs" / "load-testing.md"


def test_every_key_of_a_load_is_in_the_page():
    page = PAGE.read_text()
    assert [key for key in PLAN_KEYS if key != "name" and f"| `{key}` |" not in page] == []
