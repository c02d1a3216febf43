"""The code a stack runs: its packages in a folder, their hash, and a copy of them that can be put into a cluster."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from configs.runtime import CodeVersion
from voice_agent.errors import ConfigError

PACKAGES: Final = (
    "voice_agent",
    "configs",
    "engines",
    "storage",
    "kb",
    "actors",
    "serve_apps",
    "loadtest",
    "cluster",
)
_ENTRY: Final = "import actors.call.actor, serve_apps.build"
_IMPORT_WITHIN_S: Final = 120.0


def root() -> Path:
    """The folder of the code that runs this."""
    return Path(__file__).parent.parent


def installed() -> CodeVersion:
    """What this process runs, as the first version of a stack."""
    return CodeVersion(version=version_of(root()))


def version_of(folder: Path) -> str:
    """Hash of every file of the packages, 12 hex digits.

    Raises:
        ConfigError: a package is missing.
    """
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def copy_to(folder: Path, target: Path) -> None:
    """Copy the packages, and nothing else of the folder.

    Raises:
        ConfigError: a package is missing.
    """
    for path in _files(folder):
        place = target / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def check_imports(folder: Path) -> None:
    """Import the code in a process of its own, so that a slip is told before any actor is made.

    Raises:
        ConfigError: it does not import; the message is the last line of its trace.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ENTRY],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            timeout=_IMPORT_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"the code in {folder} was not imported within {_IMPORT_WITHIN_S:.0f} s") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ConfigError(f"the code in {folder} does not import: {said[-1] if said else 'no reason given'}")


def _files(folder: Path) -> Iterator[Path]:
    for package in PACKAGES:
        if not (folder / package / "__init__.py").is_file():
            raise ConfigError(f"{folder} is no folder of this program's code: it has no package {package}")
        yield from sorted(
            path for path in (folder / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        )
