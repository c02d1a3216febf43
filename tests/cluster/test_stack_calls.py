"""A whole stack from its start to its end: what it tells of itself, real calls through it over real sockets, what is
recorded and left of them, a deploy and a frozen actor under calls, and that nothing of the stack is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from stack_kit import END_WITHIN_S, QUESTION, Calls, Line, Talk, Up, launched, line_to, live, turns_of

from cluster import code, forking, statefile
from loadtest.script import After, AgentSilent, HangUp, Say

pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.audio, pytest.mark.timeout(900)]

_ANSWER = "def answer(self, memory: Memory, caller: CallerInput) -> Plan:\n"
_WRONG = _ANSWER + '        raise RuntimeError("this version is wrong")\n'
_OLD, _NEW = "return self._phrases.reprompt", 'return "This is version two."'


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    settings = {"calls__max_calls": 3, "calls__spare_actors": 1, "turn__reprompt_after_s": 3.5}
    folder = tmp_path_factory.mktemp("stack")
    with launched(folder, llm__options__text="We open at nine.", **settings) as up:
        yield up


@pytest.fixture(scope="module")
def ready(up: Up) -> dict[str, Any]:
    return up.ready()


@pytest.fixture(scope="module")
def line(up: Up, ready: dict[str, Any]) -> Iterator[Line]:
    assert ready["ready"] is True
    with line_to(up) as line:
        yield line


def test_a_stack_tells_what_it_is_but_no_secret(up: Up, ready: dict[str, Any], line: Line) -> None:
    assert ready["webhook_url"].endswith("/twilio/voice")
    assert ready["media_url"].startswith("ws://127.0.0.1:")
    wanted = {"cli", "guard", "postgres", "ray_gcs", "ray_raylet", "media_gateway", "dispatcher", "journal"}
    workers = {"call_actor", "stt", "llm", "tts", "retriever", "ingress"}
    assert wanted | workers <= set(ready["pids"])
    if forking.possible():
        parents = {psutil.Process(pid).ppid() for kind in workers for pid in ready["pids"][kind]}
        assert len(parents) == 1
        assert parents <= set(ready["pids"]["fork_server"]), "workers are forked"
    unused = {"ray_monitor", "ray_log_monitor", "ray_dashboard"}
    assert not unused & set(ready["pids"]), "nobody asked for the dashboard"
    state = statefile.require(up.data_dir)
    assert state.pid == up.process.pid
    assert [document["title"] for document in line.api.get("/api/kb/documents")["documents"]] == ["Hours"]
    assert line.api.get("/api/calls")["calls"] == []
    unsigned = httpx.post(ready["webhook_url"], data={"CallSid": "CA" + "1" * 32}, trust_env=False)
    assert unsigned.status_code == 403
    assert httpx.get(f"{state.local_url}/api/calls", trust_env=False).status_code == 401
    secrets = (state.secret_api_key, state.secret_auth_token)
    assert not any(secret in line for secret in secrets for line in [json.dumps(ready), *up.said])
    assert psutil.Process(ready["pids"]["call_actor"][0]).environ()["RAY_AUTH_MODE"] == "token"
    assert Path(ready["ray_token_path"]).stat().st_mode & 0o777 == 0o600


def test_a_call_is_answered_recorded_and_gone(line: Line) -> None:
    outcome = line.place("whole", Say(QUESTION, AgentSilent(600)), HangUp(AgentSilent(500)))
    assert outcome.ok, outcome
    assert (outcome.ended_by, outcome.streams, outcome.unanswered) == ("caller", 1, 0)
    call = line.ended(outcome.call_sid)
    assert call["end_reason"] == "caller_hung_up"
    assert call["caller_pii"]
    assert call["called"]
    turns = call["turn_records"]
    assert [turn["kind"] for turn in turns][:2] == ["greeting", "reply"]
    assert call["turns"] == len(turns)
    assert turns[1]["outcome"] == "completed"
    assert turns[1]["caller_text_pii"]
    assert turns[1]["heard_text_pii"] == "We open at nine."
    status = line.idle()
    assert status["gateways"]
    assert [gateway["ended"] for gateway in status["gateways"].values()] == [{"caller_hung_up": 1}]


def test_a_call_hung_up_in_the_middle_of_a_word_leaves_nothing(line: Line) -> None:
    outcome = line.place("cut", Say(QUESTION, AgentSilent(600), cut_ms=350), HangUp(After(0)))
    assert outcome.ok, outcome
    assert outcome.ended_by == "caller"
    call = line.ended(outcome.call_sid)
    assert call["end_reason"] == "caller_hung_up"
    assert (call["caller_pii"] != "", call["called"] != "") == (True, True)
    assert call["turn_records"][0]["kind"] == "greeting"
    status = line.idle()
    assert status["dispatcher"]["counts"]["lost"] == 0
    assert status["dispatcher"]["host_deaths"] == 0


def changed(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """A copy of the code in which a text of a file is another: (file, old, new)."""
    code.copy_to(code.root(), folder)
    for name, old, new in changes:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    return folder


def deploy(line: Line, folder: Path, canary_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.cli", "deploy", "--code", str(folder), "--canary-s", str(canary_s)]
    command += ["--data-dir", str(line.folder / "var")]
    return subprocess.run(command, capture_output=True, text=True, cwd=line.folder, check=False)


def test_calls_go_on_while_code_is_deployed_that_cannot_run_and_then_code_that_can(line: Line, tmp_path: Path) -> None:
    slip = changed(tmp_path / "slip", ("actors/call/actor.py", "import asyncio\n", "import asyncio, no_such_module\n"))
    wrong = changed(
        tmp_path / "wrong", *((f"voice_agent/{name}.py", _ANSWER, _WRONG) for name in ("director", "call_director"))
    )
    new = changed(tmp_path / "new", ("voice_agent/director.py", _OLD, _NEW))
    over = threading.Event()
    last = Say(QUESTION, AgentSilent(5500, 20_000)), HangUp(AgentSilent(500))
    calls = Calls(line, "deploy", *(Talk(over, Say(QUESTION, AgentSilent(600)), *last) for _ in range(2)))
    calls.start()
    line.until(lambda: live(line), lambda status: status["live"] == 2)
    for folder, canary_s, why in ((slip, 1.0, "does not import"), (wrong, 60.0, "failed on the first call")):
        failed = deploy(line, folder, canary_s)
        assert failed.returncode == 1, failed.stderr
        assert why in " ".join(failed.stderr.split())
        now = live(line)
        assert (now["live"], now["code"]["number"]) == (2, 1)
        assert {host["code"] for host in now["hosts"].values()} == {1}
    done = deploy(line, new, 1.0)
    over.set()
    assert done.returncode == 0, done.stderr
    assert live(line)["rollout"]["moved"] == 2, done.stderr
    calls.join()
    versions = [code.version_of(code.root()), code.version_of(new)]
    for outcome in calls.outcomes:
        assert outcome.ok, outcome
        assert outcome.unanswered == 0
        turns = turns_of(line, outcome.call_sid)
        assert [turn["heard_text_pii"] for turn in turns] == [turn["agent_text_pii"] for turn in turns]
        assert len([turn for turn in turns if turn["kind"] == "reply"]) >= len(outcome.lines) - 1 > 1
        assert list(dict.fromkeys(turn["code"] for turn in turns)) == versions
        said = [turn["agent_text_pii"] for turn in turns if turn["kind"] == "reprompt"]
        assert "This is version two." in said


def test_a_call_of_a_frozen_actor_goes_on_at_another(line: Line) -> None:
    questions = tuple(Say(QUESTION, AgentSilent(600)) for _ in range(3))
    calls = Calls(line, "frozen", (*questions, HangUp(AgentSilent(500))))
    calls.start()
    status = line.until(lambda: live(line), lambda now: any(host["calls"] for host in now["hosts"].values()))
    host_id, host = next((name, host) for name, host in status["hosts"].items() if host["calls"])
    os.kill(host["pid"], signal.SIGSTOP)
    try:
        line.until(
            lambda: live(line), lambda now: any(h["calls"] for name, h in now["hosts"].items() if name != host_id)
        )
    finally:
        os.kill(host["pid"], signal.SIGCONT)
    calls.join()
    (outcome,) = calls.outcomes
    assert outcome.ok, outcome
    turns = turns_of(line, outcome.call_sid)
    assert len([turn for turn in turns if turn["kind"] == "reply"]) == len(questions)
    assert len({turn["turn"] for turn in turns}) == len(turns)
    moves = [move for gateway in line.api.get("/api/status")["gateways"].values() for move in gateway["moves"]]
    assert [move["reason"] for move in moves if move["call_id"] == outcome.call_sid] == ["silent"]


def test_it_ends_with_its_leash_and_leaves_nothing_but_logs(up: Up, ready: dict[str, Any]) -> None:
    up.let_go(END_WITHIN_S)
    assert up.left() == []
    assert not psutil.pid_exists(ready["pids"]["guard"][0])
    assert statefile.find(up.data_dir) is None
    assert not statefile.state_path(up.data_dir).exists()
    assert not Path(ready["ray_token_path"]).parent.exists()
    assert list(Path(ready["run_dir"]).glob("logs/ray/*")), "Ray's logs are kept with the run"
