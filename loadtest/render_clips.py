"""Render the callers' lines with flite into the clips that ship with the package: ``python -m loadtest.render_clips``.

Run it after a line of a shipped script was changed; clips of lines that are gone are removed.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from engines import registry
from loadtest.script import load_script
from loadtest.speech import CLIPS, CallerSpeech, clip_name, write_mulaw_wav

SCRIPTS = Path(__file__).parent / "scripts"
MOST_BYTES = 400_000
"""The clips together stay below this."""


def shipped_lines() -> dict[str, tuple[str, str]]:
    """Every (text, voice) of the shipped scripts by the name of its clip."""
    lines = {line for path in sorted(SCRIPTS.glob("*.yaml")) for line in load_script(path).lines}
    return {clip_name(*line): line for line in sorted(lines)}


def render(folder: Path = CLIPS) -> int:
    """Write all clips; returns their size in bytes.

    Raises:
        EngineUnavailableError: flite is not installed.
    """
    wanted = shipped_lines()
    spoken = asyncio.run(CallerSpeech(registry.load("tts", "flite", {})).lines(wanted.values()))
    for path in folder.glob("*.wav"):
        if path.name not in wanted:
            path.unlink()
    for name, line in wanted.items():
        write_mulaw_wav(folder / name, spoken[line])
    return sum(path.stat().st_size for path in folder.glob("*.wav"))


def main() -> None:
    """Render and tell the size."""
    size_bytes = render()
    print(f"{len(shipped_lines())} clips, {size_bytes / 1000:.0f} kB")
    if size_bytes > MOST_BYTES:
        raise SystemExit(f"the clips are larger than {MOST_BYTES / 1000:.0f} kB together")


if __name__ == "__main__":
    main()
