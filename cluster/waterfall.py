"""A picture of a call's turns: which stage was done when, from the caller's last sound on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STAGES: tuple[tuple[str, str, str, str], ...] = (
    ("transcript", "pause_ms", "transcript_ms", "#4c78a8"),
    ("retrieval", "transcript_ms", "retrieved_ms", "#72b7b2"),
    ("first words", "retrieved_ms", "first_token_ms", "#54a24b"),
    ("first audio", "first_clause_ms", "first_audio_ms", "#eeca3b"),
    ("turn end", "speech_end_ms", "endpoint_ms", "#b279a2"),
    ("playout", "released_ms", "playout_started_ms", "#f58518"),
)
"""(label, from, to, colour): fields of ``StageTimes``."""


@dataclass(frozen=True, slots=True)
class TurnBar:
    """One turn. ``times_ms`` are on the call's clock; ``v2v_ear_ms`` was measured on the audio, None when unknown."""

    turn: int
    title: str
    times_ms: dict[str, int]
    v2v_ear_ms: int | None


def spans(times_ms: dict[str, int]) -> list[tuple[str, int, int, str]]:
    """(label, start, end, colour) of each stage that ran, in ms after the caller's last sound."""
    origin = times_ms.get("speech_end_ms")
    if origin is None:
        return []
    found = []
    for label, begin, end, colour in _STAGES:
        if begin in times_ms and end in times_ms and times_ms[end] >= times_ms[begin]:
            found.append((label, times_ms[begin] - origin, times_ms[end] - origin, colour))
    return found


def draw(turns: Sequence[TurnBar], title: str, path: Path) -> None:
    """Write the picture as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [turn for turn in turns if spans(turn.times_ms)]
    figure, axes = pyplot.subplots(figsize=(11, 1.2 + 1.1 * max(1, len(shown))), layout="constrained")
    labels: list[str] = []
    seen: set[str] = set()
    for row, turn in enumerate(shown):
        stages = spans(turn.times_ms)
        for lane, (label, begin, end, colour) in enumerate(stages):
            height = 0.8 / len(_STAGES)
            legend: dict[str, Any] = {} if label in seen else {"label": label}
            seen.add(label)
            axes.barh(row - 0.4 + (lane + 0.5) * height, max(end - begin, 4), height, begin, color=colour, **legend)
        if turn.v2v_ear_ms is not None:
            mark: dict[str, Any] = {} if "ear" in seen else {"label": "heard at the socket"}
            seen.add("ear")
            axes.plot([turn.v2v_ear_ms] * 2, [row - 0.45, row + 0.45], color="black", linewidth=2, **mark)
        labels.append(f"{turn.turn}  {turn.title[:44]}")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("ms after the caller's last sound")
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)
    if seen:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(_STAGES) + 1, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
