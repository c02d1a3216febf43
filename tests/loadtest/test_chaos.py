"""The verdict of a chaos run sees what is lost, repeated or cut; its plan hits everything."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import cast

import pytest

from engines.word_sounds import SILENT_BYTE, word_sound
from loadtest.caller import SpokenLine
from loadtest.chaos import MOMENTS, OTHERS, REPLY, STALLED, plan
from loadtest.chaos_report import FROZEN_P95_MS, STOPPED, Strike, summarise
from loadtest.chaos_stack import Recovery, StackView, Victim
from loadtest.chaos_verdict import (
    WORD_MS,
    CallVerdict,
    Phrase,
    Said,
    judge_agent,
    judge_caller,
    judge_records,
    phrases_in,
)
from loadtest.sampler import CALL_ACTOR

SAID = Said("Hello there.", REPLY, "Are you still there?", ("One moment, please.",), "I am sorry.")
LINES = (SpokenLine("first?", 2000, 3000, False), SpokenLine("second?", 12_000, 13_000, False))
Actors = list[tuple[list[str], dict[str, str]]]
"""Of each: its calls, and the replicas that it avoids."""
PAUSE = bytes([SILENT_BYTE]) * 8 * 500


def spoken(text: str) -> bytes:
    return b"".join(word_sound(word, WORD_MS) for word in text.split())


def judged(*heard: Phrase, cut_ms: tuple[int, ...] = ()) -> CallVerdict:
    verdict = CallVerdict("CA1")
    judge_agent(verdict, LINES, heard, cut_ms, SAID)
    return verdict


def test_a_call_in_which_nobody_came_to_speak_is_judged_as_well():
    verdict = CallVerdict("CA1")
    judge_agent(verdict, (), (), (500,), SAID)
    assert (verdict.asked, verdict.answered) == (0, 0)


def answer(start_ms: int, *, whole: bool = True, text: str = REPLY) -> Phrase:
    return Phrase(text, start_ms, start_ms + 5000, whole)


def test_a_recording_is_read_as_phrases() -> None:
    recording = spoken(SAID.greeting) + PAUSE + spoken(SAID.fillers[0]) + spoken(REPLY)
    heard = phrases_in(recording, SAID.all)
    assert [(phrase.text, phrase.whole) for phrase in heard] == [
        (SAID.greeting, True),
        (SAID.fillers[0], True),
        (REPLY, True),
    ]
    assert heard[1].start_ms == 2 * WORD_MS + 500


@pytest.mark.parametrize(("start", "end"), [(0, 6000), (8000, 8080), (2800, 5600)])
def test_audio_that_is_missing_from_a_sentence_makes_it_not_whole(start: int, end: int) -> None:
    audio = spoken(REPLY)
    heard = phrases_in(audio[:start] + audio[end:], SAID.all)
    assert not any(phrase.whole for phrase in heard)


def test_one_whole_answer_to_each_line_is_good() -> None:
    verdict = judged(answer(4000), answer(14_000))
    assert (verdict.asked, verdict.answered, verdict.repeated, verdict.cut, verdict.skipped) == (2, 2, 0, 0, 0)


def test_answers_repeated_cut_and_skipped_are_counted() -> None:
    assert judged(answer(4000), answer(9000), answer(14_000)).repeated == 1
    assert judged(answer(4000), answer(14_000, whole=False)).cut == 1
    assert judged(answer(4000)).skipped == 1
    late = judged(answer(3900, whole=False, text=SAID.fillers[0]), answer(5000), answer(14_000))
    assert (late.fillers, late.cut, late.answered) == (1, 0, 2)
    assert judged(answer(4000, text=SAID.apology), answer(14_000)).apologies == 1


WORD = 8 * WORD_MS
UP_TO_PLEASE = 8 * WORD


@pytest.mark.parametrize(
    ("pieces", "twice", "missing", "cut"),
    [
        (((0, 15 * WORD),), 0, 0, 0),
        (((0, 3000), (3000, 15 * WORD)), 0, 0, 0),
        (((0, UP_TO_PLEASE + 400), (7 * WORD, 15 * WORD)), 2, 0, 1),
        (((0, 8 * WORD), (7 * WORD, 15 * WORD)), 1, 0, 1),
        (((0, 3 * WORD + 800), (0, 15 * WORD)), 4, 0, 1),
        (((0, 3 * WORD), (5 * WORD, 15 * WORD)), 0, 2, 1),
        (((0, 3 * WORD + 800), (4 * WORD, 15 * WORD)), 0, 1, 1),
        (((0, 14 * WORD + 800),), 0, 1, 1),
    ],
)
def test_words_heard_twice_and_words_missing_are_counted_and_the_sentence_once(
    pieces: tuple[tuple[int, int], ...], twice: int, missing: int, cut: int
) -> None:
    audio = spoken(REPLY)
    heard = phrases_in(PAUSE * 10 + b"".join(audio[start:end] + PAUSE for start, end in pieces), SAID.all)
    verdict = CallVerdict("CA1")
    judge_agent(verdict, LINES[:1], heard, (), SAID)
    assert (verdict.words_twice, verdict.words_missing, verdict.cut) == (twice, missing, cut)
    assert (verdict.asked, verdict.answered, verdict.skipped, verdict.repeated) == (1, int(not missing), 0, 0)
    assert bool(verdict.notes) == bool(cut)
    strike = Strike(CALL_ACTOR, "speaking", 0.0, ("CA1",), [80.0])
    assert summarise("m", [strike], [verdict], []).good == (not cut)


def test_words_of_the_greeting_count_too() -> None:
    greeting = spoken(SAID.greeting)
    verdict = CallVerdict("CA1")
    heard = [*phrases_in(greeting[:WORD] + greeting, SAID.all), answer(4000)]
    judge_agent(verdict, LINES[:1], heard, (), SAID)
    assert (verdict.words_twice, verdict.words_missing, len(verdict.notes)) == (1, 0, 1)
    excused = CallVerdict("CA1")
    judge_agent(excused, LINES[:1], heard, (500,), SAID)
    assert (excused.words_twice, excused.excused) == (0, 1)


def test_the_death_of_its_gateway_excuses_a_call_for_a_while_only() -> None:
    verdict = judged(answer(14_000, whole=False), cut_ms=(2500,))
    assert (verdict.excused, verdict.cut) == (2, 0)
    assert judged(answer(4000), cut_ms=(-1,)).skipped == 1


def record(*heard_ms: int) -> dict[str, object]:
    turns = [
        {"caller_text_pii": f"That was {ms} milliseconds of speech.", "times_ms": {"speech_end_ms": line.end_ms - 20}}
        for ms, line in zip(heard_ms, LINES, strict=True)
    ]
    return {"turn_records": turns, "turns": len(turns), "ended_at": "now"}


def test_words_of_the_caller_that_the_recogniser_did_not_get_are_lost() -> None:
    verdict = CallVerdict("CA1")
    judge_caller(verdict, [(line, 900) for line in LINES], record(900, 700), 20, ())
    assert (verdict.caller_ms, verdict.caller_ms_lost) == (1800, 200)


def test_after_another_gateway_lines_are_counted_from_the_end() -> None:
    late = record(900, 900)
    late["turn_records"][1]["times_ms"] = {"speech_end_ms": 99_000}  # type: ignore[index]
    lines = [(LINES[0], 900), (replace(LINES[1], start_ms=40_000, end_ms=41_000), 900)]
    verdict = CallVerdict("CA1")
    judge_caller(verdict, lines, late, 20, (2500,))
    assert (verdict.caller_ms, verdict.caller_ms_lost) == (900, 0)


def test_missing_records_are_counted() -> None:
    verdict = CallVerdict("CA1")
    judge_records(verdict, record(900, 900) | {"turns": 3})
    judge_records(verdict, {})
    assert verdict.records_missing == 2


def test_the_plan_hits_actors_at_every_moment_and_everything_else() -> None:
    planned = plan(6, 2)
    assert sorted(moment for kind, moment in planned if kind == CALL_ACTOR) == sorted(MOMENTS * 2)
    assert sorted(kind for kind, _ in planned if kind != CALL_ACTOR) == sorted(OTHERS * 2)


def test_what_may_stall_is_stopped_as_well() -> None:
    planned = plan(2, 1, stalls=2)
    assert sorted(kind for kind, moment in planned if moment == STOPPED) == sorted(STALLED * 2)
    assert len(planned) == 2 + len(OTHERS) + 2 * len(STALLED)
    assert plan(0, 0, stalls=2, stalled=("tts",)) == [("tts", STOPPED)] * 2


class View:
    """What call actors say of the voice's replicas, one answer after the other, the last one for ever."""

    def __init__(self, *answers: Actors) -> None:
        self._answers = list(answers)

    async def status(self) -> dict[str, object]:
        said = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        hosts = [{"calls": calls, "stages": {"tts": {"replicas": replicas}}} for calls, replicas in said]
        return {"dispatcher": {"hosts": dict(enumerate(hosts))}}


