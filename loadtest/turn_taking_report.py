"""``docs/results/turn-taking.md``: what ``voice-agent eval`` found, with the endpoint curve computed on audio.

``python -m loadtest.turn_taking_report --vocabulary <data dir>/vocabulary EVAL.json...`` makes it anew. Files with the
same settings are parts of one evaluation, so that themes can be run one by one; the first is with the settings as
shipped, those with others (fixed silences, say) are added as live points.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from loadtest.endpoint_curve import (
    VOICES,
    CurvePoint,
    HeardLine,
    adaptive,
    call_name,
    curves,
    hear_lines,
    point,
    turns_of,
)
from loadtest.measure import Percentiles
from loadtest.scenario import load_scenarios
from voice_agent.dialog.policy import TurnPolicy
from voice_agent.errors import VoiceAgentError

FIGURE: Final = "turn-taking-endpoint.png"
PAGE: Final = "turn-taking.md"
DATA: Final = "turn-taking.json"
_SILENCE_P50_MS: Final = 120
_SILENCE_P95_MS: Final = 200
_NOT_INTERRUPTIONS: Final = "no-interruption"
_LIVE_LINES: Final = ("hesitation", "questions")
_SOUNDS: Final = (
    ("echo, 20 dB below the agent", r"echo at 20"),
    ("echo, 30 dB below the agent", r"echo at 30"),
    ("echo, 40 dB below the agent", r"echo at 40"),
    ("background noise, white or babble, 15 dB below speech", r"noise|babble"),
    ("cough, clicks, door", r"cough|click"),
    ("backchannel", r""),
)

_NO_MODEL: Final = "Smart Turn's file was not on this machine, so its curve is missing."
_SIMULATED: Final = "**Engines were simulated: these are figures of the platform, not of models.**"

Run = Mapping[str, Any]
Eval = Mapping[str, Any]


async def write_report(folder: Path, evals: Sequence[Path], vocabulary: Path) -> Path:
    """Compute the curve, then write the page, its figure and its data into ``folder``; returns the page.

    Raises:
        EngineUnavailableError: voice detector, recogniser, vocabulary or a voice is missing.
    """
    lines = await hear_lines(turns_of(load_scenarios()), vocabulary, tell=lambda text: print(text, file=sys.stderr))
    loaded = merged([json.loads(path.read_text(encoding="utf-8")) for path in evals])
    return await asyncio.to_thread(render, folder, loaded, lines)


def merged(parts: Sequence[Eval]) -> list[Eval]:
    """Evaluations with one profile and settings as one, in the order of the first of each."""
    whole: dict[str, dict[str, Any]] = {}
    for part in parts:
        key = json.dumps([part["profile"], part.get("sets", {})], sort_keys=True)
        known = whole.setdefault(key, {**part, "runs": []})
        known["runs"] = [*known["runs"], *part["runs"]]
    return list(whole.values())


def render(folder: Path, evals: Sequence[Eval], lines: Sequence[HeardLine]) -> Path:
    """Everything from results in hand."""
    folder.mkdir(parents=True, exist_ok=True)
    offline = curves(lines, TurnPolicy())
    live = [found for one in evals for found in (live_point(one), twin(one, lines))]
    _draw(offline, live, folder / FIGURE)
    data = {
        "offline": {name: [asdict(one) for one in points] for name, points in offline.items()},
        "live": [asdict(one) for one in live],
        "false_stops": false_stops(evals[0]["runs"]),
        "barge_in_ms": asdict(barge_in(evals[0]["runs"])),
        "heard_error_words": asdict(heard_error(evals[0]["runs"])),
    }
    (folder / DATA).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(_page(evals, offline, live, lines)) + "\n"
    (folder / PAGE).write_text(text, encoding="utf-8")
    return folder / PAGE


# --- figures of the live calls ----------------------------------------------------------------------------------


def live_point(result: Eval) -> CurvePoint:
    """Cut-offs by audio, delay by the platform's own times, over the plain and hesitating lines of an evaluation."""
    runs = [run for run in result["runs"] if run["theme"] in _LIVE_LINES and run["figures"]]
    lines = sum(len([line for line in run["figures"]["lines"] if not line["over_agent"]]) for run in runs)
    delays = [
        turn["times_ms"]["endpoint_ms"] - turn["times_ms"]["speech_end_ms"]
        for run in runs
        for turn in run["turns"]
        if {"endpoint_ms", "speech_end_ms"} <= turn["times_ms"].keys()
    ]
    name = ", ".join(f"{key}={value}" for key, value in result.get("sets", {}).items()) or "as shipped"
    cut = sum(run["figures"]["cut_offs"] for run in runs)
    return CurvePoint(f"live, {name}", lines, cut, sum(delays) / len(delays) if delays else 0.0)


