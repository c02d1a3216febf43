"""A whole stack: what it tells when it is ready, and that nothing of it is left, however it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from stack_kit import END_WITHIN_S, Up, launched

from cluster import statefile
from cluster.api import Api
from storage.embedded import EmbeddedPostgres

pytestmark = [pytest.mark.ray, pytest.mark.postgres]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    with launched(tmp_path) as stack:
        yield stack


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
    assert up.process.wait(timeout=END_WITHIN_S) == 0
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
    deadline = time.monotonic() + END_WITHIN_S
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
    assert up.process.wait(timeout=END_WITHIN_S) == 0
    assert up.left(within_s=5.0) == []
    assert EmbeddedPostgres(up.data_dir).pid is None
