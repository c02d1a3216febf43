"""``voice-agent config show``."""

from __future__ import annotations

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


def show(
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every setting, its value, and where the value came from. Secrets are not shown."""
    rows = resolved(profile, config, overrides, data_dir).rows()
    if as_json:
        print_json({key: {"value": value, "origin": origin} for key, value, origin in rows})
        return
    cells = [(key, str(value), origin) for key, value, origin in rows]
    print_table(("setting", "value", "from"), cells, marked=lambda row: row[2] != "default")
