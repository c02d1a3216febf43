"""``voice-agent doctor``."""

from __future__ import annotations

import typer

from cluster.commands.common import ConfigOption, DataDirOption, JsonOption, ProfileOption, SetOption, out, resolved

_STYLE = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "bold red"}


def doctor(
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at this machine and say what is missing and what to do. Exit status 1 when something must be done."""
    from cluster.doctor import examine

    settings = resolved(profile, config, overrides, data_dir).settings
    console = out()
    findings = []
    for finding in examine(settings):
        findings.append(finding)
        if not as_json:
            from rich.text import Text

            sign = (f"{finding.status:<6}", _STYLE[finding.status])
            console.print(Text.assemble(sign, f"{finding.name:<26}{finding.detail}"))
            if finding.advice:
                console.print(Text(f"{'':<32}-> {finding.advice}", style="dim"))
    failed = sum(finding.status == "fail" for finding in findings)
    if as_json:
        import json
        from dataclasses import asdict

        console.print_json(json.dumps([asdict(finding) for finding in findings]))
    else:
        console.print("Ready." if not failed else f"{failed} thing(s) to do.", style="bold")
    if failed:
        raise typer.Exit(1)
