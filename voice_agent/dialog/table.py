"""The state table as Markdown, made from ``TRANSITIONS``: ``python -m voice_agent.dialog.table docs/turn-taking.md``.

The table stands between two marks in the page; a test fails when it is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from voice_agent.dialog.events import Event
from voice_agent.dialog.machine import DEADLINES, TRANSITIONS
from voice_agent.dialog.state import State

BEGIN = "<!-- state table: begin -->\n"
END = "<!-- state table: end -->\n"


def render() -> str:
    """One row per event, one column per state; a cell names the handler, ``·`` means ignored on purpose."""
    states = [state for state in State if state is not State.ENDED]
    lines = [
        "| event | " + " | ".join(state.value for state in states) + " |",
        "|---|" + "---|" * len(states),
    ]
    for kind in get_args(Event):
        cells = [_name(TRANSITIONS.get((state, kind))) for state in states]
        lines.append(f"| `{kind.__name__}` | " + " | ".join(cells) + " |")
    lines += ["", "| timer | when it fires |", "|---|---|"]
    for timer, handler in DEADLINES.items():
        text = (handler.__doc__ or "").strip().splitlines()
        lines.append(f"| `{timer.value}` | {text[0] if text else _name(handler)} |")
    return "\n".join(lines) + "\n"


def insert(page: str) -> str:
    """The page with the table between its marks renewed."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{render()}{END}{after}"


def _name(handler: object) -> str:
    name = getattr(handler, "__name__", "")
    return name.removeprefix("_").removeprefix("on_").replace("_", " ") if name else "·"


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.write_text(insert(place.read_text(encoding="utf-8")), encoding="utf-8")