def recovery(*answers: Actors, within_s: float = 5.0) -> Recovery:
    return Recovery(cast(StackView, View(*answers)), tuple, within_s)


@pytest.mark.parametrize("replicas", [{}, {"r": "open"}])
async def test_only_actors_with_calls_say_whether_a_stopped_replica_is_avoided(replicas: dict[str, str]) -> None:
    idle: Actors = [([], replicas)]
    avoids, asks = [*idle, (["CA1"], {"r": "open"})], [*idle, (["CA2"], {})]
    victim = Victim("tts", 1)
    assert await recovery(idle, asks, avoids).without_ms(victim, time.time()) is not None
    assert await recovery(idle, avoids, asks).asked_again("tts")
    for never in (idle, asks):
        assert await recovery(never, within_s=0.1).without_ms(victim, time.time()) is None
    for never in (idle, avoids):
        assert not await recovery(never, within_s=0.1).asked_again("tts")


def test_a_frozen_actor_may_take_as_long_as_its_silence_is_noticed_and_no_longer() -> None:
    killed = Strike(CALL_ACTOR, "speaking", 0.0, ("CA1",), [80.0])
    frozen = replace(killed, moment=STOPPED, recovered_ms=[FROZEN_P95_MS])
    assert summarise("m", [killed, frozen], [CallVerdict("CA1")], []).good
    late = replace(frozen, recovered_ms=[FROZEN_P95_MS + 1])
    assert "frozen call actors" in summarise("m", [killed, late], [CallVerdict("CA1")], []).failures[0]
    ignored = replace(killed, kind="tts", moment=STOPPED, recovered_ms=None)
    assert "tts stopped did not" in summarise("m", [killed, ignored], [CallVerdict("CA1")], []).failures[0]


def test_a_run_that_strikes_no_call_actor_can_be_good() -> None:
    tts = Strike("tts", "", 0.0, ("CA1",), [3000.0])
    assert summarise("m", [tts], [CallVerdict("CA1")], []).good
    lost = Strike(CALL_ACTOR, "speaking", 0.0, ("CA1",), [])
    assert "call actors" in summarise("m", [tts, lost], [CallVerdict("CA1")], []).failures[0]


def test_the_verdict_names_what_is_wrong() -> None:
    fast = Strike(CALL_ACTOR, "speaking", 0.0, ("CA1",), [80.0])
    assert summarise("m", [fast], [CallVerdict("CA1")], []).good
    slow = replace(fast, recovered_ms=[900.0])
    never = Strike("journal", "", 0.0, (), None)
    report = summarise("m", [slow, never], [CallVerdict("CA1", lost="carrier: gone", cut=1)], [])
    assert len(report.failures) == 4
    assert replace(report, missed=("tts",)).failures[2] == "nothing to strike: tts"
    assert "journal did not come back" in " ".join(report.failures)
    assert "900" in report.markdown()
