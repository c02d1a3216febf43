"""Writes ``docs/configuration.md`` from the models: ``python -m configs.catalogue > docs/configuration.md``."""

from __future__ import annotations

import sys
from pathlib import Path

from configs import fields
from configs.layers import ALIASES, PREFIX
from configs.loader import profiles

_TABLE = "| key | type | default | meaning |\n|---|---|---|---|\n"
_HEAD = f"""# Configuration

Every setting, with its type, default and meaning. This page is made from the models in `configs/settings.py`
(`python -m configs.catalogue > docs/configuration.md`); a test fails when it is stale.

Values come from, the later winning over the earlier:

1. the defaults below,
2. the profile (`--profile NAME`, `{{profiles}}`, or a path to a YAML file; `extends:` names the one it builds on),
3. your own YAML file (`--config FILE`; it may say `extends:` instead of `--profile`),
4. a `.env` file,
5. the environment: `{PREFIX}SECTION__KEY`, e.g. `{PREFIX}TURN__ENDPOINT_MS=500`, and {{aliases}},
6. `--set section.key=value`.

`voice-agent config show` prints every value with the place it came from. Secrets are printed as `{fields.MASK}`.
Unknown keys, values out of range and broken YAML stop the start with the file, the line, the key and what is allowed.

`options` belong to the engine beside them: a file or variable that changes `engine` drops the options set for the
engine before it.
"""


def render() -> str:
    """The page as Markdown."""
    aliases = ", ".join(f"`{variable}` (`{name}`)" for variable, name in ALIASES.items())
    parts = [_HEAD.format(profiles="`, `".join(profiles()), aliases=aliases)]
    for section, model in fields.sections().items():
        members = [fields.all_keys()[name] for name in _members(section)]
        title = f"`{section}`" if section else "Top level"
        parts.append(f"\n## {title}\n\n{(model.__doc__ or '').strip()}\n\n{_TABLE}")
        parts += [_row(key) for key in members]
    return "".join(parts)


def _members(section: str) -> list[str]:
    return [name for name in fields.all_keys() if name.rpartition(".")[0] == section]


def _row(key: fields.Key) -> str:
    default = fields.shown(key.name, key.default)
    text = "empty" if default in ("", [], {}) else f"`{_plain(default)}`"
    secret = " Secret." if key.secret else ""
    return f"| `{key.name}` | {_cell(key.allowed)} | {_cell(text)} | {_cell(key.description)}{secret} |\n"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    page = render()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page, encoding="utf-8")
    else:
        sys.stdout.write(page)
