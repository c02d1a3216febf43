"""A whole stack under calls: its code is exchanged, and one of its actors freezes and wakes up again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stack_kit import launched

from cluster import code, statefile
from cluster.api import Api
from cluster.commands.call import target_of
from loadtest.place import CallOutcome, place_calls
from loadtest.script import AgentSilent, CallerScript, HangUp, Say

pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.audio, pytest.mark.timeout(600)]

_OLD, _NEW = "return self._phrases.reprompt", 'return "This is version two."'
_QUESTIONS = tuple(Say("Where is your shop?", AgentSilent(600)) for _ in range(9))
_LAST = (Say("Where is your shop?", AgentSilent(5500, 20_000)), HangUp(AgentSilent(500)))
_WITHIN_S = 120.0


class Calls(threading.Thread):
    """Emulated calls beside the test."""

    def __init__(self, state: statefile.StackState, folder: Path, steps: tuple[Any, ...], count: int) -> None:
        super().__init__(daemon=True)
        self._scripts = [CallerScript(f"call {n}", steps, max_call_ms=180_000) for n in range(count)]
        self._target, self._folder = target_of(state), folder
        self.outcomes: list[CallOutcome] = []

    def run(self) -> None:
        self.outcomes = asyncio.run(place_calls(self._target, self._scripts, self._folder, 1.0))


def until(ask: Callable[[], Any], good: Callable[[Any], Any]) -> Any:
    deadline_s = time.monotonic() + _WITHIN_S
    while not good(answer := ask()):
        assert time.monotonic() < deadline_s, answer
        time.sleep(0.2)
    return answer


def turns_of(api: Api, call_id: str) -> list[dict[str, Any]]:
    def known() -> dict[str, Any]:
        listed = [call["call_id"] for call in api.get("/api/calls")["calls"]]
        return api.get(f"/api/calls/{call_id}") if call_id in listed else {}

    call = until(known, lambda call: call.get("ended_at"))
    assert call["end_reason"] in ("caller_hung_up", "silence")
    assert call["turns"] == len(call["turn_records"])
    return call["turn_records"]


def live(api: Api) -> dict[str, Any]:
    return api.get("/api/status")["dispatcher"]


def test_new_code_and_a_frozen_actor_under_calls(tmp_path: Path) -> None:
    new = tmp_path / "code"
    code.copy_to(code.root(), new)
    changed = new / "voice_agent" / "director.py"
    assert _OLD in changed.read_text()
    changed.write_text(changed.read_text().replace(_OLD, _NEW))
    settings = {"calls__max_calls": 3, "calls__spare_actors": 1, "turn__reprompt_after_s": 3.5}
    with launched(tmp_path, llm__options__text="We open at nine.", **settings) as up:
        up.ready()
        state = statefile.require(up.data_dir)
        with Api(state) as api:
            deployed_under_calls(api, state, new, tmp_path)
            frozen_under_a_call(api, state, tmp_path)


def deployed_under_calls(api: Api, state: statefile.StackState, new: Path, folder: Path) -> None:
    calls = Calls(state, folder / "deploy", _QUESTIONS + _LAST, 2)
    calls.start()
    until(lambda: live(api), lambda status: status["live"] == 2)
    command = [sys.executable, "-m", "cluster.cli", "deploy", "--code", str(new), "--data-dir", str(folder / "var")]
    done = subprocess.run([*command, "--canary-s", "1"], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    assert live(api)["rollout"]["moved"] == 2, done.stderr
    calls.join()
    versions = [code.version_of(code.root()), code.version_of(new)]
    for outcome in calls.outcomes:
        assert outcome.ok, outcome
        assert outcome.unanswered == 0
        turns = turns_of(api, outcome.call_sid)
        assert [turn["heard_text_pii"] for turn in turns] == [turn["agent_text_pii"] for turn in turns]
        replies = [turn for turn in turns if turn["kind"] == "reply"]
        assert len(replies) >= len(_QUESTIONS)
        assert list(dict.fromkeys(turn["code"] for turn in turns)) == versions
        said = [turn["agent_text_pii"] for turn in turns if turn["kind"] == "reprompt"]
        assert "This is version two." in said


def frozen_under_a_call(api: Api, state: statefile.StackState, folder: Path) -> None:
    calls = Calls(state, folder / "frozen", (*_QUESTIONS[:5], HangUp(AgentSilent(500))), 1)
    calls.start()
    status = until(lambda: live(api), lambda status: any(host["calls"] for host in status["hosts"].values()))
    host_id, host = next((name, host) for name, host in status["hosts"].items() if host["calls"])
    os.kill(host["pid"], signal.SIGSTOP)
    try:
        until(lambda: live(api), lambda now: any(h["calls"] for name, h in now["hosts"].items() if name != host_id))
    finally:
        os.kill(host["pid"], signal.SIGCONT)
    calls.join()
    (outcome,) = calls.outcomes
    assert outcome.ok, outcome
    turns = turns_of(api, outcome.call_sid)
    assert len([turn for turn in turns if turn["kind"] == "reply"]) == 5
    assert len({turn["turn"] for turn in turns}) == len(turns)
    moves = [move for gateway in api.get("/api/status")["gateways"].values() for move in gateway["moves"]]
    assert [move["reason"] for move in moves if move["call_id"] == outcome.call_sid] == ["silent"]
