"""``voice-agent tools``."""

from __future__ import annotations

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


def list_tools(
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the tools, what they take, and who a caller may be connected to."""
    from configs.tool_files import load_tools
    from voice_agent.tools import usable

    settings = resolved(profile, config, overrides, data_dir).settings
    specs = load_tools(settings)
    if as_json:
        from dataclasses import asdict

        listed = [asdict(spec) | {"usable": usable(spec)} for spec in specs]
        targets = settings.tools.transfer_targets
        print_json({"tools": listed, "transfer_targets": targets})
        return
    rows = []
    for spec in specs:
        takes = ", ".join(one.name if one.required else f"[{one.name}]" for one in spec.parameters)
        state = "" if usable(spec) else "not configured"
        rows.append((spec.name, spec.kind, takes, f"{spec.timeout_ms} ms", state, spec.description))
    print_table(("tool", "kind", "takes", "timeout", "", "description"), rows)
    for name, target in settings.tools.transfer_targets.items():
        out().print(f"transfer target {name}: {target}", markup=False)
