"""``voice-agent call``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    ProfileOption,
    SetOption,
    err,
    out,
    print_json,
    resolved,
)

if TYPE_CHECKING:
    from cluster.statefile import StackState
    from loadtest.carrier import CallTarget

ScriptOption = Annotated[
    Path | None, typer.Option("--script", "-s", help="YAML script of the caller; default: the demo's.")
]


def call(
    script: ScriptOption = None,
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Place an emulated call, in real time, against the stack that runs on the data folder."""
    from cluster import statefile
    from loadtest.place import CallProgress, place_call
    from loadtest.script import load_script

    state = statefile.require(resolved(profile, config, overrides, data_dir).settings.data_dir.absolute())
    caller = load_script(script or default_script())
    console = err()

    def show(progress: CallProgress) -> None:
        console.print(f"{progress.at_ms / 1000:7.2f} s  {progress.kind:<16} {progress.text_pii}", markup=False)

    folder = Path(state.run_dir) / "emulated" / caller.name.replace(" ", "-")
    folder = folder.with_name(f"{folder.name}-{_next(folder.parent)}")
    folder.mkdir(parents=True)
    outcome = asyncio.run(place_call(target_of(state), caller, folder, show))
    if as_json:
        print_json(outcome.as_dict())
    else:
        measures = outcome.measures
        out().print(
            f"call {outcome.call_sid}: ended by {outcome.ended_by} ({outcome.reason}), {len(measures.turns)} turns, "
            f"v2v at the socket p50 {measures.v2v_ms.p50:.0f} p95 {measures.v2v_ms.p95:.0f} ms, "
            f"{len(measures.barge_ins)} barge-ins; recording {outcome.wav}",
            markup=False,
        )
    if not outcome.ok:
        raise typer.Exit(1)


def default_script() -> Path:
    """The demo's script."""
    import loadtest

    return Path(loadtest.__path__[0]) / "scripts" / "demo.yaml"


def target_of(state: StackState) -> CallTarget:
    """How the emulator reaches a running stack: local addresses, signatures over the public ones."""
    from loadtest.carrier import CallTarget

    return CallTarget(
        webhook_url=state.local_url,
        auth_token=state.secret_auth_token,
        public_url=state.public_url if state.public_url != state.local_url else "",
        media_url=state.local_media_url if state.local_media_url != state.media_url else "",
    )


def _next(folder: Path) -> int:
    return len(list(folder.iterdir())) + 1 if folder.is_dir() else 1
