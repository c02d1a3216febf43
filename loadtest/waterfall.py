"""A picture of a call's turns: what was done when, from the caller's last sound to the agent's first, as a waterfall.

Stages are bars between two fields of ``StageTimes``; a stage that began before another ended ran beside it. The black
line is the only thing measured from outside: the agent's first sound at the caller's ear.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1f2430"
_MUTED = "#8a90a0"
_BAND = "#f6f7f9"
_MOST_BEFORE_MS = 900
_LEAST_BAR_MS = 5
_LANE = 0.118
_LANES = 7


@dataclass(frozen=True, slots=True)
class Stage:
    """A bar. It begins at the latest of ``begins`` that is known: a stage starts when all it waits for is there."""

    label: str
    begins: tuple[str, ...]
    end: str
    colour: str


STAGES: tuple[Stage, ...] = (
    Stage("speech to text", ("pause_ms",), "transcript_ms", "#4c7dba"),
    Stage("retrieval", ("transcript_ms",), "retrieved_ms", "#43a59b"),
    Stage("reply, first token", ("retrieved_ms", "transcript_ms"), "first_token_ms", "#7ab648"),
    Stage("reply, first clause", ("first_token_ms",), "first_clause_ms", "#c3cf4d"),
    Stage("text to speech, first audio", ("first_clause_ms",), "first_audio_ms", "#f0b73f"),
    Stage("deciding that the turn is over", ("speech_end_ms",), "endpoint_ms", "#b48bc4"),
    Stage("release to playout", ("released_ms",), "playout_started_ms", "#e8743b"),
)
"""From top to bottom of a turn."""


@dataclass(frozen=True, slots=True)
class TurnBar:
    """One turn. ``times_ms`` are ``StageTimes`` on the call's clock, without those that are None.

    ``v2v_ear_ms`` was measured on the audio at the ear, None when unknown. ``title`` is told beside it.
    """

    turn: int
    title: str
    times_ms: dict[str, int]
    v2v_ear_ms: int | None


def load_turns(path: Path) -> list[TurnBar]:
    """Turns of a ``turns.json``: a list of turn records, or an object that has them under ``turns``."""
    content = json.loads(path.read_text(encoding="utf-8"))
    records = content["turns"] if isinstance(content, dict) else content
    return [turn_bar(record) for record in records]


def turn_bar(record: Mapping[str, Any]) -> TurnBar:
    """One turn of ``turns.json``."""
    times = record.get("times_ms") or record.get("times") or {}
    return TurnBar(
        turn=int(record["turn"]),
        title=str(record.get("caller_text_pii") or record.get("caller_pii") or record.get("kind", "")),
        times_ms={name: int(value) for name, value in times.items() if value is not None},
        v2v_ear_ms=record.get("v2v_at_socket_ms"),
    )


def spans(times_ms: Mapping[str, int]) -> list[tuple[Stage, int, int]]:
    """(stage, begin, end) of each stage that ran, in ms after the caller's last sound, in the order of ``STAGES``."""
    origin = times_ms.get("speech_end_ms")
    if origin is None:
        return []
    found = []
    for stage in STAGES:
        known = [times_ms[name] for name in stage.begins if name in times_ms]
        if not known or stage.end not in times_ms:
            continue
        begin, end = max(known), times_ms[stage.end]
        if end >= begin:
            found.append((stage, begin - origin, end - origin))
    return found


def draw(turns: Sequence[TurnBar], title: str, path: Path) -> None:
    """Write the picture as PNG. Turns that answer no speech (a greeting) are left out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [turn for turn in turns if spans(turn.times_ms)]
    rows = max(1, len(shown))
    figure, axes = pyplot.subplots(figsize=(11.5, 1.9 + 1.02 * rows), layout="constrained")
    for row, turn in enumerate(shown):
        _draw_turn(axes, row, turn)
    _dress(axes, shown)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12.5, fontweight="bold", color=INK)
    if shown:
        _legend(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, facecolor="white")
    pyplot.close(figure)


def _draw_turn(axes: Axes, row: int, turn: TurnBar) -> None:
    """One band: the caller's words to the left of 0, the stages in lanes, the ear across."""
    if row % 2 == 0:
        axes.axhspan(row - 0.5, row + 0.5, color=_BAND, zorder=0, linewidth=0)
    times = turn.times_ms
    if "speech_start_ms" in times:
        begin = max(times["speech_start_ms"] - times["speech_end_ms"], -_MOST_BEFORE_MS)
        axes.barh(row, -begin, 0.16, begin, color="#c9cdd6", zorder=2)
    for stage, begin, end in spans(times):
        lane = STAGES.index(stage)
        at = row + (lane - (_LANES - 1) / 2) * _LANE
        begin = max(begin, -_MOST_BEFORE_MS)
        axes.barh(at, max(end - begin, _LEAST_BAR_MS), _LANE * 0.86, begin, color=stage.colour, zorder=3)
    if turn.v2v_ear_ms is not None:
        axes.plot([turn.v2v_ear_ms] * 2, [row - 0.46, row + 0.46], color=INK, linewidth=2.2, zorder=4)
        label = f" {turn.v2v_ear_ms} ms"
        axes.text(turn.v2v_ear_ms, row, label, va="center", ha="left", fontsize=9.5, fontweight="bold", color=INK)


def _dress(axes: Axes, shown: Sequence[TurnBar]) -> None:
    """Axes, labels, grid."""
    ends = [end for turn in shown for _, _, end in spans(turn.times_ms)]
    ends += [turn.v2v_ear_ms for turn in shown if turn.v2v_ear_ms is not None]
    right = max([500, *ends]) * 1.15
    axes.set_xlim(-0.2 * right, right)
    axes.set_ylim(len(shown) - 0.5 if shown else 0.5, -0.5)
    labels = [f"turn {turn.turn}\n{_short(turn.title)}" for turn in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=9, color=INK)
    axes.axvline(0, color=_MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.set_xlabel("ms after the caller's last sound  (grey bar: the caller speaks)", fontsize=9, color=_MUTED)
    axes.tick_params(axis="x", labelsize=9, labelcolor=_MUTED, color="#d5d8df")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e6eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#d5d8df")
    if not shown:
        axes.text(0, 0, "no turn answered speech", color=_MUTED)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=stage.colour, label=stage.label) for stage in STAGES]
    handles.append(Line2D([], [], color=INK, linewidth=2.2, label="heard at the ear (voice to voice)"))
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=4,
        fontsize=8.5,
        frameon=False,
        labelcolor=INK,
        handlelength=1.3,
    )


def _short(text: str, most: int = 34) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
