"""Options that commands share, and how they print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from configs.loader import Resolved

ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", "-p", help="embedded (default), gpu, simulated, or the path of a YAML file."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Your own YAML file; it may say `extends: PROFILE`.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value; may be given often and wins over all else.")
]
DataDirOption = Annotated[Path | None, typer.Option("--data-dir", help="Short for --set data_dir=PATH.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

ENV_FILE = Path(".env")


def resolved(
    profile: str | None = None,
    config: Path | None = None,
    overrides: list[str] | None = None,
    data_dir: Path | None = None,
) -> Resolved:
    """Settings from the profile, the file, ``.env``, the environment and the options.

    Raises:
        ConfigError: something in them is wrong.
    """
    from configs.loader import resolve

    chosen = [*(overrides or [])]
    if data_dir is not None:
        chosen.append(f"data_dir={data_dir}")
    return resolve(profile, config, chosen, env_file=ENV_FILE)


def out(width: int | None = None) -> Console:
    """Standard output, for results. ``width`` in characters; None: that of the terminal."""
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False, width=width)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], marked: Callable[[Sequence[str]], bool] = lambda _: False
) -> None:
    """Print rows under a heading each. The first column is what other commands take: it is never cut nor broken.

    On a terminal too narrow for a row the other columns go over several lines; where there is no terminal, cells are
    whole and stand between tabs. ``marked`` rows stand out.
    """
    console = out()
    if not console.is_terminal:
        for row in (columns, *rows):
            print("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    # A column of fixed width is the last one that is made narrower.
    longest = max(len(row[0]) for row in (columns, *rows))
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", width=min(longest, console.width) if number == 0 else None)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row), style="bold cyan" if marked(row) else "")
    console.print(table)


def print_json(value: object) -> None:
    """Print a value for programs; what JSON does not know, times and paths, as text."""
    import json

    out().print_json(json.dumps(value, default=str))


def err() -> Console:
    """Standard error, for progress and problems."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=not sys.stderr.isatty(), highlight=False)
