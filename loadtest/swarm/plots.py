"""The pictures of a load's report, as SVG to stand inside HTML."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from loadtest.swarm.monitor import StackSample
from loadtest.swarm.swarm import SwarmCall, SwarmResult
from loadtest.waterfall import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (
    "#4c7dba",
    "#e8743b",
    "#43a59b",
    "#b48bc4",
    "#f0b73f",
    "#7ab648",
    "#c94f5d",
    "#8a90a0",
    "#2f4b7c",
    "#a05195",
)
_EAR, _SELF, _GRID = "#1f2430", "#e8743b", "#e4e6eb"
_KINDS = 9
_MANY = 1000
"""More points than this are one picture inside the picture: each would be a line of SVG."""


def picture(draw: Callable[[Axes], None], height: float = 2.9) -> str:
    """An SVG of one pair of axes, without the XML head."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Text stays text: small, searchable, in the page's own font.
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "load"}):
        figure, axes = pyplot.subplots(figsize=(8.6, height), layout="constrained")
        draw(axes)
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8.5, labelcolor=INK, color="#d5d8df")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def latency(turns: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> str:
    """Distribution of v2v: at the ear and self-reported."""

    def draw(axes: Axes) -> None:
        for key, label, colour in (("ear_ms", "at the ear", _EAR), ("self_ms", "self-reported", _SELF)):
            values = np.sort([row[key] for row in turns if row["kind"] == "turn" and row[key] is not None])
            if len(values):
                share = np.arange(1, len(values) + 1) / len(values)
                axes.step(values, 100 * share, where="post", color=colour, linewidth=2, label=label)
        for label, value in limits.items():
            axes.axvline(value, color="#c94f5d", linewidth=1, linestyle=(0, (4, 3)))
            axes.text(value, 3, f" {label}", fontsize=8, color="#c94f5d")
        axes.set_xlabel("voice to voice, ms", fontsize=9)
        axes.set_ylabel("% of turns", fontsize=9)
        axes.set_xlim(left=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8.5, frameon=False, loc="upper left")

    return picture(draw)


def over_time(result: SwarmResult, turns: Sequence[Mapping[str, Any]], samples: Sequence[StackSample]) -> str:
    """Each turn's v2v where it happened, and how many calls were up."""

    def draw(axes: Axes) -> None:
        points = [(row["at_s"], row["ear_ms"]) for row in turns if row["kind"] == "turn"]
        if points:
            at, ear = zip(*points, strict=True)
            many = len(points) > _MANY
            axes.scatter(at, ear, s=4 if many else 14, color=_EAR, alpha=0.45, linewidths=0, rasterized=many)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds after the first call", fontsize=9)
        axes.set_ylabel("v2v at the ear, ms", fontsize=9)
        if samples:
            up = axes.twinx()
            up.fill_between(
                [s.at_s for s in samples], [s.up for s in samples], color="#4c7dba", alpha=0.13, step="post"
            )
            up.set_ylim(0, max(1, result.plan.calls) * 1.6)
            up.set_ylabel("calls up", fontsize=9, color="#4c7dba")
            up.tick_params(labelsize=8.5, labelcolor="#4c7dba", color="#d5d8df")
            up.spines["top"].set_visible(False)

    return picture(draw)


def stages(turns: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """When each stage was done, ms after the caller's last sound: median, middle half, 5 to 95 %."""

    def draw(axes: Axes) -> None:
        rows = [(name, [row[name] for row in turns if row.get(name) is not None]) for name in names]
        rows = [(name, values) for name, values in rows if values]
        ear = [row["ear_ms"] for row in turns if row["kind"] == "turn"]
        rows += [("at the ear", ear)] if ear else []
        for place, (name, values) in enumerate(rows):
            low, first, middle, third, high = np.percentile(values, [5, 25, 50, 75, 95])
            colour = _EAR if name == "at the ear" else COLOURS[0]
            axes.plot([low, high], [place, place], color=colour, linewidth=1.2)
            axes.barh(place, third - first, 0.5, first, color=colour, alpha=0.35)
            axes.plot([middle, middle], [place - 0.27, place + 0.27], color=colour, linewidth=2.5)
            axes.text(high, place, f"  {middle:.0f}", va="center", fontsize=8.5, color=INK)
        axes.set_yticks(range(len(rows)), [name.removesuffix("_ms").replace("_", " ") for name, _ in rows])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("ms after the caller's last sound (number: median)", fontsize=9)

    return picture(draw, 3.6)


def cpu(samples: Sequence[StackSample]) -> str:
    """Cores in use by kind of process, over time."""

    def draw(axes: Axes) -> None:
        kinds = _largest(samples[-1].cpu_s)
        at = [sample.at_s for sample in samples[1:]]
        bands = []
        for kind in kinds:
            used = [
                (after.cpu_s.get(kind, 0.0) - before.cpu_s.get(kind, 0.0)) / max(1e-6, after.at_s - before.at_s)
                for before, after in pairwise(samples)
            ]
            bands.append(np.maximum(_smooth(used), 0.0))
        axes.stackplot(at, *bands, labels=kinds, colors=COLOURS, alpha=0.85)
        axes.set_xlabel("seconds after the first call", fontsize=9)
        axes.set_ylabel("cores", fontsize=9)
        _legend(axes)

    return picture(draw)


def memory(samples: Sequence[StackSample]) -> str:
    """PSS by kind of process, over time."""

    def draw(axes: Axes) -> None:
        read = [sample for sample in samples if sample.pss_mb]
        for kind, colour in zip(_largest(read[-1].pss_mb), COLOURS, strict=False):
            points = [(sample.at_s, sample.pss_mb[kind]) for sample in read if kind in sample.pss_mb]
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.6, label=kind)
        axes.plot([s.at_s for s in read], [sum(s.pss_mb.values()) for s in read], color=_EAR, linewidth=2, label="all")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds after the first call", fontsize=9)
        axes.set_ylabel("PSS, MB", fontsize=9)
        _legend(axes)

    return picture(draw)


def lateness(histograms: Sequence[Mapping[int, int]]) -> str:
    """How late the generator's own ticks were."""

    def draw(axes: Axes) -> None:
        joined: dict[int, int] = {}
        for histogram in histograms:
            for at, count in histogram.items():
                joined[at] = joined.get(at, 0) + count
        late_ms = np.array(sorted(joined)) / 10
        passed = np.cumsum([joined[key] for key in sorted(joined)])
        if len(late_ms):
            axes.step(late_ms, 100 * passed / passed[-1], where="post", color=COLOURS[0], linewidth=2)
            axes.set_xscale("symlog", linthresh=1)
            axes.set_ylim(0, 102)
        axes.set_xlabel("ms late", fontsize=9)
        axes.set_ylabel("% of ticks", fontsize=9)

    return picture(draw, 2.2)


def interruptions(calls: Sequence[SwarmCall]) -> str:
    """How long the agent went on when the caller began to speak."""

    def draw(axes: Axes) -> None:
        values = [item.latency_ms for call in calls for item in call.outcome.measures.barge_ins]
        if values:
            axes.hist(values, bins=list(range(0, max(values) + 40, 20)), color=COLOURS[0])
        axes.set_xlabel("ms until the agent was silent", fontsize=9)
        axes.set_ylabel("interruptions", fontsize=9)

    return picture(draw, 2.2)


def _largest(values: Mapping[str, float]) -> list[str]:
    return sorted(values, key=lambda kind: -values[kind])[:_KINDS]


def _smooth(values: Sequence[float], width: int = 5) -> Any:
    if len(values) < width:
        return np.asarray(values)
    return np.convolve(np.pad(values, width // 2, mode="edge"), np.ones(width) / width, mode="valid")


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
