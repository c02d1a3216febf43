"""``voice-agent load``: many emulated calls at once."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.common import SetOption, err, out, resolved

if TYPE_CHECKING:
    from loadtest.swarm.folder import Judged
    from loadtest.swarm.plan import LoadPlan
    from loadtest.swarm.run import LoadTarget

CallsOption = Annotated[int | None, typer.Option("--calls", min=1, help="At once; default: the load's.")]
MinutesOption = Annotated[
    float | None, typer.Option("--minutes", min=0, help="Of steady state: calls that end are replaced.")
]
RateOption = Annotated[float | None, typer.Option("--rate", help="Calls that the carrier places in a second.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Of everything that is drawn.")]
ProcessesOption = Annotated[int | None, typer.Option("--processes", min=1, help="That generate calls.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder of the report; default: runs/load-<time>.")]
RunningOption = Annotated[
    bool, typer.Option("--running", help="Use the stack that runs on the data folder instead of starting one.")
]
TargetOption = Annotated[
    str | None,
    typer.Option("--target", help="Base URL of a running ingress; the token comes from TWILIO_AUTH_TOKEN."),
]
OwnOption = Annotated[bool, typer.Option("--i-own-this-target", help="Allow a target that is not on this machine.")]
DataOption = Annotated[Path, typer.Option("--data-dir", help="Data folder of the stack.")]


def smoke(  # noqa: PLR0913 - one parameter is one option
    calls: CallsOption = None,
    minutes: MinutesOption = None,
    rate: RateOption = None,
    seed: SeedOption = None,
    processes: ProcessesOption = None,
    out_dir: OutOption = None,
    data_dir: DataOption = Path("var/load"),
    profile: Annotated[str | None, typer.Option("--profile", "-p", help="Of the stack that is started.")] = None,
    overrides: SetOption = None,
    running: RunningOption = False,
    target: TargetOption = None,
    own: OwnOption = False,
) -> None:
    """Five calls on real engines: does all of it work?"""
    _run(_shipped("smoke"), **locals())


def soak(  # noqa: PLR0913 - one parameter is one option
    calls: CallsOption = None,
    minutes: MinutesOption = None,
    rate: RateOption = None,
    seed: SeedOption = None,
    processes: ProcessesOption = None,
    out_dir: OutOption = None,
    data_dir: DataOption = Path("var/load"),
    profile: Annotated[str | None, typer.Option("--profile", "-p", help="Of the stack that is started.")] = None,
    overrides: SetOption = None,
    running: RunningOption = False,
    target: TargetOption = None,
    own: OwnOption = False,
) -> None:
    """A hundred calls at once on simulated engines: figures of the platform."""
    _run(_shipped("soak"), **locals())


def run(  # noqa: PLR0913 - one parameter is one option
    file: Annotated[Path, typer.Argument(help="YAML of a load; see docs/load-testing.md.")],
    calls: CallsOption = None,
    minutes: MinutesOption = None,
    rate: RateOption = None,
    seed: SeedOption = None,
    processes: ProcessesOption = None,
    out_dir: OutOption = None,
    data_dir: DataOption = Path("var/load"),
    profile: Annotated[str | None, typer.Option("--profile", "-p", help="Of the stack that is started.")] = None,
    overrides: SetOption = None,
    running: RunningOption = False,
    target: TargetOption = None,
    own: OwnOption = False,
) -> None:
    """A load of your own."""
    options = dict(locals())
    _run(options.pop("file"), **options)


def _shipped(name: str) -> Path:
    from loadtest.swarm.plan import LOADS

    return LOADS / f"{name}.yaml"


def _run(file: Path, **options: Any) -> None:
    from loadtest.swarm import summary

    plan = _plan(file, options)
    folder = (options["out_dir"] or Path("runs") / f"load-{plan.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    console = err()

    def tell(text: str) -> None:
        console.print(text, markup=False, highlight=False)
        sys.stderr.flush()

    judged = asyncio.run(_measure(plan, folder, options, tell))
    console = out()
    for line in summary.lines(judged.load.content):
        console.print(line, markup=False)
    for check in judged.checks:
        if not check.passed:
            found = "not there" if check.found is None else f"{check.found:g}"
            console.print(
                f"not passed: {check.threshold.figure} is {found}, allowed {check.threshold.allowed}", markup=False
            )
    console.print(f"{judged.verdict}: {folder / 'report.html'}", markup=False)
    raise typer.Exit(judged.exit_status)


def _plan(file: Path, options: dict[str, Any]) -> LoadPlan:
    """The file's plan with what the options say."""
    from loadtest.swarm.plan import bounded, load_plan

    written = load_plan(file)
    minutes = options["minutes"]
    changes = {
        "calls": options["calls"],
        "rate_per_s": options["rate"],
        "seed": options["seed"],
        "processes": options["processes"],
        "profile": options["profile"],
        "steady_s": None if minutes is None else minutes * 60,
    }
    plan = replace(written, **{key: value for key, value in changes.items() if value is not None})
    sets = dict(item.split("=", 1) for item in options["overrides"] or [] if "=" in item)
    lines = int(plan.sets.get("calls.max_calls", "0"))
    # A file that names fewer lines than callers is about a burst; whoever asks for other callers gets lines for them.
    if not lines or (options["calls"] is not None and (lines < plan.calls or lines >= written.calls)):
        sets.setdefault("calls.max_calls", str(plan.calls + max(1, plan.calls // 10)))
    return bounded(replace(plan, sets={**plan.sets, **sets}), str(file))


async def _measure(plan: LoadPlan, folder: Path, options: dict[str, Any], tell: Any) -> Judged:
    """Against the stack that was asked for, or one of its own."""
    from loadtest.bench import describe_machine
    from loadtest.stack_process import running_stack
    from loadtest.swarm.folder import run_and_judge
    from loadtest.swarm.run import LoadTarget
    from loadtest.swarm.summary import StackFacts

    if options["target"]:
        return await run_and_judge(_foreign(options), plan, folder, tell)
    if options["running"]:
        return await run_and_judge(_running(options["data_dir"]), plan, folder, tell)
    tell(f"{plan.name}: starting a stack (profile {plan.profile})")
    async with running_stack(plan.profile, plan.sets, options["data_dir"], folder / "up.log") as stack:
        facts = StackFacts(plan.profile, _simulated(plan), describe_machine(), plan.sets)
        target = LoadTarget(stack.target, stack.api_key, stack.pids, facts)
        return await run_and_judge(target, plan, folder, tell)


def _simulated(plan: LoadPlan) -> bool:
    from cluster.stack import simulated

    return simulated(resolved(plan.profile, None, [f"{key}={value}" for key, value in plan.sets.items()]).settings)


def _running(data_dir: Path) -> LoadTarget:
    """The stack on a data folder, with all its processes."""
    import psutil

    from cluster import processes, statefile
    from cluster.commands.call import target_of
    from loadtest.bench import describe_machine
    from loadtest.swarm.run import LoadTarget
    from loadtest.swarm.summary import StackFacts

    state = statefile.require(data_dir.absolute())
    members = [psutil.Process(state.pid), *processes.marked(f"{state.run_id}/{state.pid}")]
    facts = StackFacts(state.profile, state.simulated, describe_machine())
    return LoadTarget(target_of(state), state.secret_api_key, processes.by_kind(members), facts)


def _foreign(options: dict[str, Any]) -> LoadTarget:
    """A stack that is known by its address only."""
    from loadtest.bench import describe_machine
    from loadtest.carrier import CallTarget
    from loadtest.swarm.run import LoadTarget
    from loadtest.swarm.summary import StackFacts
    from voice_agent.errors import ConfigError

    token = os.environ.get("TWILIO_AUTH_TOKEN", "")
    if not token:
        raise ConfigError("--target needs the stack's TWILIO_AUTH_TOKEN in the environment, to sign as Twilio does")
    profile = options["profile"] or "unknown"
    facts = StackFacts(profile, profile == "simulated", describe_machine())
    call = CallTarget(options["target"].rstrip("/"), token, public_url=os.environ.get("PUBLIC_URL", ""))
    return LoadTarget(call, os.environ.get("VOICE_AGENT_API_KEY", ""), {}, facts, foreign=options["own"])
