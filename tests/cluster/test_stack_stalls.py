"""Engines of a whole stack that hang while calls go on: a fallback answers, or a recording plays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack_kit import launched
from test_stack_calls import _QUESTION, Line

from cluster import statefile
from cluster.api import Api
from cluster.commands.call import target_of
from loadtest.script import AgentSilent, HangUp, Say

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The language model has a fallback, the voice has none; both obey a file each."""
    folder = tmp_path_factory.mktemp("stalls")
    told = {port: {"control_file": str(folder / port)} for port in ("llm", "tts")}
    with launched(
        folder,
        llm__engine="faulty",
        llm__options=json.dumps(told["llm"] | {"options": {"text": "This is from the first."}}),
        llm__fallback="simulated",
        llm__fallback_options=json.dumps({"text": "This is from the second."}),
        tts__engine="faulty",
        tts__options=json.dumps(told["tts"]),
        turn__stage_deadline_s=4,
    ) as up:
        up.ready()
        state = statefile.require(up.data_dir)
        with Api(state) as api:
            yield Line(api, target_of(state), folder)
        assert up.process.stdin is not None
        up.process.stdin.close()
        assert up.process.wait(timeout=60.0) == 0


def ask(line: Line, name: str) -> list[dict[str, object]]:
    outcome = line.place(name, Say(_QUESTION, AgentSilent(600)), HangUp(AgentSilent(2500)))
    assert outcome.ok, outcome
    return list(line.ended(outcome.call_sid)["turn_records"])


def switch(line: Line, port: str, fault: str) -> None:
    Path(line.folder, port).write_text(fault)


def test_a_model_that_hangs_is_answered_by_its_fallback_in_the_same_turn(line: Line) -> None:
    switch(line, "llm", "hang")
    reply = next(turn for turn in ask(line, "model") if turn["kind"] == "reply")
    switch(line, "llm", "")
    assert reply["heard_text_pii"] == "This is from the second."
    assert reply["engines"] == {"stt": "simulated", "llm": "simulated", "tts": "faulty"}
    [engines] = line.api.get("/api/status")["engines"]["llm"]
    assert engines["faulty"]["faults"]["deadline_exceeded"] >= 1


def test_a_voice_that_hangs_is_covered_by_recordings_and_the_call_goes_on(line: Line) -> None:
    switch(line, "tts", "hang")
    turns = ask(line, "voice")
    switch(line, "tts", "")
    assert sum(int(str(turn["fillers"])) for turn in turns) >= 1
    assert next(turn["engines"]["tts"] for turn in turns if turn["kind"] in ("greeting", "apology")) == "recorded"
    assert [turn["outcome"] for turn in ask(line, "well again")][1] == "completed"
