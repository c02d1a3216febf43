"""``voice-agent up`` with simulated engines in a child process, and emulated calls to it, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import processes, statefile
from cluster.api import Api
from cluster.commands.call import target_of
from loadtest.carrier import CallTarget
from loadtest.place import CallOutcome, place_call, place_calls
from loadtest.script import CallerScript, Step
from voice_agent.errors import EngineUnavailableError

# Ceilings, for a machine that others use as well: what is waited for ends the wait.
START_WITHIN_S = 500.0
END_WITHIN_S = 200.0
QUESTION = "Where is your shop?"


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

    def let_go(self, within_s: float = 60.0) -> None:
        """Let go of its leash: it ends by itself, and well."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(timeout=within_s) == 0

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


@dataclass
class Line:
    """A running stack, and the way to call it."""

    api: Api
    target: CallTarget
    folder: Path

    def place(self, name: str, *steps: Any) -> CallOutcome:
        script = CallerScript(name, steps, max_call_ms=60_000)
        try:
            return asyncio.run(place_call(self.target, script, self.folder / name))
        except EngineUnavailableError as error:
            pytest.skip(str(error))

    def ended(self, call_sid: str) -> dict[str, Any]:
        """The call as Postgres has it, once it is recorded as over."""
        return self.until(lambda: self._call(call_sid), lambda call: call.get("ended_at") is not None)

    def idle(self) -> dict[str, Any]:
        """The state of the stack, once no part of it holds anything of a call."""
        return self.until(lambda: self.api.get("/api/status"), lambda status: not any(_held(status).values()))

    def _call(self, call_sid: str) -> dict[str, Any]:
        known = [call["call_id"] for call in self.api.get("/api/calls")["calls"]]
        return self.api.get(f"/api/calls/{call_sid}") if call_sid in known else {}

    @staticmethod
    def until(ask: Callable[[], dict[str, Any]], good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline_s = time.monotonic() + END_WITHIN_S
        while not good(answer := ask()):
            assert time.monotonic() < deadline_s, answer
            time.sleep(0.2)
        return answer


def _held(status: dict[str, Any]) -> dict[str, Any]:
    """What is held of calls, by who holds it."""
    dispatcher = status["dispatcher"]
    held = {f"dispatcher {key}": dispatcher[key] for key in ("live", "reserved")}
    for host_id, host in dispatcher["hosts"].items():
        held |= {f"{host_id} {key}": host[key] for key in ("calls", "orphans", "tasks", "open_requests")}
    for gateway_id, gateway in status["gateways"].items():
        held |= {f"{gateway_id} {key}": gateway[key] for key in ("calls", "sockets", "tasks", "attached")}
    return held


class Talk(Sequence[Step]):
    """The same question again and again, until it is over; then the last steps, of which the last hangs up."""

    def __init__(self, over: threading.Event, question: Step, *last: Step) -> None:
        self._over, self._question, self._last = over, question, last
        self._last_from: int | None = None

    def __len__(self) -> int:
        return 1_000

    def __getitem__(self, index: Any) -> Any:
        if self._last_from is None and self._over.is_set():
            self._last_from = index
        return self._question if self._last_from is None else self._last[index - self._last_from]

    def __iter__(self) -> Iterator[Step]:
        return iter((self._question, *self._last))


class Calls(threading.Thread):
    """Emulated calls beside the test."""

    def __init__(self, line: Line, name: str, *steps: Any) -> None:
        super().__init__(daemon=True)
        self._scripts = [CallerScript(f"{name} {n}", some, max_call_ms=600_000) for n, some in enumerate(steps)]
        self._line, self._folder = line, line.folder / name
        self.outcomes: list[CallOutcome] = []

    def run(self) -> None:
        self.outcomes = asyncio.run(place_calls(self._line.target, self._scripts, self._folder, 1.0))


@contextlib.contextmanager
def line_to(up: Up) -> Iterator[Line]:
    """The way to call a stack that is ready."""
    state = statefile.require(up.data_dir)
    with Api(state) as api:
        yield Line(api, target_of(state), up.data_dir.parent)


@contextlib.contextmanager
def called(folder: Path, **more: object) -> Iterator[Line]:
    """A stack as ``launched`` starts it, once it is ready; afterwards it ends by itself."""
    with launched(folder, **more) as up:
        up.ready()
        with line_to(up) as line:
            yield line
        up.let_go()


def turns_of(line: Line, call_id: str) -> list[dict[str, Any]]:
    call = line.ended(call_id)
    assert call["end_reason"] in ("caller_hung_up", "silence")
    assert call["turns"] == len(call["turn_records"])
    return list(call["turn_records"])


def live(line: Line) -> dict[str, Any]:
    return dict(line.api.get("/api/status")["dispatcher"])
