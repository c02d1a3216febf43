"""``voice-agent eval``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import JsonOption, SetOption, err, out

if TYPE_CHECKING:
    from loadtest.evaluate import EvalResult, EvalTarget

_STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
_TABLE_WIDTH = 150


def evaluate(  # noqa: PLR0913 - one parameter is one option
    profile: Annotated[str, typer.Option("--profile", "-p", help="Of the stack that is started.")] = "embedded",
    scenario: Annotated[str, typer.Option("--scenario", help="Theme or name, as a pattern: `*pause*`.")] = "*",
    scenarios: Annotated[Path | None, typer.Option("--scenarios", help="Folder of YAML files; default: ours.")] = None,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Each scenario so many times.")] = 1,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Calls at once.")] = 1,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Default: runs/eval-<time>.")] = None,
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Data folder of the stack.")] = Path("var/eval"),
    overrides: SetOption = None,
    running: Annotated[bool, typer.Option("--running", help="Use the stack that runs on the data folder.")] = False,
    report: Annotated[Path | None, typer.Option("--report", help="Write turn-taking.md and its figures there.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Play scenarios to a real stack over real sockets, and judge each call by its records and its audio."""
    from loadtest.evaluate import EvalPlan, run_eval
    from loadtest.scenario import SCENARIOS, load_scenarios

    folder = out_dir or Path("runs") / f"eval-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    plan = EvalPlan(
        scenarios=load_scenarios(scenarios or SCENARIOS, scenario),
        profile=profile,
        data_dir=data_dir.absolute(),
        out_dir=folder.absolute(),
        repeat=repeat,
        jobs=jobs,
        sets=dict(item.split("=", 1) for item in overrides or [] if "=" in item),
        missing=partial(_missing, profile),
    )
    console = err()
    target = _running(data_dir) if running else None
    result = asyncio.run(run_eval(plan, lambda text: console.print(text, markup=False, highlight=False), target))
    if as_json:
        out().print_json((plan.out_dir / "eval.json").read_text(encoding="utf-8"))
    else:
        _show(result)
        out().print(f"{plan.out_dir / 'eval.json'}", markup=False)
    if report is not None:
        from loadtest.turn_taking_report import write_report

        path = asyncio.run(write_report(report, [plan.out_dir / "eval.json"], data_dir.absolute() / "vocabulary"))
        out().print(f"{path}", markup=False)
    if result.failed:
        raise typer.Exit(1)


def _missing(profile: str, sets: Mapping[str, str]) -> str:
    """Why settings cannot be had with this profile; empty when they can."""
    from cluster.commands.common import resolved
    from voice_agent.errors import ConfigError

    try:
        resolved(profile, None, [f"{key}={value}" for key, value in sets.items()])
    except ConfigError as error:
        return error.message
    return ""


def _running(data_dir: Path) -> EvalTarget:
    from cluster import statefile
    from cluster.commands.call import target_of
    from loadtest.evaluate import EvalTarget

    state = statefile.require(data_dir.absolute())
    return EvalTarget(target_of(state), state.secret_api_key)


def _show(result: EvalResult) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, header_style="bold")
    for column in ("theme", "scenario", "verdict", "v2v", "barge-in", "why"):
        table.add_column(column, justify="right" if column in ("v2v", "barge-in") else "left", overflow="fold")
    for run in result.runs:
        figures = run.figures or {}
        worst = [str(max(figures[key])) if figures.get(key) else "" for key in ("v2v_ms", "barge_in_ms")]
        name = run.name if run.run == 1 else f"{run.name} ({run.run})"
        table.add_row(
            run.theme, name, Text(run.verdict, style=_STYLES[run.verdict]), *worst, Text("\n".join(run.reasons))
        )
    console = out(width=max(out().width, _TABLE_WIDTH))
    if result.simulated:
        console.print("Engines were simulated: these are figures of the platform, not of models.", style="yellow")
    console.print(table)
    counts = {verdict: sum(run.verdict == verdict for run in result.runs) for verdict in _STYLES}
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()), style="bold")
