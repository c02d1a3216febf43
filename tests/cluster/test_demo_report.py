"""What the demo asserts about its call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.demo_report import examine, write_files
from loadtest.measure import BargeInMeasure, CallMeasures, Percentiles, TurnMeasure
from loadtest.place import CallOutcome

_OFFSET_MS = 200
"""The emulator's clock is ahead of the call's by this much."""


def _outcome(tmp_path: Path, **changes: Any) -> CallOutcome:
    measures = CallMeasures(
        turns=tuple(TurnMeasure(n * 5000 - 900, n * 5000 + 300, n * 5000 + 300 + 400 + n) for n in range(1, 6)),
        barge_ins=(BargeInMeasure(21000, 21150),),
        greeting_ms=300,
        starved=(),
        pauses=(),
        lateness_ms=Percentiles(),
        duration_ms=30000,
    )
    values: dict[str, Any] = {
        "call_sid": "CA1", "script": "demo", "ended_by": "agent", "reason": "goodbye", "said": (), "stream_errors": (),
        "answer_ms": 10.0, "open_ms": 20.0, "streams": 1, "clears": 1, "dropped_frames": 0, "unanswered": 0,
        "measures": measures, "wav": tmp_path / "call.wav", "caller_speech": "flite rms",
    }  # fmt: skip
    return CallOutcome(**(values | changes))


def _turn(number: int, agent: str, *, kind: str = "reply", sources: tuple[str, ...] = ("kb/a.md",)) -> dict[str, Any]:
    end_ms = number * 5000 + 300 - _OFFSET_MS
    times = {"speech_end_ms": end_ms, "transcript_ms": end_ms + 150, "pause_ms": end_ms + 100,
             "playout_started_ms": end_ms + 390}  # fmt: skip
    return {
        "turn": number, "kind": kind, "outcome": "completed", "caller_text_pii": f"question {number}",
        "caller_confidence": 0.9, "agent_text_pii": agent, "heard_text_pii": agent, "sources": list(sources),
        "times_ms": times, "v2v_self_ms": 390,
    }  # fmt: skip


def _call() -> dict[str, Any]:
    greeting = _turn(0, "Hello", kind="greeting", sources=())
    greeting |= {"caller_text_pii": "", "times_ms": {"playout_started_ms": 300 - _OFFSET_MS}, "v2v_self_ms": None}
    return {
        "call_id": "CA1",
        "turn_records": [
            greeting,
            _turn(1, "On Saturday we open at ten and close at four in the afternoon."),
            _turn(2, "We deliver for fifteen dollars."),
            _turn(3, "I am sorry, I don't know that.", sources=()),
            _turn(4, "The address of our shop is twelve Harbor Street."),
            _turn(5, "Thank you for calling. Goodbye.", kind="goodbye", sources=()),
        ],
    }


def test_a_good_call_has_no_problems_and_each_turn_its_latency_at_the_ear(tmp_path: Path) -> None:
    report = examine(_outcome(tmp_path), _call(), simulated=False)
    assert report.problems == ()
    assert [turn.v2v_ear_ms for turn in report.turns] == [None, 401, 402, 403, 404, 405]
    assert report.turns[1].stage_ms("pause_ms", "transcript_ms") == 50


def test_an_invented_answer_is_a_problem(tmp_path: Path) -> None:
    call = _call()
    call["turn_records"][3]["agent_text_pii"] = "The home team won by three."
    problems = examine(_outcome(tmp_path), call, simulated=False).problems
    assert len(problems) == 1
    assert "I don't know" in problems[0]
    assert examine(_outcome(tmp_path), call, simulated=True).problems == (), "simulated engines say nothing real"


def test_an_answer_without_a_source_is_not_grounded(tmp_path: Path) -> None:
    call = _call()
    for turn in call["turn_records"]:
        turn["sources"] = []
    problems = examine(_outcome(tmp_path), call, simulated=False).problems
    assert any("the hours on Saturday" in problem for problem in problems)


def test_a_call_cut_short_is_a_problem(tmp_path: Path) -> None:
    call = _call()
    del call["turn_records"][3:]
    outcome = _outcome(tmp_path, ended_by="carrier", reason="1006")
    problems = " ".join(examine(outcome, call, simulated=False).problems)
    assert "ended by carrier" in problems
    assert "2 turns were answered" in problems
    assert "goodbye" in problems


def test_the_files_of_a_run(tmp_path: Path) -> None:
    write_files(examine(_outcome(tmp_path), _call(), simulated=False), tmp_path)
    turns = json.loads((tmp_path / "turns.json").read_text())
    assert [turn["v2v_at_socket_ms"] for turn in turns["turns"]] == [None, 401, 402, 403, 404, 405]
    assert turns["simulated_engines"] is False
    assert (tmp_path / "waterfall.png").read_bytes().startswith(b"\x89PNG")
