"""``report.html``: one page with all of a load, pictures included; nothing is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadtest.swarm import plots
from loadtest.swarm.run import LoadResult
from loadtest.swarm.summary import STAGE_FIELDS
from loadtest.swarm.tables import turn_rows
from loadtest.swarm.thresholds import FAILED, INVALID, PASSED, Check

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2430;max-width:980px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem} h2{font-size:1.1rem;margin:2rem 0 .4rem}
table{border-collapse:collapse;margin:.4rem 0} td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;border-bottom:1px solid #e4e6eb}
.verdict{display:inline-block;padding:.15rem .7rem;border-radius:.3rem;color:#fff;font-weight:600}
.passed{background:#3b8f5a}.failed{background:#c0414f}.invalid{background:#b07d1a}
.simulated{background:#fff6e0;border-left:4px solid #f0b73f;padding:.4rem .8rem}
"""
_WORDS = {
    PASSED: "every figure is within its threshold",
    FAILED: "figures are outside their thresholds",
    INVALID: "the generator was late: these figures are not the platform's",
}


def write_report(path: Path, load: LoadResult, checks: Sequence[Check], verdict: str) -> None:
    """Write the page. Recordings are linked as files beside it."""
    body = "\n".join(_body(path.parent, load, checks, verdict))
    title = escape(f"Load {load.content['load']}: {verdict}")
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    path.write_text(f"{page}<body>{body}</body></html>\n", encoding="utf-8")


def _body(folder: Path, load: LoadResult, checks: Sequence[Check], verdict: str) -> Iterator[str]:
    content, result = load.content, load.swarm
    turns = turn_rows(result.calls, load.records)
    yield f"<h1>Load {escape(content['load'])}</h1>"
    yield f'<p><span class="verdict {verdict}">{verdict}</span> {_WORDS[verdict]}</p>'
    if content["stack"]["simulated"]:
        yield '<p class="simulated">Engines were simulated: figures of the platform, not of models.</p>'
    yield f'<p class="note">{escape(_facts(content))}</p>'
    yield from _list([f"Invalid: {reason}" for reason in content["invalid"]])
    yield "<h2>Thresholds</h2>"
    yield _checks(checks)
    yield "<h2>Latency, ms</h2>" + _latencies(content)
    yield '<p class="note">95 % intervals, from drawing whole calls. At the ear: measured on the audio at '
    yield "the carrier's socket, packets included. Self-reported: the platform's own turn records.</p>"
    limits = {
        c.threshold.figure.split(".")[2].upper(): c.threshold.most for c in checks if "v2v_at" in c.threshold.figure
    }
    yield plots.latency(turns, {key: value for key, value in limits.items() if value is not None})
    yield plots.over_time(result, turns, load.samples)
    yield "<h2>Stages of a turn</h2>" + plots.stages(turns, STAGE_FIELDS)
    yield "<h2>Interruptions</h2>" + plots.interruptions(result.calls)
    yield "<h2>Calls</h2>" + _mapping(content["calls"]) + _failures(content)
    yield "<h2>Gaps in the agent's speech</h2>" + _mapping(content["gaps"])
    yield from _cost(load)
    yield "<h2>The generator</h2>" + _generator(content) + plots.lateness([cost.late for cost in result.generators])
    yield "<h2>Recordings</h2>"
    yield from _list([f'<a href="{name}">{name}</a>' for name in _recordings(folder, load)], raw=True)


def _latency_limits(checks: Sequence[Check]) -> dict[str, float]:
    """Thresholds of v2v by the name of the percentile, for the picture."""
    found = {}
    for item in checks:
        parts = item.threshold.figure.split(".")
        if parts[1:2] == ["v2v_at_the_ear"] and len(parts) > 2 and item.threshold.most is not None:
            found[f"{parts[2].upper()} allowed"] = item.threshold.most
    return found


def _facts(content: Mapping[str, Any]) -> str:
    plan = content["plan"]
    sets = ", ".join(f"{key}={value}" for key, value in content["stack"]["sets"].items())
    return (
        f"{content['machine']}; profile {content['stack']['profile']} {sets}; {plan['calls_at_once']} calls at once, "
        f"{plan['rate_per_s']:g} a second, steady for {plan['steady_s']:g} s, seed {plan['seed']}; "
        f"{content['wall_s']:.0f} s in all. Network: {_network(plan['network'])}."
    )


def _network(network: Mapping[str, Any]) -> str:
    parts = [
        f"jitter up to {network['jitter_ms']} ms" if network["jitter_ms"] else "",
        f"{network['loss_share']:.1%} of the frames lost" if network["loss_share"] else "",
        f"{network['cut_share']:.0%} of the calls cut once" if network["cut_share"] else "",
    ]
    return ", ".join(part for part in parts if part) or "loopback, undisturbed"


