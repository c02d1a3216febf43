"""``voice-agent up`` with simulated engines in a child process, for tests."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cluster import processes

# Ceilings, for a machine that others use as well: what is waited for ends the wait.
START_WITHIN_S = 500.0
END_WITHIN_S = 200.0


@dataclass
class Up:
    """``voice-agent up`` in a child process with its own process group, as a terminal gives it."""

    data_dir: Path
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        while not any(words in line for line in self.said):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def ready(self) -> dict[str, Any]:
        timer = threading.Timer(START_WITHIN_S, self.process.kill)
        timer.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        timer.cancel()
        assert line, self.said
        ready: dict[str, Any] = json.loads(line)
        return ready

    def left(self, within_s: float = END_WITHIN_S) -> list[str]:
        """Command lines of processes that carry the mark of this stack and outlive it."""
        deadline = time.monotonic() + within_s
        while True:
            alive = _descendants_by_mark(self.process.pid)
            if not alive or time.monotonic() > deadline:
                return alive
            time.sleep(0.1)


def _descendants_by_mark(pid: int) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(processes.MARK, "")
            if mark.endswith(f"/{pid}") and process.pid != pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:100]}")
        except (psutil.Error, OSError):
            continue
    return found


@contextlib.contextmanager
def launched(tmp_path: Path, **more: object) -> Iterator[Up]:
    """Begin to start a stack in ``tmp_path``, killed at the end; ``more`` are settings, with ``__`` for the dot."""
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "hours.md").write_text("# Hours\n\nWe open at nine in the morning.\n")
    sets: dict[str, object] = {
        "data_dir": tmp_path / "var",
        "runs_dir": tmp_path / "runs",
        "kb.sources": json.dumps([str(tmp_path / "kb")]),
        "server.webhook_port": 0,
        "server.media_port": 0,
        "telemetry.metrics_port": 0,
        "calls.max_calls": 1,
        "calls.calls_per_actor": 1,
        "calls.spare_actors": 0,
    } | {key.replace("__", "."): value for key, value in more.items()}
    command = [sys.executable, "-m", "cluster.cli", "up", "--leash", "--profile", "simulated"]
    command += [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("RAY_", "VOICE_AGENT", "TWILIO")) and key != "PUBLIC_URL"
    }
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=tmp_path, start_new_session=True
    )
    stack = Up(tmp_path / "var", process)

    def keep() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            stack.said.append(line)

    threading.Thread(target=keep, daemon=True).start()
    try:
        yield stack
    finally:
        process.kill()
        process.wait()
        stack.left()
