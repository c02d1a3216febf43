"""A small process that cleans up after a stack whose own process was killed.

``voice-agent up`` starts it in a session of its own, so that Ctrl-C at the terminal does not reach it, and holds the
other end of its standard input. The first line is a ``Charge`` as JSON. A line ``done`` means that the stack ended by
itself. End of file without it means that the stack's process is gone: whatever carries its mark is ended, the embedded
Postgres is stopped unless another process uses it, and the stack's temporary files are removed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cluster import processes

_DONE = "done\n"


@dataclass(frozen=True, slots=True)
class Charge:
    """What the guard answers for. ``data_dir`` is empty when the stack has no Postgres of its own."""

    mark: str
    data_dir: str
    state_file: str
    folders: tuple[str, ...]
    natural_end_s: float = 4.0
    grace_s: float = 3.0


class Guard:
    """The stack's handle on its guard."""

    def __init__(self, charge: Charge) -> None:
        environment = {key: value for key, value in os.environ.items() if key != processes.MARK}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cluster.guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
            cwd=Path(__file__).resolve().parent.parent,
            text=True,
        )
        assert self._process.stdin is not None
        self._stdin = self._process.stdin
        self._stdin.write(json.dumps(asdict(charge)) + "\n")
        self._stdin.flush()

    @property
    def pid(self) -> int:
        """Process id of the guard."""
        return self._process.pid

    def release(self) -> None:
        """Tell the guard that nothing is left to do, and wait for its end."""
        try:
            self._stdin.write(_DONE)
            self._stdin.close()
        except BrokenPipeError:
            return
        try:
            self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()


def clean_up(charge: Charge) -> None:
    """End what a dead stack has left behind."""
    deadline = time.monotonic() + charge.natural_end_s
    left = _left(charge)
    # Ray's processes end with their parent by themselves, in order; only what does not is ended from here.
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = _left(charge)
    processes.end(left, grace_s=charge.grace_s)
    if charge.data_dir:
        _stop_postgres(Path(charge.data_dir))
    for folder in charge.folders:
        shutil.rmtree(folder, ignore_errors=True)
    if charge.state_file:
        Path(charge.state_file).unlink(missing_ok=True)


def _left(charge: Charge) -> list[psutil.Process]:
    # Postgres may be shared with another process of this machine; it has its own way out below.
    return [process for process in processes.marked(charge.mark) if processes.kind_of(process) != "postgres"]


def _stop_postgres(data_dir: Path) -> None:
    from storage.embedded import EmbeddedPostgres

    server = EmbeddedPostgres(data_dir)
    if server.pid is not None:
        server.start()
        server.stop()


def main() -> None:
    """Wait for the end of the stack."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    first = sys.stdin.readline()
    if not first:
        return
    charge = Charge(**json.loads(first))
    if sys.stdin.readline() != _DONE:
        clean_up(charge)


if __name__ == "__main__":
    main()