def _checks(checks: Sequence[Check]) -> str:
    if not checks:
        return "<p>None were given.</p>"
    rows = [
        [
            escape(item.threshold.figure),
            escape(item.threshold.allowed),
            "not there" if item.found is None else f"{item.found:g}",
            "yes" if item.passed else "<b>no</b>",
        ]
        for item in checks
    ]
    return _table(["figure", "allowed", "found", "passed"], rows, numbers=(2,))


def _latencies(content: Mapping[str, Any]) -> str:
    rows = [
        [
            name.replace("_", " "),
            str(item["count"]),
            *(f"{p['value']:.0f} ({p['low']:.0f} – {p['high']:.0f})" for p in (item["p50"], item["p95"])),
            f"{item['largest']:.0f}",
        ]
        for name, item in content["ms"].items()
        if item is not None
    ]
    return _table(["", "n", "P50", "P95", "largest"], rows, numbers=(1, 2, 3, 4))


def _failures(content: Mapping[str, Any]) -> str:
    if not content["failures"]:
        return "<p>No call failed.</p>"
    rows = [[str(count), escape(reason)] for reason, count in content["failures"].items()]
    return _table(["calls", "why they failed"], rows, numbers=(0,))


def _cost(load: LoadResult) -> Iterator[str]:
    found = load.content["cost"]
    yield "<h2>CPU and memory of the platform</h2>"
    if not found:
        yield "<p>Not measured: the stack's processes are not known, or the load was too short.</p>"
        return
    yield (
        f"<p>{found['cpu_ms_per_call_s']} ms of CPU for a second of a call ({found['cores']} cores), "
        f"{found['pss_mb_per_call']} MB of memory (PSS) for a call, all processes of the stack included.</p>"
    )
    grown = found["growth"]
    rows = []
    for kind, cpu_ms in found["cpu_ms_per_call_s_by_kind"].items():
        growth = grown.get(kind)
        told = f"{growth['value']:+.1f} ({growth['low']:+.1f} – {growth['high']:+.1f})" if growth else ""
        memory = found["pss_mb_by_kind"].get(kind, 0.0)
        rows.append([escape(kind), str(found["processes"].get(kind, "")), f"{cpu_ms:.2f}", f"{memory:.0f}", told])
    columns = ["kind of process", "processes", "CPU ms / call-second", "PSS MB", "growth, KB per ended call"]
    yield _table(columns, rows, numbers=(1, 2, 3, 4))
    whole = grown.get("all")
    if whole:
        yield f"<p>All together {whole['value']:+.1f} KB for each call that ended (95 %: {whole['low']:+.1f} – "
        yield f"{whole['high']:+.1f}); an interval that holds 0 tells no growth from none.</p>"
    if len(load.samples) > 1:
        yield plots.cpu(load.samples)
    if any(sample.pss_mb for sample in load.samples):
        yield plots.memory(load.samples)


def _generator(content: Mapping[str, Any]) -> str:
    found = content["generator"]
    late = found["late"]
    return (
        f"<p>{found['processes']} process(es), {found['cpu_ms_per_call_s']} ms of CPU for a second of a call, "
        f"measuring included. Ticks late: P50 {late['p50_ms']} ms, P95 {late['p95_ms']} ms, largest "
        f"{late['largest_ms']:.1f} ms; {late['over_frame']} of {late['ticks']} by more than a frame. "
        f"Its place before other processes: {escape(found['precedence'])}. "
        f"The callers' voices: {escape(found['speech'])}.</p>"
    )


def _recordings(folder: Path, load: LoadResult) -> list[str]:
    """Paths of the recordings as seen from the page."""
    wavs = [call.outcome.wav for call in load.swarm.calls if call.outcome.wav is not None]
    return [str(wav.relative_to(folder)) if wav.is_relative_to(folder) else str(wav) for wav in wavs]


def _mapping(found: Mapping[str, Any]) -> str:
    return _table([], [[key.replace("_", " "), f"{value:g}"] for key, value in found.items()], numbers=(1,))


def _list(items: Sequence[str], *, raw: bool = False) -> Iterator[str]:
    if items:
        yield "<ul>" + "".join(f"<li>{item if raw else escape(item)}</li>" for item in items) + "</ul>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """An HTML table; cells are HTML already."""

    def cells(row: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="n">{cell}</{tag}>' if number in numbers else f"<{tag}>{cell}</{tag}>"
            for number, cell in enumerate(row)
        )

    head = f"<tr>{cells(columns, 'th')}</tr>" if columns else ""
    return "<table>" + head + "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows) + "</table>"
