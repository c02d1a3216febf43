"""Engines of a whole stack that hang while calls go on: a fallback answers, or a recording plays.

A replica that is stopped as a process is gone round until it goes on.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from stack_kit import QUESTION, Line, called

from cluster import statefile
from loadtest.dead_air import gaps_ms
from loadtest.measure import stretches
from loadtest.place import CallOutcome
from loadtest.recording import read_stereo
from loadtest.sampler import kind_of
from loadtest.script import AgentSilent, HangUp, Say

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

_STAGE_S = 4
_REPLICAS = 2


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The language model has a fallback, the voice has two replicas; both obey a file each."""
    folder = tmp_path_factory.mktemp("stalls")
    told = {port: {"control_file": str(folder / port)} for port in ("llm", "tts")}
    with called(
        folder,
        llm__engine="faulty",
        llm__options=json.dumps(told["llm"] | {"options": {"text": "This is from the first."}}),
        llm__fallback="simulated",
        llm__fallback_options=json.dumps({"text": "This is from the second."}),
        tts__engine="faulty",
        tts__options=json.dumps(told["tts"]),
        tts__replicas=_REPLICAS,
        turn__stage_deadline_s=_STAGE_S,
    ) as ready:
        yield ready


def ask(line: Line, name: str) -> list[dict[str, object]]:
    outcome = line.place(name, Say(QUESTION, AgentSilent(600)), HangUp(AgentSilent(2500)))
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
    # A caller who speaks while the greeting is still waited for hears the apology instead.
    spoken = [turn["engines"].get("tts") for turn in turns if turn["kind"] in ("greeting", "apology")]
    assert "recorded" in spoken, turns
    assert [turn["outcome"] for turn in ask(line, "well again")][1] == "completed"


def voices(line: Line) -> list[psutil.Process]:
    below = psutil.Process(statefile.require(line.folder / "var").pid).children(recursive=True)
    return [process for process in below if kind_of(process) == "tts"]


def stages(line: Line) -> dict[str, dict[str, dict[str, str]]]:
    """What the call actor said last; empty until it was asked for the first time."""
    [host] = line.api.get("/api/status")["dispatcher"]["hosts"].values()
    return dict(host["stages"])


def avoided(line: Line) -> dict[str, str]:
    return dict(stages(line)["tts"]["replicas"])


def longest_silence_ms(outcome: CallOutcome) -> int:
    """In the agent's turns, from the caller's last sound on."""
    caller, agent = read_stereo(outcome.recording)
    lines, sounds = stretches(caller, 500), stretches(agent, 100)
    ends = [line.start_ms for line in lines[1:]] + [sounds[-1].end_ms]
    return max(max(gaps_ms(sounds, one.end_ms, end, finished=True)) for one, end in zip(lines, ends, strict=True))


def test_a_voice_that_is_stopped_is_gone_round_and_asked_again_once_it_goes_on(line: Line) -> None:
    victim = voices(line)[-1]
    assert line.until(lambda: stages(line), bool)["tts"]["replicas"] == {}
    os.kill(victim.pid, signal.SIGSTOP)
    try:
        steps = [Say(QUESTION, AgentSilent(600)) for _ in range(3)]
        outcome = line.place("one stopped", *steps, HangUp(AgentSilent(1500)))
        states = line.until(lambda: avoided(line), bool)
    finally:
        os.kill(victim.pid, signal.SIGCONT)
    assert outcome.ok, outcome
    assert outcome.unanswered == 0
    assert longest_silence_ms(outcome) < _STAGE_S * 1000
    assert list(states.values()) == ["open"]
    ask(line, "goes on")
    line.until(lambda: avoided(line), lambda states: not states)
    assert victim in voices(line)
    assert len(voices(line)) == _REPLICAS
