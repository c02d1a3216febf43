"""How many lines the stack of a load gets: a tenth more than its callers, unless its file wants fewer."""

from __future__ import annotations

import pytest

from cluster.commands.load import _plan
from loadtest.swarm.plan import LOADS

NONE = dict.fromkeys(("calls", "rate", "seed", "processes", "profile", "minutes", "overrides"))


@pytest.mark.parametrize(
    ("load", "options", "lines"),
    [
        ("burst", {}, "10"),
        ("burst", {"calls": 10}, "10"),
        ("burst", {"calls": 20}, "22"),
        ("burst", {"calls": 20, "overrides": ["calls.max_calls=5"]}, "5"),
        ("soak", {}, "110"),
        ("soak", {"calls": 200}, "220"),
        ("soak", {"calls": 30}, "33"),
        ("soak", {"calls": 1}, "2"),
    ],
)
def test_callers_come_with_lines_and_a_burst_does_not(load: str, options: dict[str, object], lines: str) -> None:
    assert _plan(LOADS / f"{load}.yaml", NONE | options).sets["calls.max_calls"] == lines