def twin(result: Eval, lines: Sequence[HeardLine]) -> CurvePoint:
    """The offline figure for the very lines of an evaluation and its endpoint settings."""
    names = {run["name"] for run in result["runs"] if run["theme"] in _LIVE_LINES and run["figures"]}
    calls = {call_name(name, 1.0, VOICES[0]) for name in names}
    sets = {key.removeprefix("turn."): value for key, value in result.get("sets", {}).items()}
    numbers: dict[str, Any] = {key: int(value) for key, value in sets.items() if key.startswith("endpoint_")}
    policy = adaptive(replace(TurnPolicy(), **numbers))
    return point("the same lines offline", policy, [line for line in lines if line.call in calls])


def false_stops(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each kind of sound over the agent: runs, runs with a hold, false stops, words lost and repeated."""
    table = []
    left = [run for run in runs if run["theme"] == _NOT_INTERRUPTIONS and run["figures"]]
    for sound, pattern in _SOUNDS:
        these = [run for run in left if re.search(pattern, run["name"])]
        left = [run for run in left if run not in these]
        whole = [turn for run in these for turn in run["figures"]["audio"] if not turn["interrupted"]]
        table.append(
            {
                "sound": sound,
                "runs": len(these),
                "held": sum(bool(run["figures"]["counters"].get("holds")) for run in these),
                "holds": sum(run["figures"]["counters"].get("holds", 0) for run in these),
                "stopped": sum(run["figures"]["interrupted"] > 0 for run in these),
                "turns_compared": len(whole),
                "words": sum(turn["words"] for turn in whole),
                "lost": sum(turn["words_lost"] for turn in whole),
                "repeated": sum(turn["words_repeated"] for turn in whole),
            }
        )
    return table


def barge_in(runs: Sequence[Run]) -> Percentiles:
    """Time to silence of interruptions that were meant as such."""
    return Percentiles.of(
        [
            ms
            for run in runs
            if run["theme"] == "interruptions" and run["figures"]
            for ms in run["figures"]["barge_in_ms"]
        ]
    )


def heard_error(runs: Sequence[Run]) -> Percentiles:
    """Words by which the recorded heard text is off what was played, over all interrupted turns."""
    turns = [turn for run in runs if run["figures"] for turn in run["figures"]["audio"] if turn["interrupted"]]
    return Percentiles.of([abs(turn["words_recorded"] - turn["words_played"]) for turn in turns])


# --- page and figure --------------------------------------------------------------------------------------------


def _draw(offline: Mapping[str, Sequence[CurvePoint]], live: Sequence[CurvePoint], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.0), dpi=110, layout="constrained")
    axes = figure.subplots()
    for (name, points), marker in zip(offline.items(), "os^", strict=False):
        axes.plot([p.mean_delay_ms for p in points], [100 * p.cut_rate for p in points], marker=marker, label=name)
        for one in points:
            place = (one.mean_delay_ms, 100 * one.cut_rate)
            axes.annotate(one.policy, place, (4, 5), textcoords="offset points", size=7)
    for number, one in enumerate(live):
        name = f"{one.policy} (n={one.turns})"
        fill: Any = "full" if number % 2 == 0 else "none"
        colour = f"C{3 + number // 2}"
        axes.plot([one.mean_delay_ms], [100 * one.cut_rate], "*", ms=12, color=colour, fillstyle=fill, label=name)
    axes.set_xlabel("mean silence from the end of speech to the endpoint, ms")
    axes.set_ylabel("turns cut off, %")
    axes.set_title("False cut-offs against endpoint delay (lower left is better)")
    axes.set_ylim(bottom=-2)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def _page(
    evals: Sequence[Eval],
    offline: Mapping[str, Sequence[CurvePoint]],
    live: Sequence[CurvePoint],
    lines: Sequence[HeardLine],
) -> Iterator[str]:
    first = evals[0]
    heard = [line for line in lines if line.pauses]
    yield "# Turn-taking, measured on audio"
    yield ""
    yield from _paragraph(
        f"Made by `voice-agent eval --report` on {first['at'][:10]}; machine: {_machine(first['machine'])}; profile:"
        f" `{first['profile']}`; {len(first['runs'])} runs of {len({run['name'] for run in first['runs']})} scenarios."
        f" {_SIMULATED if first['simulated'] else ''} Callers are synthetic (flite, telephone band, mu-law): people are"
        f" harder, so take the comparison, not the level. Data: [{DATA}]({DATA})."
    )
    yield from _goals(first["runs"])
    yield "## False cut-offs against endpoint delay"
    yield ""
    yield f"![curve]({FIGURE})"
    yield ""
    yield from _paragraph(
        f"The curves are computed **offline, on audio**: {len(heard)} turns, {sum(line.broken for line in heard)} of"
        " them with a pause inside, each through the real voice detector, segmenter and recogniser, then the pure"
        " endpoint functions of the dialog; the recogniser's latency is not in them. Turns come from the shipped"
        " scenarios, pauses also at 0.6 and 1.4 times their length, in two voices. A turn is cut off when its endpoint"
        " comes before speech that goes on is noticed."
    )
    yield from _paragraph(
        "The full stars are **live**: whole calls over sockets, a small and harder set of lines (hollow: the same lines"
        " and settings offline); cut-offs by the audio at the ear, delay by the platform's"
        f" own times. The adaptive policy judges by words and pace alone. {_NO_MODEL if len(offline) < 3 else ''}"
    )
    yield "| policy | turns | cut off | mean delay, ms |"
    yield "|---|---:|---:|---:|"
    for name, points in offline.items():
        for one in points:
            yield _row(f"{name}, {one.policy}", one)
    for one in live:
        yield _row(one.policy, one)
    yield ""
    yield from _over_the_agent(first["runs"])
    yield from _verdicts(first["runs"])


def _paragraph(text: str) -> Iterator[str]:
    yield from textwrap.wrap(" ".join(text.split()), 118)
    yield ""


def _row(name: str, one: CurvePoint) -> str:
    return f"| {name} | {one.turns} | {one.cut} ({100 * one.cut_rate:.1f} %) | {one.mean_delay_ms:.0f} |"


def _machine(described: str) -> str:
    return re.sub(r"^(\d+) CPUs", r"\1 cores", described)


def _over_the_agent(runs: Sequence[Run]) -> Iterator[str]:
    taken, error = barge_in(runs), heard_error(runs)
    yield "## Speech and sounds over the agent's voice"
    yield ""
    yield from _paragraph(
        "Live calls. Time to silence: from the caller's first loud frame to the end of the agent's last, at the ear."
    )
    yield f"* Interruptions: {taken.count}; time to silence P50 {taken.p50:.0f} ms, P95 {taken.p95:.0f} ms."
    yield f"* Heard prefix, recorded against played: {error.count} interrupted turns; error P50 {error.p50:.0f}, P95"
    yield f"  {error.p95:.0f}, largest {error.largest:.0f} words (goal 0 / 1)."
    yield ""
    yield from _paragraph(
        "Sounds that are no interruption. Words lost or repeated: the ear against an uninterrupted rendering of the"
        " same words, by correlation, over all turns that were not interrupted."
    )
    yield "| sound | runs | with a hold | holds | false stops | turns compared | words | lost | repeated |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for row in false_stops(runs):
        yield "| " + " | ".join(str(value) for value in row.values()) + " |"
    yield ""


def goals(runs: Sequence[Run]) -> list[tuple[str, str, bool]]:
    """(what is wanted, what was found, whether that is enough) of the live calls."""
    taken, error, sounds = barge_in(runs), heard_error(runs), false_stops(runs)
    stops = [f"{row['stopped']} of {row['runs']}, {row['sound']}" for row in sounds if row["stopped"]]
    lost, repeated = (sum(row[key] for row in sounds) for key in ("lost", "repeated"))
    judged = [run for run in runs if run["verdict"] != "skipped"]
    passed = sum(run["verdict"] == "passed" for run in judged)
    silence = taken.count > 0 and taken.p50 <= _SILENCE_P50_MS and taken.p95 <= _SILENCE_P95_MS
    return [
        (
            f"barge-in, time to silence: P50 at most {_SILENCE_P50_MS} ms, P95 at most {_SILENCE_P95_MS} ms",
            f"{taken.p50:.0f} / {taken.p95:.0f} ms in {taken.count}",
            silence,
        ),
        ("no false stop on echo, noise and nods", "; ".join(stops) or "none", not stops),
        ("no word lost or repeated where the agent goes on", f"{lost} lost, {repeated} repeated", not lost + repeated),
        (
            "heard words recorded as played: error P50 0, P95 at most 1",
            f"{error.p50:.0f} / {error.p95:.0f} in {error.count}",
            error.count > 0 and error.p50 == 0 and error.p95 <= 1,
        ),
        ("every run as its scenario expects", f"{passed} of {len(judged)}", passed == len(judged)),
    ]


def _goals(runs: Sequence[Run]) -> Iterator[str]:
    yield "## Wanted and found"
    yield ""
    yield "| wanted | found | |"
    yield "|---|---|---|"
    for wanted, found, enough in goals(runs):
        yield f"| {wanted} | {found} | {'reached' if enough else '**fell short**'} |"
    yield ""


def _verdicts(runs: Sequence[Run]) -> Iterator[str]:
    yield "## Verdicts"
    yield ""
    yield "| theme | scenario | runs | passed | why not |"
    yield "|---|---|---:|---:|---|"
    for theme, name in dict.fromkeys((run["theme"], run["name"]) for run in runs):
        these = [run for run in runs if (run["theme"], run["name"]) == (theme, name)]
        passed = sum(run["verdict"] == "passed" for run in these)
        reasons = dict.fromkeys(reason for run in these for reason in run["reasons"])
        why = "; ".join(reasons).replace("|", "/").replace("\n", " ")
        yield f"| {theme} | {name} | {len(these)} | {passed} | {why} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.turn_taking_report", description=PAGE)
    parser.add_argument("evals", nargs="+", type=Path, metavar="EVAL.json")
    parser.add_argument("--vocabulary", type=Path, required=True, help="<data dir>/vocabulary of an ingested sample")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args(arguments)
    try:
        print(asyncio.run(write_report(options.out, options.evals, options.vocabulary)))
    except VoiceAgentError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
