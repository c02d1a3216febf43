"""``voice-agent calls``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

import typer

from cluster.commands.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    ProfileOption,
    SetOption,
    out,
    print_json,
    print_table,
    resolved,
)
from voice_agent.errors import ConfigError


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
        print_json(rows)
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
            " > ".join(row.get("codes", ())),  # an ingress that an older `up` started has none
        )
        for row in rows
    ]
    print_table(("call", "started", "seconds", "turns", "barge-ins", "ended", "code"), cells)


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
        print_json(call)
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
        if about := _about(turn):
            console.print(f"          {about}", markup=False, style="dim")


def purge(
    older_than: Annotated[str, typer.Option("--older-than", help="An age: 30d (days), 12h (hours).")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much would go.")] = False,
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete calls, messages, results of tools, carrier events and event logs that are older than an age."""
    from datetime import UTC, datetime

    from cluster import records

    settings = resolved(profile, config, overrides, data_dir).settings
    gone = records.purge(settings, datetime.now(UTC) - _age(older_than), dry_run=dry_run)
    if as_json:
        print_json(gone)
    else:
        print_table(("kept of", "would go" if dry_run else "deleted"), [(name, str(n)) for name, n in gone.items()])


def _age(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)([dh])", text.strip())
    age = timedelta(**{"days" if found[2] == "d" else "hours": int(found[1])}) if found else timedelta()
    if age < timedelta(hours=1):
        raise ConfigError(f"--older-than {text!r}: an age of an hour or more is wanted, such as 30d or 12h")
    return age


def _about(turn: dict[str, Any]) -> str:
    """How a turn came about: its latency, the documents it rests on, its tools, what failed under it."""
    latency = "" if turn["v2v_self_ms"] is None else f"{turn['v2v_self_ms']} ms, self-reported"
    parts = [latency] if latency else []
    for name, key in (("from", "sources"), ("tools", "tool_calls"), ("failed", "failed_stages")):
        parts += [f"{name} {', '.join(turn[key])}"] if turn[key] else []
    return "; ".join(parts)
