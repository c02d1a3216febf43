"""A flow as a picture: DOT text, or a PNG laid out in layers from the first state on."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from voice_agent.flow.definition import Edge, Flow, edges, options, what

COLOURS: Final = {
    "say": "#e8eef7",
    "ask": "#fff3cd",
    "menu": "#ffe0b2",
    "model": "#d7f0dd",
    "tool": "#e6dcf5",
    "branch": "#f0f0f0",
    "transfer": "#f8d7da",
    "hang_up": "#f8d7da",
}
_SWEEPS: Final = 12
_WIDTH, _HEIGHT = 2.5, 1.35
_BOX: Final = (1.9, 0.56)


def links(flow: Flow) -> list[tuple[str, Edge]]:
    """Every way of a flow but those of ``anywhere``, with the state it begins in; ways to one target are one."""
    found: dict[tuple[str, str], Edge] = {}
    for name, state in flow.states.items():
        for edge in edges(state):
            known = found.get((name, edge.target))
            label = edge.label if known is None else f"{known.label} / {edge.label}"
            found[name, edge.target] = Edge(edge.target, edge.place, label)
    return [(name, edge) for (name, _), edge in found.items()]


def dot(flow: Flow) -> str:
    """The graph for Graphviz and its like."""
    lines = [f"digraph {flow.name} {{", '  node [shape=box, style="rounded,filled", fontname="sans-serif"];']
    for name, state in flow.states.items():
        border = ", penwidth=3" if name == flow.start else ""
        lines.append(f'  {name} [label="{name}\\n{_quoted(what(state))}", fillcolor="{COLOURS[state.kind]}"{border}];')
    for name, edge in links(flow):
        lines.append(f'  {name} -> {edge.target} [label="{_quoted(edge.label)}"];')
    for edge in options(flow.anywhere, "anywhere"):
        lines.append(f'  anywhere -> {edge.target} [label="{_quoted(edge.label)}", style=dashed];')
    return "\n".join([*lines, "}"]) + "\n"


def layers(flow: Flow) -> list[list[str]]:
    """States by their distance from the start, each layer ordered so that few ways cross."""
    depth = {flow.start: 0}
    waiting = [flow.start]
    for name in waiting:
        for edge in edges(flow.states[name]):
            if edge.target not in depth:
                depth[edge.target] = depth[name] + 1
                waiting.append(edge.target)
    # What is reached from anywhere only stands at the end.
    last = max(depth.values()) + 1
    found: list[list[str]] = [[] for _ in range(last + 1)]
    for name in [*waiting, *(name for name in flow.states if name not in depth)]:
        found[depth.get(name, last)].append(name)
    found = [layer for layer in found if layer]
    beside: dict[str, list[str]] = {name: [] for name in flow.states}
    for name, edge in links(flow):
        beside[name].append(edge.target)
        beside[edge.target].append(name)
    for _ in range(_SWEEPS):
        place = {name: at - len(layer) / 2 for layer in found for at, name in enumerate(layer)}
        for layer in found:
            layer.sort(key=lambda name: sum(place[other] for other in beside[name]) / max(1, len(beside[name])))
    return found


def draw(flow: Flow, path: Path) -> None:
    """Write the graph as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = layers(flow)
    widest = max(len(row) for row in rows)
    at = {
        name: ((place - (len(row) - 1) / 2) * _WIDTH, -level * _HEIGHT)
        for level, row in enumerate(rows)
        for place, name in enumerate(row)
    }
    figure, axes = pyplot.subplots(figsize=(max(8.0, widest * _WIDTH), len(rows) * _HEIGHT + 1.2))
    back: dict[str, list[str]] = {}
    for name, edge in links(flow):
        if at[edge.target][1] < at[name][1]:
            _arrow(axes, at[name], at[edge.target], edge.label)
        else:
            back.setdefault(name, []).append(f"{edge.label} \u2191 {edge.target}".strip())
    for name, state in flow.states.items():
        _box(axes, at[name], name, what(state), COLOURS[state.kind])
        _ways_back(axes, at[name], back.get(name, ()))
    everywhere = [f"{edge.label} → {edge.target}" for edge in options(flow.anywhere, "anywhere")]
    title = f"{flow.name}" + (f"\nanywhere: {';  '.join(everywhere)}" if everywhere else "")
    axes.set_title("\n".join(textwrap.fill(line, 110) for line in title.splitlines()), fontsize=10, loc="left")
    axes.set_xlim(-widest * _WIDTH / 2 - 0.3, widest * _WIDTH / 2 + 0.3)
    axes.set_ylim(-(len(rows) - 1) * _HEIGHT - 0.6, 0.6)
    axes.axis("off")
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)


def _box(axes: Any, centre: tuple[float, float], name: str, kind: str, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    (x, y), (width, height) = centre, _BOX
    corner = (x - width / 2, y - height / 2)
    patch = FancyBboxPatch(
        corner, width, height, boxstyle="round,pad=0.02", facecolor=colour, edgecolor="#555", zorder=3
    )
    axes.add_patch(patch)
    axes.text(x, y + 0.09, name, ha="center", va="center", fontsize=9, weight="bold", zorder=4)
    axes.text(x, y - 0.13, kind, ha="center", va="center", fontsize=7.5, color="#555", zorder=4)


def _ways_back(axes: Any, centre: tuple[float, float], told: Sequence[str]) -> None:
    """Ways up and sideways are named below their box: drawn, they would cross all that is between."""
    if told:
        lines = "\n".join(line for way in told for line in textwrap.wrap(way, 40))
        top = (centre[0], centre[1] - _BOX[1] / 2 - 0.05)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.4}
        axes.text(*top, lines, fontsize=6.5, color="#8a3b12", ha="center", va="top", bbox=box, zorder=5)


def _arrow(axes: Any, begin: tuple[float, float], end: tuple[float, float], label: str) -> None:
    """A way down, bowed where it passes a layer."""
    half = _BOX[1] / 2 + 0.03
    start, stop = (begin[0], begin[1] - half), (end[0], end[1] + half)
    bow = 0.0 if begin[1] - end[1] < _HEIGHT * 1.5 else 0.18
    style: dict[str, Any] = {"arrowstyle": "-|>", "color": "#666", "lw": 0.9, "connectionstyle": f"arc3,rad={bow}"}
    axes.annotate("", xy=stop, xytext=start, arrowprops=style, zorder=2)
    if label:
        # Ways part on their way down, so their labels have room near the end.
        middle = (start[0] + (stop[0] - start[0]) * 0.74, start[1] + (stop[1] - start[1]) * 0.74)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.4}
        text = "\n".join(textwrap.wrap(label, 24)[:2])
        axes.text(*middle, text, fontsize=6.5, color="#333", ha="center", va="center", bbox=box, zorder=5)


def _quoted(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"')
