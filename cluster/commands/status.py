"""``voice-agent status``: what the running stack says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import typer

from cluster.commands.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    ProfileOption,
    SetOption,
    out,
    print_json,
    resolved,
)


def status(
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what runs: calls, gateways, call actors, engines, breakers. Exit status 1 when something is not well."""
    from cluster import statefile
    from cluster.api import Api

    state = statefile.require(resolved(profile, config, overrides, data_dir).settings.data_dir.absolute())
    with Api(state) as api:
        report = api.get("/api/status")
    if as_json:
        print_json(report)
    else:
        for line in lines_of(report):
            out().print(line, markup=False)
    if troubles_of(report):
        raise typer.Exit(1)


def lines_of(report: Mapping[str, Any]) -> list[str]:
    """``/api/status`` in words, what is wrong last."""
    dispatcher = report["dispatcher"]
    lines = [f"run {report['run_id']}, profile {report['profile']}"]
    if "error" not in dispatcher:
        rollout = dispatcher["rollout"]["phase"]
        lines.append(
            f"calls: {dispatcher['live']} live of {dispatcher['max_calls']}, room for {dispatcher['free']} more;"
            f" code {dispatcher['code']['number']}, deploy {rollout}"
        )
        lines += [_gateway(name, gateway) for name, gateway in report["gateways"].items() if "error" not in gateway]
        lines += [_actor(name, host) for name, host in dispatcher["hosts"].items()]
    if "error" not in report["engines"]:
        lines += list(_engines(report["engines"]))
    return lines + [f"! {trouble}" for trouble in troubles_of(report)]


def _gateway(name: str, gateway: Mapping[str, Any]) -> str:
    return f"{name}: {len(gateway['calls'])} calls, loop lag {gateway['loop_lag_ms']:.0f} ms"


def _actor(name: str, host: Mapping[str, Any]) -> str:
    code = f"code {host['code']} {host['version'][:8]}".rstrip()
    return f"{name}: {len(host['calls'])} calls of {host['capacity']}, {code}, loop lag {host['loop_lag_ms']:.0f} ms"


def _engines(engines: Mapping[str, Any]) -> Iterator[str]:
    for stage, replicas in engines.items():
        for number, replica in enumerate(replicas, start=1):
            for name, engine in replica.items():
                faults = sum(engine["faults"].values())
                yield f"{stage} {number}: {name} {engine['breaker']}, used {engine['used']} times, {faults} faults"


def troubles_of(report: Mapping[str, Any]) -> list[str]:
    """What is not as it should be: parts that do not answer, a full house, breakers that are not closed."""
    parts = {name: report[name] for name in ("dispatcher", "journal", "engines")} | dict(report["gateways"])
    found = [f"{name} does not answer: {part['message']}" for name, part in parts.items() if "error" in part]
    dispatcher = report["dispatcher"]
    if "error" not in dispatcher:
        if not dispatcher["free"]:
            found.append("full: the next caller waits")
        overload = dispatcher["overload"]
        if overload["level"]:
            found.append(
                f"overload level {overload['level']} ({overload['action']}), {overload['waiting']} callers wait"
            )
        for name, host in dispatcher["hosts"].items():
            found += [f"{name} {trouble}" for trouble in _avoided(host["stages"])]
    if report["journal"].get("store_away"):
        found.append("Postgres is away; the journal spools to its disk")
    if "error" not in report["engines"]:
        for stage, replicas in report["engines"].items():
            opened = {name for replica in replicas for name, one in replica.items() if one["breaker"] != "closed"}
            found += [f"{stage}: the engine {name} is skipped" for name in sorted(opened)]
    return found


def _avoided(stages: Mapping[str, Any]) -> Iterator[str]:
    for stage, seen in stages.items():
        if seen["answering"] != seen["engine"]:
            yield f"is answered by {seen['answering']} instead of {seen['engine']} ({stage})"
        for replica, breaker in seen["replicas"].items():
            yield f"avoids the {stage} replica {replica} ({breaker})"
