"""Real calls over real sockets through a whole stack: what is recorded of them, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from stack_kit import launched

from cluster import statefile
from cluster.api import Api
from cluster.commands.call import target_of
from loadtest.carrier import CallTarget
from loadtest.place import CallOutcome, place_call
from loadtest.script import After, AgentSilent, CallerScript, HangUp, Say
from voice_agent.errors import EngineUnavailableError

pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.audio, pytest.mark.timeout(280)]

_WITHIN_S = 30.0
_QUESTION = "Where is your shop?"


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
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("stack")
    with launched(folder, llm__options__text="We open at nine.") as up:
        up.ready()
        state = statefile.require(up.data_dir)
        with Api(state) as api:
            yield Line(api, target_of(state), folder)
        assert up.process.stdin is not None
        up.process.stdin.close()
        assert up.process.wait(timeout=60.0) == 0


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
