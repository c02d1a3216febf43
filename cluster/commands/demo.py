"""``voice-agent demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import SetOption, out

if TYPE_CHECKING:
    from cluster.demo import Tell
    from cluster.demo_report import Report

_STYLES = {
    "head": "bold",
    "step": "dim",
    "caller_says": "bold cyan",
    "caller": "cyan",
    "agent": "green",
    "stages": "dim",
    "note": "yellow",
    "unanswered": "red",
}
_LABELS = {
    "caller_says": "caller says   ",
    "caller": "heard caller  ",
    "agent": "agent says    ",
    "stages": "stages        ",
    "note": "              ",
    "unanswered": "no reaction to",
}


_CAPTION = (
    "ms. v2v: from the caller's last loud frame to the agent's first one played, on the audio at the socket; "
    "self: the same by the platform's own clock; the others: stages, which overlap"
)
_SHOWN_CHARS = 36
_TABLE_WIDTH = 136


def demo(
    profile: Annotated[str, typer.Option("--profile", "-p", help="embedded, or simulated.")] = "embedded",
    script: Annotated[Path | None, typer.Option("--script", "-s", help="YAML script of the caller.")] = None,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Where its data goes.")] = Path("var/demo"),
    overrides: SetOption = None,
    check: Annotated[bool, typer.Option(help="Fail when the call is not what the demo must show.")] = True,
) -> None:
    """Take one whole call on this machine: start everything, ring, talk, hang up, sum up, stop everything."""
    from cluster.commands.call import default_script
    from cluster.demo import DemoOptions, run

    arguments = ["--profile", profile, *(part for item in overrides or [] for part in ("--set", item))]
    options = DemoOptions(script or default_script(), data_dir.absolute(), tuple(arguments), check)
    try:
        report = run(options, _teller())
    except KeyboardInterrupt:
        out().print("stopped; nothing is left running")
        raise typer.Exit(130) from None
    _summary(report)
    if report.problems and check:
        raise typer.Exit(1)


def _teller() -> Tell:
    from rich.text import Text

    console = out()

    def tell(kind: str, text: str) -> None:
        label = _LABELS.get(kind)
        console.print(Text(f"{label}  {text}" if label else text, style=_STYLES.get(kind, "")))

    return tell


def _summary(report: Report) -> None:
    console = out()
    console.print()
    if report.simulated:
        console.print("Engines were simulated: these are figures of the platform, not of models.", style="yellow")
    _table(report)
    measures = report.outcome.measures
    console.print(
        f"v2v over {measures.v2v_ms.count} turns: p50 {measures.v2v_ms.p50:.0f} ms, p95 {measures.v2v_ms.p95:.0f} ms",
        style="bold",
    )
    for barge_in in measures.barge_ins:
        console.print(f"barge-in: the agent was silent {barge_in.latency_ms} ms after the caller's first loud frame")
    console.print(f"silence starved inside agent speech: {measures.starved_ms} ms")
    folder = report.outcome.recording.parent
    for name in ("call.wav", "events.jsonl", "turns.json", "waterfall.png"):
        there = (folder / name).exists()
        console.print(f"  {folder / name}{'' if there else '  (missing)'}", style="" if there else "red", markup=False)
    for problem in report.problems:
        console.print(f"not as it must be: {problem}", style="bold red", markup=False)


def _table(report: Report) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = ("turn", "caller, as recognised", "agent", "v2v", "self", "stt", "kb", "reply", "tts", "turn end")
    table = Table(box=box.SIMPLE, header_style="bold", caption=_CAPTION, caption_justify="left")
    for column in columns:
        text = column in ("caller, as recognised", "agent")
        table.add_column(column, justify="left" if text else "right", no_wrap=True)
    for turn in report.turns:
        figures = (
            turn.v2v_ear_ms,
            turn.v2v_self_ms,
            turn.stage_ms("pause_ms", "transcript_ms"),
            turn.stage_ms("transcript_ms", "retrieved_ms"),
            turn.stage_ms("retrieved_ms", "first_token_ms"),
            turn.stage_ms("first_clause_ms", "first_audio_ms"),
            turn.stage_ms("speech_end_ms", "endpoint_ms"),
        )
        said = turn.agent if turn.outcome == "completed" else f"[{turn.outcome}] {turn.heard}"
        texts = (str(turn.turn), _short(turn.caller or f"({turn.kind})"), Text(_short(said)))
        table.add_row(*texts, *("" if value is None else str(value) for value in figures))
    out(width=max(out().width, _TABLE_WIDTH)).print(table)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1].rstrip() + "…"
