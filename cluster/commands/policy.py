"""``voice-agent policy``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    ProfileOption,
    SetOption,
    print_json,
    print_table,
    resolved,
)

if TYPE_CHECKING:
    from configs.policies import Policies
    from configs.policy_costs import RuleCost
    from voice_agent.policy.rules import Rule


def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Policy files, in order; `default` ships with the program. None: those of the settings."),
    ] = None,
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check policy files, and measure what each rule costs against its budget. Exit status 1 when one is too slow."""
    from configs import policies
    from configs.policy_costs import measure

    settings = resolved(profile, config, overrides, data_dir).settings
    if files:
        settings = settings.model_copy(update={"policy": settings.policy.model_copy(update={"files": files})})
    loaded = policies.in_force(settings, probe=True)
    costs = measure(loaded.rules)
    if as_json:
        print_json(
            [
                {"id": cost.id, "budget_ms": cost.budget_ms, "typical_ms": cost.typical_ms, "worst_ms": cost.worst_ms}
                | {"fits": cost.fits, "origin": loaded.origin[cost.id]}
                for cost in costs
            ]
        )
    else:
        print_table(("rule", "typical", "worst", "budget", "", "from"), [_cost_row(cost, loaded) for cost in costs])
    if not all(cost.fits for cost in costs):
        raise typer.Exit(1)


def show(
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the rules in force, in the order they are asked."""
    from configs import policies

    loaded = policies.in_force(resolved(profile, config, overrides, data_dir).settings)
    if as_json:
        print_json([_as_dict(rule, loaded) for rule in loaded.rules.rules])
        return
    rows = [
        (rule.id, *_in_words(rule), f"{rule.budget_ms:g} ms", loaded.origin[rule.id]) for rule in loaded.rules.rules
    ]
    print_table(("rule", "kind", "looks for", "does", "budget", "from"), rows)


def _cost_row(cost: RuleCost, loaded: Policies) -> tuple[str, ...]:
    times = (f"{value:.3f} ms" for value in (cost.typical_ms, cost.worst_ms, cost.budget_ms))
    return (cost.id, *times, "" if cost.fits else "over", loaded.origin[cost.id])


def _in_words(rule: Rule) -> tuple[str, str, str]:
    """Kind of a rule, what it looks for, what it does."""
    from configs.policies import KIND_OF
    from voice_agent.policy import rules

    kind = KIND_OF[type(rule)]
    match rule:
        case rules.Redact():
            return kind, ", ".join(rule.find), f"masks in what is {', '.join(rule.where)}"
        case rules.Abuse():
            return kind, _words(rule.match), f"warns at {rule.warn_after}, ends the call at {rule.end_after} in a row"
        case rules.Escalate():
            return kind, _words(rule.match), f"transfers to {rule.to}" if rule.to else f"says: {rule.unavailable}"
        case rules.Failures():
            active = f"transfers to {rule.to}" if rule.to and rule.after else "nothing: it has no target or no number"
            return kind, f"{rule.after} failures in a row", active
        case rules.ForbiddenTopic():
            return kind, _words(rule.match), f"says: {rule.say}"
        case rules.ForbiddenSpeech():
            does = f"says: {rule.replace}" if rule.replace else "drops the clause"
            return kind, _words(rule.match), does + (", ends the reply" if rule.stop else "")
        case rules.Disclosure():
            return kind, "the start of a call", f"says: {rule.say}"


def _words(match: Any) -> str:
    return f"{len(match.phrases)} phrases, {len(match.patterns)} patterns"


def _as_dict(rule: Rule, loaded: Policies) -> dict[str, Any]:
    from dataclasses import asdict

    from configs.policies import KIND_OF

    return {"kind": KIND_OF[type(rule)], "origin": loaded.origin[rule.id], **asdict(rule)}
