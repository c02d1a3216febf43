"""``voice-agent calls``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.commands.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    ProfileOption,
    SetOption,
    out,
    print_table,
    resolved,
)


def list_calls(
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=200)] = 20,
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List calls, newest first."""
    from cluster import records

    settings = resolved(profile, config, overrides, data_dir).settings
    rows = records.calls(settings, limit)
    if as_json:
        _print_json(rows)
        return
    if not rows:
        out().print("No calls yet.")
        return
    cells = [
        (
            row["call_id"],
            str(row["started_at"])[:19].replace("T", " "),
            f"{row['duration_ms'] / 1000:.1f}",
            str(row["turns"]),
            str(row["barge_ins"]),
            row["end_reason"] or "live",
        )
        for row in rows
    ]
    print_table(("call", "started", "seconds", "turns", "barge-ins", "ended"), cells)


def show(
    call_id: Annotated[str, typer.Argument(help="The call's id (Twilio's CallSid).")],
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one call: what was said, what was heard, and how long each stage took."""
    from cluster import records

    settings = resolved(profile, config, overrides, data_dir).settings
    call = records.call(settings, call_id)
    if as_json:
        _print_json(call)
        return
    console = out()
    console.print(
        f"{call['call_id']}  {str(call['started_at'])[:19]}  {call['duration_ms'] / 1000:.1f} s  {call['end_reason']}",
        style="bold",
        markup=False,
    )
    for turn in call["turn_records"]:
        if turn["caller_text_pii"]:
            console.print(f"  caller  {turn['caller_text_pii']}", markup=False, style="cyan")
        heard = "" if turn["outcome"] == "completed" else f"  [{turn['outcome']}; heard: {turn['heard_text_pii']}]"
        console.print(f"  agent   {turn['agent_text_pii']}{heard}", markup=False)
        if turn["v2v_self_ms"] is not None:
            sources = ", ".join(turn["sources"])
            told = f"          {turn['v2v_self_ms']} ms, self-reported" + (f"; from {sources}" if sources else "")
            console.print(told, markup=False, style="dim")


def _print_json(value: Any) -> None:
    import json

    out().print_json(json.dumps(value, default=str))
