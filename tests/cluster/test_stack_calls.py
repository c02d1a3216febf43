"""A whole stack from its start to its end: what it tells of itself, real calls through it over real sockets, what is
recorded and left of them, a deploy and a frozen actor under calls, and that nothing of the stack is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from stack_kit import END_WITHIN_S, Up, launched

from cluster import code, forking, statefile
from cluster.api import Api
from cluster.commands.call import target_of
from loadtest.carrier import CallTarget
from loadtest.place import CallOutcome, place_call, place_calls
from loadtest.script import After, AgentSilent, CallerScript, HangUp, Say, Step
from voice_agent.errors import EngineUnavailableError

pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.audio, pytest.mark.timeout(900)]

_WITHIN_S = 200.0
_QUESTION = "Where is your shop?"
_OLD, _NEW = "return self._phrases.reprompt", 'return "This is version two."'


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
        deadline_s = time.monotonic() + _WITHIN_S
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
    state = statefile.require(up.data_dir)
    with Api(state) as api:
        yield Line(api, target_of(state), up.data_dir.parent)


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
    outcome = line.place("whole", Say(_QUESTION, AgentSilent(600)), HangUp(AgentSilent(500)))
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
    outcome = line.place("cut", Say(_QUESTION, AgentSilent(600), cut_ms=350), HangUp(After(0)))
    assert outcome.ok, outcome
    assert outcome.ended_by == "caller"
    call = line.ended(outcome.call_sid)
    assert call["end_reason"] == "caller_hung_up"
    assert (call["caller_pii"] != "", call["called"] != "") == (True, True)
    assert call["turn_records"][0]["kind"] == "greeting"
    status = line.idle()
    assert status["dispatcher"]["counts"]["lost"] == 0
    assert status["dispatcher"]["host_deaths"] == 0


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


def turns_of(line: Line, call_id: str) -> list[dict[str, Any]]:
    call = line.ended(call_id)
    assert call["end_reason"] in ("caller_hung_up", "silence")
    assert call["turns"] == len(call["turn_records"])
    return list(call["turn_records"])


def live(line: Line) -> dict[str, Any]:
    return dict(line.api.get("/api/status")["dispatcher"])


def test_calls_go_on_with_new_code_while_it_is_deployed(line: Line, tmp_path: Path) -> None:
    new = tmp_path / "code"
    code.copy_to(code.root(), new)
    changed = new / "voice_agent" / "director.py"
    assert _OLD in changed.read_text()
    changed.write_text(changed.read_text().replace(_OLD, _NEW))
    over = threading.Event()
    last = Say(_QUESTION, AgentSilent(5500, 20_000)), HangUp(AgentSilent(500))
    calls = Calls(line, "deploy", *(Talk(over, Say(_QUESTION, AgentSilent(600)), *last) for _ in range(2)))
    calls.start()
    line.until(lambda: live(line), lambda status: status["live"] == 2)
    command = [sys.executable, "-m", "cluster.cli", "deploy", "--code", str(new), "--canary-s", "1"]
    command += ["--data-dir", str(line.folder / "var")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=line.folder, check=False)
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
    questions = tuple(Say(_QUESTION, AgentSilent(600)) for _ in range(3))
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
    assert up.process.stdin is not None
    up.process.stdin.close()
    assert up.process.wait(timeout=END_WITHIN_S) == 0
    assert up.left() == []
    assert not psutil.pid_exists(ready["pids"]["guard"][0])
    assert statefile.find(up.data_dir) is None
    assert not statefile.state_path(up.data_dir).exists()
    assert not Path(ready["ray_token_path"]).parent.exists()
    assert list(Path(ready["run_dir"]).glob("logs/ray/*")), "Ray's logs are kept with the run"
