"""Overload of a whole stack: more callers than lines, and a gateway that is starved until the ladder is walked."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from stack_kit import QUESTION, Calls, Line, Talk, called, live, turns_of

from configs.settings import AgentSettings
from loadtest.place import CallOutcome
from loadtest.script import AgentSilent, HangUp, Say
from voice_agent.overload import Level

pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.audio, pytest.mark.timeout(600)]

_LINES = 3
_QUEUE, _FULL = AgentSettings().queue, AgentSettings().full_house
_CHEAP, _DEAR = "simulated", "faulty"
_LATE_S = {Level.CHEAP_ENGINES: 0.12, Level.QUEUE: 0.2, Level.REFUSE: 0.42}
"""How late the event loop of a gateway wakes, well between the limits of its level and the next."""
_SLOWER = 3.0
"""Median v2v under load over that without; what waits for a whole stage, or is asked again, is beyond that."""


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """Three lines, two gateways; a caller waits for a line for one question only. Both models say the same."""
    folder = tmp_path_factory.mktemp("overload")
    text = {"text": "We open at nine."}
    with called(
        folder,
        calls__max_calls=_LINES,
        calls__queue_s=4,
        media__gateways=2,
        llm__engine=_DEAR,
        llm__options=json.dumps({"control_file": str(folder / "llm"), "options": text}),
        llm__fallback=_CHEAP,
        llm__fallback_options=json.dumps(text),
        llm__fallback_when_busy=True,
    ) as ready:
        yield ready


class Starved(threading.Thread):
    """Stops a process again and again, so that its event loop finds itself woken ``late_s`` late, each second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._over = threading.Event()
        self.late_s = 0.0

    def run(self) -> None:
        # A loop that sleeps for a second from the moment it is let go on wakes at the end of the second such round.
        while not self._over.is_set():
            round_s = (1.0 + self.late_s) / 2
            os.kill(self._pid, signal.SIGSTOP)
            time.sleep(round_s - 0.05)
            os.kill(self._pid, signal.SIGCONT)
            time.sleep(0.05)

    def end(self) -> None:
        self._over.set()
        self.join()


@contextlib.contextmanager
def starved(pid: int, late_s: float) -> Iterator[Starved]:
    it = Starved(pid)
    it.late_s = late_s
    it.start()
    try:
        yield it
    finally:
        it.end()


def overload(line: Line) -> dict[str, Any]:
    return dict(live(line)["overload"])


def metric(line: Line, name: str) -> float:
    """A sample of the stack's metrics page; 0 while it is not there."""
    port = line.api.get("/api/status")["journal"]["metrics_port"]
    page = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    return sum(float(row.rsplit(" ", 1)[1]) for row in page.splitlines() if row.startswith(name))


def reads(line: Line, name: str, value: float) -> None:
    """Wait until a metric has a value: the dispatcher tells the journal every two seconds."""
    line.until(lambda: {name: metric(line, name)}, lambda read: read[name] == value)


def talking(line: Line, name: str, calls: int) -> Callable[[], list[CallOutcome]]:
    """Calls that are up and talk; they end, and are measured, when what is returned is called."""
    over = threading.Event()
    script = Say(QUESTION, AgentSilent(600)), HangUp(AgentSilent(500))
    talk = Calls(line, name, *(Talk(over, *script) for _ in range(calls)))
    talk.start()
    line.until(lambda: live(line), lambda status: status["live"] == calls)

    def end() -> list[CallOutcome]:
        over.set()
        talk.join()
        return talk.outcomes

    return end


def at(line: Line, level: Level) -> dict[str, Any]:
    """Wait until the stack is at a level, by its status and by its metrics."""
    now = line.until(lambda: overload(line), lambda now: now["level"] == level)
    reads(line, "voice_overload_level", level)
    return now


def caller(line: Line, name: str) -> CallOutcome:
    return line.place(name, Say(QUESTION, AgentSilent(600)), HangUp(AgentSilent(500)))


def v2v_ms(outcomes: list[CallOutcome]) -> float:
    return statistics.median(turn.v2v_ms for outcome in outcomes for turn in outcome.measures.turns)


@pytest.fixture(scope="module")
def alone_ms(line: Line) -> float:
    """v2v of a call that has the stack for itself."""
    questions = (Say(QUESTION, AgentSilent(600)) for _ in range(3))
    return v2v_ms([line.place("alone", *questions, HangUp(AgentSilent(500)))])


def test_of_more_callers_than_lines_some_wait_and_are_refused_in_words_and_the_others_notice_nothing(
    line: Line, alone_ms: float
) -> None:
    end = talking(line, "lines", _LINES)
    more = Calls(line, "more", *((Say(QUESTION, AgentSilent(600)), HangUp(AgentSilent(500))) for _ in range(2)))
    more.start()
    assert line.until(lambda: overload(line), lambda now: now["waiting"] > 0)["waiting"] <= 2
    more.join()
    accepted = end()
    assert [outcome.said for outcome in more.outcomes] == [(_QUEUE, _FULL)] * 2
    assert [(outcome.streams, outcome.ended_by) for outcome in more.outcomes] == [(0, "refused")] * 2
    assert live(line)["counts"]["queued"] == 2
    assert sum(overload(line)["refused"].values()) == 2
    for outcome in accepted:
        assert outcome.ok, outcome
        assert (outcome.unanswered, outcome.said) == (0, ())
        assert len([turn for turn in turns_of(line, outcome.call_sid) if turn["kind"] == "reply"]) == len(outcome.lines)
    assert v2v_ms(accepted) < _SLOWER * alone_ms
    line.idle()


def test_the_ladder_is_walked_up_and_down_and_the_call_that_is_in_notices_nothing(line: Line, alone_ms: float) -> None:
    end = talking(line, "in", 1)
    gateways = line.api.get("/api/status")["gateways"]
    (spare,) = (gateway["pid"] for gateway in gateways.values() if not gateway["calls"])
    since = metric(line, "voice_calls_refused_total")
    reached = {}
    with starved(spare, _LATE_S[Level.CHEAP_ENGINES]) as starving:
        for level, late_s in _LATE_S.items():
            starving.late_s = late_s
            now = at(line, level)
            assert (now["action"], now["why"]) == (level.name.lower(), "gateway_lag_ms")
            if level > Level.CHEAP_ENGINES:
                reached[level] = caller(line, level.name.lower())
            else:
                time.sleep(4.0)
    assert reached[Level.QUEUE].said == (_QUEUE, _FULL)
    assert reached[Level.REFUSE].said == (_FULL,)
    assert overload(line)["refused"]["overloaded"] == 2
    reads(line, "voice_calls_refused_total", since + 2)
    at(line, Level.NORMAL)
    again = caller(line, "again")
    assert again.ok, again
    assert again.said == ()
    outcomes = end()
    assert outcomes[0].ok, outcomes
    assert outcomes[0].unanswered == 0
    assert v2v_ms(outcomes) < _SLOWER * alone_ms
    replies = [turn for turn in turns_of(line, outcomes[0].call_sid) if turn["kind"] == "reply"]
    by = [turn["engines"]["llm"] for turn in replies]
    assert _CHEAP in by
    assert by[-1] == _DEAR
