"""The command line, as far as it needs no running stack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import statefile
from cluster.cli import app
from cluster.doctor import Finding

runner = CliRunner()

_COMMANDS = (
    ["up"],
    ["demo"],
    ["call"],
    ["doctor"],
    ["kb", "ingest"],
    ["kb", "ask"],
    ["kb", "list"],
    ["kb", "remove"],
    ["config", "show"],
    ["calls", "list"],
    ["calls", "show"],
    ["flow", "check"],
    ["flow", "show"],
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ``.env`` and no data folder of this checkout."""
    monkeypatch.chdir(tmp_path)
    for name in ("TWILIO_AUTH_TOKEN", "TWILIO_ACCOUNT_SID", "PUBLIC_URL", "VOICE_AGENT_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("command", _COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: list[str]) -> None:
    result = runner.invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_help_imports_nothing_heavy() -> None:
    heavy = "ray", "numpy", "onnxruntime", "qdrant_client", "matplotlib", "asyncpg", "fastapi"
    program = f"import sys, cluster.cli; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_wrong_setting_is_one_sentence_and_status_1() -> None:
    result = runner.invoke(app, ["config", "show", "--set", "turn.endpoint=5"])
    assert result.exit_code == 1
    assert "turn.endpoint" in result.output
    assert "Traceback" not in result.output


def test_config_show_says_where_values_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("extends: simulated\nturn:\n  endpoint_ms: 600\n")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "hidden-value")
    result = runner.invoke(app, ["config", "show", "-c", str(own), "--set", "media.lead_ms=200", "--json"])
    assert result.exit_code == 0
    shown = json.loads(result.output)
    assert shown["turn.endpoint_ms"] == {"value": 600, "origin": f"{own}:3"}
    assert shown["media.lead_ms"] == {"value": 200, "origin": "--set"}
    assert shown["stt.engine"]["value"] == "simulated"
    assert shown["twilio.auth_token"]["origin"] == "environment TWILIO_AUTH_TOKEN"
    assert "hidden-value" not in result.output


@pytest.mark.parametrize("command", [["call"], ["call", "--json"]], ids=" ".join)
def test_call_without_a_stack_says_what_to_do(command: list[str], tmp_path: Path) -> None:
    result = runner.invoke(app, [*command, "--data-dir", str(tmp_path / "var")])
    assert result.exit_code == 1
    assert "voice-agent up" in result.output


def test_ingest_of_a_missing_file_says_which() -> None:
    result = runner.invoke(app, ["kb", "ingest", "nowhere.md"])
    assert result.exit_code == 1
    assert "nowhere.md" in result.output


def test_flows_are_checked_and_drawn(tmp_path: Path) -> None:
    shipped = runner.invoke(app, ["flow", "check", "order_status", "appointment"])
    assert shipped.exit_code == 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("flow: f\nstart: a\nstates:\n  a: {say: hello, next: nowhere}\n")
    checked = runner.invoke(app, ["flow", "check", "order_status", str(wrong)])
    assert checked.exit_code == 1
    assert f"{wrong}:4: states.a.next = 'nowhere': one of a is wanted" in checked.output
    tree = runner.invoke(app, ["flow", "show", "order_status"])
    assert "look_up_order.status equals delivered" in tree.output
    assert "To leave a message, press two. Or just ask me a question." in tree.output
    assert "ask_order  ask order_number (digits)" in tree.output
    assert "human  transfer to staff" in tree.output
    picture = tmp_path / "flow.png"
    text = runner.invoke(app, ["flow", "show", "appointment", "--dot", "--png", str(picture)])
    assert 'checked -> again [label="otherwise"];' in text.output
    assert 'keep [label="keep\\ntool take_message"' in text.output
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_doctor_fails_when_something_must_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_wrong(_: object) -> list[Finding]:
        return [Finding("ports", "ok", "free"), Finding("disk", "fail", "full [of] it", "make room")]

    monkeypatch.setattr("cluster.doctor.examine", one_wrong)
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "full [of] it" in result.output
    assert "make room" in result.output
    as_json = runner.invoke(app, ["doctor", "--json"])
    assert as_json.exit_code == 1
    assert [finding["status"] for finding in json.loads(as_json.output)] == ["ok", "fail"]


def test_doctor_names_the_holder_of_a_port(tmp_path: Path) -> None:
    import socket

    from cluster.doctor import examine
    from configs.loader import resolve

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        sets = [
            f"server.webhook_port={port}",
            f"data_dir={tmp_path}",
            "server.media_port=0",
            "telemetry.metrics_port=0",
        ]
        findings = {finding.name: finding for finding in examine(resolve("simulated", None, sets, env={}).settings)}
    assert findings["server.webhook_port"].status == "fail"
    assert str(port) in findings["server.webhook_port"].detail
    assert "--set server.webhook_port=0" in findings["server.webhook_port"].advice
    assert findings["server.media_port"].status == "ok"
    assert "simulated" in findings["speech to text (stt)"].detail


def test_a_stack_is_found_only_while_its_process_lives(tmp_path: Path) -> None:
    import os
    import time

    state = statefile.StackState(
        pid=os.getpid(),
        started=time.time(),
        run_id="r",
        run_dir=str(tmp_path),
        profile="simulated",
        public_url="http://127.0.0.1:1",
        local_url="http://127.0.0.1:1",
        media_url="ws://127.0.0.1:2/media",
        local_media_url="ws://127.0.0.1:2/media",
        ray_namespace="voice-agent",
        secret_api_key="key",
        secret_auth_token="token",
    )
    statefile.write(tmp_path, state)
    path = statefile.state_path(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert statefile.find(tmp_path) == state
    assert "key" not in repr(state)
    # A process that began after the file was written is another one with the same number.
    content = json.loads(path.read_text()) | {"started": time.time() - 10 * 365 * 86400}
    path.write_text(json.dumps(content))
    assert statefile.find(tmp_path) is None


def test_one_stack_per_data_folder(tmp_path: Path) -> None:
    first, second = statefile.DataDirLock(tmp_path), statefile.DataDirLock(tmp_path)
    first.acquire()
    with pytest.raises(statefile.StackRunningError, match="another stack"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
