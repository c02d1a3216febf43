"""A whole stack: what it tells when it is ready, and that nothing of it is left, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster import processes, statefile
from cluster.api import Api
from storage.embedded import EmbeddedPostgres

pytestmark = [pytest.mark.ray, pytest.mark.postgres]

_START_WITHIN_S = 150.0
_END_WITHIN_S = 60.0


@dataclass
class Up:
    """``voice-agent up`` in a child process with its own process group, as a terminal gives it."""

    data_dir: Path
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + _START_WITHIN_S
        while not any(words in line for line in self.said):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def ready(self) -> dict[str, Any]:
        timer = threading.Timer(_START_WITHIN_S, self.process.kill)
        timer.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        timer.cancel()
        assert line, self.said
        ready: dict[str, Any] = json.loads(line)
        return ready

    def left(self, within_s: float = _END_WITHIN_S) -> list[str]:
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


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "hours.md").write_text("# Hours\n\nWe open at nine in the morning.\n")
    sets = {
        "data_dir": tmp_path / "var",
        "runs_dir": tmp_path / "runs",
        "kb.sources": json.dumps([str(tmp_path / "kb")]),
        "server.webhook_port": 0,
        "server.media_port": 0,
        "telemetry.metrics_port": 0,
        "calls.max_calls": 1,
        "calls.calls_per_actor": 1,
        "calls.spare_actors": 0,
    }
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


@pytest.mark.timeout(280)
def test_a_stack_tells_what_it_is_and_ends_with_its_leash(up: Up) -> None:
    ready = up.ready()
    assert ready["ready"] is True
    assert ready["webhook_url"].endswith("/twilio/voice")
    assert ready["media_url"].startswith("ws://127.0.0.1:")
    wanted = {"cli", "guard", "postgres", "ray_gcs", "ray_raylet", "media_gateway", "dispatcher", "journal"}
    assert wanted | {"call_actor", "stt", "llm", "tts", "retriever", "ingress"} <= set(ready["pids"])
    state = statefile.require(up.data_dir)
    assert state.pid == up.process.pid
    with Api(state) as api:
        assert [document["title"] for document in api.get("/api/kb/documents")["documents"]] == ["Hours"]
        assert api.get("/api/calls")["calls"] == []
    unsigned = httpx.post(ready["webhook_url"], data={"CallSid": "CA" + "1" * 32}, trust_env=False)
    assert unsigned.status_code == 403
    assert httpx.get(f"{state.local_url}/api/calls", trust_env=False).status_code == 401
    secrets = (state.secret_api_key, state.secret_auth_token)
    assert not any(secret in line for line in [json.dumps(ready), *up.said] for secret in secrets)

    assert up.process.stdin is not None
    up.process.stdin.close()
    assert up.process.wait(timeout=_END_WITHIN_S) == 0
    assert up.left() == []
    assert statefile.find(up.data_dir) is None
    assert not statefile.state_path(up.data_dir).exists()
    assert list(Path(ready["run_dir"]).glob("logs/ray/*")), "Ray's logs are kept with the run"


@pytest.mark.timeout(280)
def test_a_killed_stack_leaves_nothing(up: Up) -> None:
    ready = up.ready()
    up.process.send_signal(signal.SIGKILL)
    up.process.wait()
    assert up.left() == []
    guard = ready["pids"]["guard"][0]
    deadline = time.monotonic() + _END_WITHIN_S
    while psutil.pid_exists(guard) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(guard)
    assert EmbeddedPostgres(up.data_dir).pid is None
    assert not statefile.state_path(up.data_dir).exists()


@pytest.mark.timeout(280)
@pytest.mark.parametrize("during", ["postgres", "models"])
def test_ctrl_c_while_it_starts_leaves_nothing(up: Up, during: str) -> None:
    # After "postgres" Ray is half started, with "models" the Serve applications are.
    up.wait_for("+ ray " if during == "models" else "+ postgres ")
    time.sleep(1.5)
    os.killpg(up.process.pid, signal.SIGINT)  # a terminal signals the whole group
    assert up.process.wait(timeout=_END_WITHIN_S) == 0
    assert up.left(within_s=5.0) == []
    assert EmbeddedPostgres(up.data_dir).pid is None
