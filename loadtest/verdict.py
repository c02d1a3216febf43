"""Is a call what its scenario expects? Pure: what is known of the call in, reasons why not out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest.caller import SpokenLine
from loadtest.hearing import TurnAudio
from loadtest.measure import CallMeasures, Stretch
from loadtest.scenario import Between, Expect

_KEPT_IDS = ("call_id", "caller_pii", "called")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a call.

    Attributes:
        record: as ``/api/calls/{id}`` tells it, with ``turn_records``.
        measures: at the ear.
        agent: stretches of the agent's speech at the ear.
        lines: what the caller said and when.
        ended_by: as the carrier saw it.
        failure: why the call as such failed; empty when it did not.
        audio: how each turn's words came out at the ear, where that could be measured.
    """

    record: Mapping[str, Any]
    measures: CallMeasures
    agent: Sequence[Stretch] = ()
    lines: Sequence[SpokenLine] = ()
    ended_by: str = ""
    failure: str = ""
    audio: Sequence[TurnAudio] = field(default_factory=tuple)

    @property
    def turns(self) -> Sequence[Mapping[str, Any]]:
        """The turn records."""
        records: Sequence[Mapping[str, Any]] = self.record.get("turn_records", ())
        return records


def judge(expect: Expect, evidence: Evidence) -> list[str]:
    """What is not as expected, in words; empty when all is."""
    if evidence.failure:
        return [f"the call failed: {evidence.failure}"]
    return [*_words(expect, evidence), *_numbers(expect, evidence), *_ends(expect, evidence), *_audio(expect, evidence)]


def cut_offs(evidence: Evidence) -> list[SpokenLine]:
    """Lines of the caller, begun while the agent was silent, into which the agent began to speak."""
    return [
        line
        for line in evidence.lines
        if not line.over_agent and any(line.start_ms < speech.start_ms < line.end_ms for speech in evidence.agent)
    ]


def in_order(patterns: Sequence[str], texts: Sequence[str]) -> str:
    """The first pattern that is not found, each looked for from the text of the one before on; empty: all are."""
    at = 0
    for pattern in patterns:
        place = next((n for n in range(at, len(texts)) if re.search(pattern, texts[n], re.IGNORECASE)), None)
        if place is None:
            return pattern
        at = place
    return ""


def _words(expect: Expect, evidence: Evidence) -> Iterator[str]:
    for name, patterns, key in (
        ("recognised", expect.caller, "caller_text_pii"),
        ("said", expect.agent, "agent_text_pii"),
        ("heard", expect.heard, "heard_text_pii"),
    ):
        texts = [str(turn[key]) for turn in evidence.turns if turn[key]]
        missing = in_order(patterns, texts)
        if missing:
            yield f"{missing!r} was not {name}: {' | '.join(texts) or 'nothing was'}"
    for pattern in expect.never:
        said = [turn["agent_text_pii"] for turn in evidence.turns]
        wrong = next((text for text in said if re.search(pattern, text, re.IGNORECASE)), None)
        if wrong is not None:
            yield f"{pattern!r} must not be said: {wrong}"
    kept = json.dumps({key: value for key, value in evidence.record.items() if key not in _KEPT_IDS}, default=str)
    for pattern in expect.not_kept:
        if re.search(pattern, kept, re.IGNORECASE):
            yield f"{pattern!r} was kept"
    if _missing_of(expect.kinds, [str(turn["kind"]) for turn in evidence.turns]):
        yield f"turns were {', '.join(turn['kind'] for turn in evidence.turns)}, not {', '.join(expect.kinds)}"
    tools = [str(name) for turn in evidence.turns for name in turn.get("tool_calls", ())]
    if _missing_of(expect.tools, tools):
        yield f"tools called were {', '.join(tools) or 'none'}, not {', '.join(expect.tools)}"


def _missing_of(wanted: Sequence[str], found: Sequence[str]) -> bool:
    """Whether ``wanted`` is no subsequence of ``found``."""
    rest = iter(found)
    return not all(item in rest for item in wanted)


def _numbers(expect: Expect, evidence: Evidence) -> Iterator[str]:
    replies = [turn for turn in evidence.turns if turn["kind"] in ("reply", "goodbye") and turn["caller_text_pii"]]
    interrupted = [turn for turn in evidence.turns if turn["outcome"] == "interrupted"]
    counters: Mapping[str, float] = evidence.record.get("counters", {})
    cut = cut_offs(evidence)
    found: list[tuple[str, Between | None, float]] = [
        ("replies to the caller", expect.turns, len(replies)),
        ("interrupted turns", expect.interrupted, len(interrupted)),
        (f"lines cut off ({'; '.join(line.text for line in cut)})" if cut else "cut-offs", expect.cut_offs, len(cut)),
        *((name, between, counters.get(name, 0)) for name, between in expect.counters),
    ]
    for name, between, value in found:
        if between is not None and not between.holds(value):
            yield f"{name}: {value:g}, must be {between}"


def _ends(expect: Expect, evidence: Evidence) -> Iterator[str]:
    if expect.ended_by and not re.fullmatch(expect.ended_by, evidence.ended_by):
        yield f"ended by {evidence.ended_by}, not {expect.ended_by}"
    reason = str(evidence.record.get("end_reason", ""))
    if expect.end and not re.search(expect.end, reason):
        yield f"end reason {reason or 'none'}, not {expect.end}"


def _audio(expect: Expect, evidence: Evidence) -> Iterator[str]:
    for name, most, measured in (
        ("voice-to-voice", expect.v2v_ms, evidence.measures.v2v_ms),
        ("barge-in", expect.barge_in_ms, evidence.measures.barge_in_ms),
    ):
        if most is not None and not measured.count:
            yield f"{name} could not be measured"
        elif most is not None and measured.largest > most:
            yield f"{name} {measured.largest:.0f} ms, at most {most:.0f}"
    if expect.whole:
        yield from _whole([turn for turn in evidence.audio if not turn.interrupted])
    if expect.heard_error_words is not None:
        yield from _heard(expect.heard_error_words, [turn for turn in evidence.audio if turn.interrupted])


def _whole(turns: Sequence[TurnAudio]) -> Iterator[str]:
    if not turns:
        yield "no turn's audio could be compared"
    for turn in turns:
        if turn.words_lost or turn.words_repeated:
            yield f"turn {turn.turn}: {turn.words_lost} words lost, {turn.words_repeated} repeated"


def _heard(most: float, turns: Sequence[TurnAudio]) -> Iterator[str]:
    for turn in turns:
        if abs(turn.heard_error_words) > most:
            yield f"turn {turn.turn}: heard words recorded {turn.words_recorded}, played {turn.words_played}"
