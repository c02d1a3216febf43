"""``voice-agent deploy``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import ConfigOption, DataDirOption, ProfileOption, SetOption, err, out, resolved

if TYPE_CHECKING:
    from cluster.deploying import Plan


def deploy(  # noqa: PLR0913 - options of a command
    code: Annotated[
        Path | None, typer.Option("--code", help="Folder with the new code; left out: the code that runs this command.")
    ] = None,
    label: Annotated[str, typer.Option("--label", help="What to call the version, beside the hash of its code.")] = "",
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Hand calls back to the version before.")] = False,
    canary_s: Annotated[
        float, typer.Option("--canary-s", min=0.0, help="Seconds the first call has to live on the new version.")
    ] = 5.0,
    within_s: Annotated[
        float, typer.Option("--within-s", min=0.0, help="Seconds a call is waited for to come between two turns.")
    ] = 20.0,
) -> None:
    """Give a running stack new code or settings while calls go on.

    Settings are those of the running stack with --set over them, or, with --profile or --config, read as `up` reads
    them. Models whose settings changed are deployed anew; calls go to actors of the new code between turns.
    """
    from cluster import code as codes
    from cluster import statefile
    from cluster.deploying import Deployment, plan_of
    from configs.loader import changed
    from configs.runtime import CodeVersion

    read = resolved(profile, config, overrides, data_dir).settings
    state = statefile.require(read.data_dir)
    folder = (code or codes.root()).absolute()
    tell = err().print
    if not rollback:
        codes.check_imports(folder)
    with Deployment.joined(state, read, None if rollback or dry_run else folder) as deployment:
        if rollback:
            number = deployment.hand_back(within_s)
            tell(f"rolling back, as number {number}")
        else:
            old = deployment.context()
            wanted = read if profile or config else changed(old.settings, overrides or [])
            new_code = CodeVersion(version=codes.version_of(folder), label=label, package=deployment.package)
            plan = plan_of(old, wanted, new_code)
            _print(plan)
            if dry_run or plan.empty:
                return
            deployment.redeploy(plan)
            number = deployment.hand_over(plan, canary_s, within_s)
        deployment.follow(lambda line: tell(line, markup=False))
    out().print(f"code number {number} has all calls", markup=False)


def _print(plan: Plan) -> None:
    console = out()

    def line(text: str) -> None:
        console.print(text, markup=False)

    old, new = plan.old.code, plan.new.code
    if plan.empty:
        line(f"nothing to do: code {old.version} and its settings are what runs")
    else:
        line(f"code: {_named(old.version, old.label)} -> {_named(new.version, new.label)}")
    for name, before, after in plan.changes:
        line(f"{name}: {before} -> {after}")
    line("models deployed anew: " + (", ".join(plan.apps) or "none"))
    for name, before, after in plan.left:
        line(f"needs a restart: {name}: {before} -> {after}")


def _named(version: str, label: str) -> str:
    return f"{version} ({label})" if label else version
