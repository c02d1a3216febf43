"""``python -m loadtest.swarm.results "10 calls=runs/load-a" "100 calls=runs/load-b"``: several loads on one page.

Writes ``load.md`` with a column for each report, its pictures, and the reports' ``summary.json``, so that every figure
of the page can be looked up.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from loadtest.swarm import plots
from voice_agent.errors import ConfigError, VoiceAgentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEAD: Final = """# Loads, measured at the ear

Made by `python -m loadtest.swarm.results` from the reports of `voice-agent load`, on {machine}. The emulated callers
share the machine with the stack, and their cost is shown apart. *Simulated* engines keep a latency profile: their
figures are the platform's, not a model's. A range in brackets is the 95 % confidence interval.
"""
_KINDS: Final = 8
Summary = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """One load's folder under a name of its own."""

    label: str
    folder: Path
    content: Summary

    @property
    def slug(self) -> str:
        """The label as part of a file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")

    def rows(self, table: str) -> list[dict[str, Any]]:
        """A Parquet table of the report; empty where it was not written. Needs polars."""
        import polars

        path = self.folder / f"{table}.parquet"
        found: list[dict[str, Any]] = polars.read_parquet(path).to_dicts() if path.is_file() else []
        return found


def read_report(told: str) -> Report:
    """From ``label=folder``.

    Raises:
        ConfigError: there is no report.
    """
    label, _, folder = told.partition("=")
    path = Path(folder) / "summary.json"
    if not folder or not path.is_file():
        raise ConfigError(f"{told!r} is not LABEL=FOLDER of a load's report")
    return Report(label, Path(folder), json.loads(path.read_text(encoding="utf-8")))


def _ms(name: str) -> Callable[[Summary], str]:
    def told(content: Summary) -> str:
        found = content["ms"].get(name)
        if not found:
            return ""
        return " / ".join(f"{p['value']:.0f} ({p['low']:.0f}..{p['high']:.0f})" for p in (found["p50"], found["p95"]))

    return told


def _stage(name: str) -> Callable[[Summary], str]:
    def told(content: Summary) -> str:
        found = content["stages_ms"].get(name)
        return f"{found['p50']['value']:.0f} / {found['p95']['value']:.0f}" if found else ""

    return told


def _cost(name: str) -> Callable[[Summary], str]:
    return lambda content: f"{content['cost'][name]:g}" if name in content["cost"] else ""


def _growth(content: Summary) -> str:
    found = content["cost"].get("growth", {}).get("all")
    return f"{found['value']:+.1f} ({found['low']:+.1f}..{found['high']:+.1f})" if found else ""


def _late(content: Summary) -> str:
    late = content["generator"]["late"]
    return f"{late['p95_ms']:g}; {late['over_frame'] / max(1, late['ticks']):.2%}"


_ROWS: Final[Mapping[str, Callable[[Summary], str]]] = {
    "calls at once; steady minutes": lambda c: f"{c['plan']['calls_at_once']}; {c['plan']['steady_s'] / 60:g}",
    "engines": lambda c: "simulated" if c["stack"]["simulated"] else "real",
    "calls that went through": lambda c: f"{c['calls']['ok']} of {c['calls']['placed']}",
    "v2v at the ear P50 / P95, ms": _ms("v2v_at_the_ear"),
    "v2v as the platform reports it, ms": _ms("v2v_self_reported"),
    "barge-in P50 / P95, ms": _ms("barge_in"),
    "webhook to open stream P50 / P95, ms": _ms("accepted"),
    "gaps starved by the platform": lambda c: f"{c['gaps']['starved']}",
    "platform CPU, ms per call-second": _cost("cpu_ms_per_call_s"),
    "cores in use": _cost("cores"),
    "memory (PSS), MB per call": _cost("pss_mb_per_call"),
    "memory (PSS) of the stack, MB": _cost("pss_mb"),
    "memory per ended call, KB": _growth,
    "generator CPU, ms per call-second": lambda c: f"{c['generator']['cpu_ms_per_call_s']:g}",
    "generator's ticks late: P95, ms; share over a frame": _late,
    "verdict": lambda c: f"**{c['verdict']}**",
}
_STAGES: Final = ("pause", "transcript", "retrieved", "first_token", "first_clause", "first_audio", "playout_started")


def page(reports: Sequence[Report]) -> str:
    """The page, in Markdown."""
    contents = [report.content for report in reports]
    machines = " / ".join(sorted({content["machine"] for content in contents}))
    labels = [report.label for report in reports]
    kinds = _largest_kinds(contents)
    parts = [
        _HEAD.format(machine=machines),
        _table(labels, [(name, [told(content) for content in contents]) for name, told in _ROWS.items()]),
        "\n## Where the CPU goes\nms per call-second, by kind of process.\n\n![CPU](load-cpu.svg)\n",
        _table(labels, [(kind, [_by_kind(content, "cpu_ms_per_call_s_by_kind", kind) for content in contents])
                        for kind in kinds]),
        "\n## When the stages of a turn are done\nP50 / P95, ms after the caller's last sound.\n\n"
        "![Voice to voice](load-v2v.svg)\n",
        _table(labels, [(name.replace("_", " "), [_stage(f"{name}_ms")(content) for content in contents])
                        for name in _STAGES]),
        "\n## Memory over time\n" + "".join(f"\n![Memory]({_memory_name(report)})\n" for report in reports[-1:]),
        "\n## What did not pass\n" + "".join(_shortfalls(report) for report in reports),
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _memory_name(report: Report) -> str:
    return f"load-memory-{report.slug}.svg"


def _table(labels: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = [("", *labels), ("---",) * (len(labels) + 1), *((name, *values) for name, values in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _largest_kinds(contents: Sequence[Summary]) -> list[str]:
    last = contents[-1]["cost"].get("cpu_ms_per_call_s_by_kind", {})
    return sorted(last, key=lambda kind: -last[kind])[:_KINDS]


def _by_kind(content: Summary, name: str, kind: str) -> str:
    found = content["cost"].get(name, {}).get(kind)
    return f"{found:.2f}" if found is not None else ""


def _shortfalls(report: Report) -> str:
    content = report.content
    found = [f"invalid: {reason}" for reason in content["invalid"]]
    found += [
        f"`{check['figure']}` is {check['found']}, allowed {check['allowed']}"
        for check in content["thresholds"]
        if not check["passed"]
    ]
    return f"\n* {report.label} ([data](load-{report.slug}.json)): {'; '.join(found) or 'everything passed'}"


# --- pictures -------------------------------------------------------------------------------------------------


def cpu_picture(reports: Sequence[Report]) -> str:
    """CPU per call-second of each load, stacked by kind of process."""
    kinds = _largest_kinds([report.content for report in reports])
    used = [report.content["cost"].get("cpu_ms_per_call_s_by_kind", {}) for report in reports]
    rest = [sum(value for kind, value in item.items() if kind not in kinds) for item in used]
    bands = [(kind, [item.get(kind, 0.0) for item in used]) for kind in kinds] + [("others", rest)]

    def draw(axes: Axes) -> None:
        below = np.zeros(len(reports))
        for (kind, values), colour in zip(bands, plots.COLOURS, strict=False):
            axes.barh([report.label for report in reports], values, 0.6, below, color=colour, label=kind)
            below = below + np.asarray(values)
        axes.invert_yaxis()
        axes.set_xlabel("ms of CPU per call-second", fontsize=9)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return plots.picture(draw, 1.2 + 0.45 * len(reports))


def v2v_picture(reports: Sequence[Report]) -> str:
    """Distribution of v2v at the ear, a line for each load."""

    def draw(axes: Axes) -> None:
        for report, colour in zip(reports, plots.COLOURS, strict=False):
            values = np.sort([row["ear_ms"] for row in report.rows("turns") if row["kind"] == "turn"])
            if len(values):
                share = 100 * np.arange(1, len(values) + 1) / len(values)
                axes.step(values, share, where="post", color=colour, linewidth=2, label=report.label)
        axes.set_xlim(left=0)
        axes.set_xlabel("voice to voice at the ear, ms", fontsize=9)
        axes.set_ylabel("% of turns", fontsize=9)
        axes.legend(fontsize=8.5, frameon=False, loc="lower right")

    return plots.picture(draw)


def memory_picture(report: Report) -> str:
    """PSS of the stack over time, with the calls that had ended by then."""
    totals: dict[float, list[float]] = {}
    for row in report.rows("samples"):
        if row["pss_mb"] is not None:
            found = totals.setdefault(row["at_s"], [0.0, row["calls_ended"]])
            found[0] += row["pss_mb"]

    def draw(axes: Axes) -> None:
        at = sorted(totals)
        axes.plot(at, [totals[moment][0] for moment in at], color=plots.COLOURS[0], linewidth=2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds after the first call", fontsize=9)
        axes.set_ylabel("PSS, MB", fontsize=9)
        ended = axes.twinx()
        ended.plot(at, [totals[moment][1] for moment in at], color=plots.COLOURS[1], linewidth=1.2)
        ended.set_ylabel("calls ended", fontsize=9, color=plots.COLOURS[1])

    return plots.picture(draw)


def write(reports: Sequence[Report], out_dir: Path) -> Path:
    """Write page, pictures and data into ``out_dir``; returns the page."""
    out_dir.mkdir(parents=True, exist_ok=True)
    for report in reports:
        shutil.copyfile(report.folder / "summary.json", out_dir / f"load-{report.slug}.json")
    pictures = {
        "load-cpu.svg": cpu_picture(reports),
        "load-v2v.svg": v2v_picture(reports),
        _memory_name(reports[-1]): memory_picture(reports[-1]),
    }
    for name, svg in pictures.items():
        (out_dir / name).write_text(svg, encoding="utf-8")
    out = out_dir / "load.md"
    out.write_text(page(reports), encoding="utf-8")
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.swarm.results", description=(__doc__ or "").split("\n\n")[0].partition(": ")[2]
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("reports", nargs="+", metavar="LABEL=FOLDER", help="the last one's memory is drawn over time")
    arguments = parser.parse_args()
    try:
        print(write([read_report(told) for told in arguments.reports], arguments.out))
    except VoiceAgentError as error:
        print(error.message, file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
