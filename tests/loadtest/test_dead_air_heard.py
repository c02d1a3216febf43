"""Silence in the agent's turn, read out of a recording."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.settings import AgentSettings
from engines.word_sounds import word_sound
from loadtest.chaos import REPLY
from loadtest.chaos_verdict import WORD_MS
from loadtest.dead_air import Fault, HeardTurn, rows_of, turns_of
from loadtest.recording import write_stereo

SAID = AgentSettings()
FIRST, SECOND = (f"{clause.rstrip('.')}." for clause in REPLY.split(". "))


class Tape:
    """A call being recorded, mu-law: who speaks, and for how long nobody does."""

    def __init__(self) -> None:
        self.caller, self.agent = bytearray(), bytearray()

    def line(self, ms: int) -> Tape:
        self.caller += word_sound("line", ms)
        self.agent += b"\xff" * (8 * ms)
        return self

    def quiet(self, ms: int) -> Tape:
        self.caller += b"\xff" * (8 * ms)
        self.agent += b"\xff" * (8 * ms)
        return self

    def says(self, text: str) -> Tape:
        said = b"".join(word_sound(word, WORD_MS) for word in text.split())
        self.caller += b"\xff" * len(said)
        self.agent += said
        return self

    def call(self, folder: Path) -> Any:
        write_stereo(folder / "call.wav", bytes(self.caller), bytes(self.agent))
        return SimpleNamespace(recording=folder / "call.wav", call_sid="CA1", audio_at_s=1000.0)


def near(*ms: int) -> Any:
    """Edges are found in frames of 20 ms."""
    return pytest.approx(ms, abs=40)


def heard(tape: Tape, folder: Path) -> list[HeardTurn]:
    return turns_of(tape.call(folder))


def test_an_answer_has_silences_in_front_of_its_clauses_and_none_behind(tmp_path: Path) -> None:
    tape = Tape().quiet(1000).line(800).quiet(600).says(FIRST).quiet(200).says(SECOND).quiet(3000).line(500).quiet(100)
    turn, cut = heard(tape, tmp_path)
    assert (turn.gaps_ms, turn.finished, turn.fillers, turn.broken) == (near(600, 200), True, 0, 0)
    assert (cut.gaps_ms, cut.finished) == (near(100), False)


def test_silence_behind_a_phrase_that_promises_more_counts(tmp_path: Path) -> None:
    tape = Tape().line(800).quiet(1400).says(SAID.filler).quiet(2800).line(500).quiet(100)
    turn, _ = heard(tape, tmp_path)
    assert (turn.gaps_ms, turn.finished, turn.fillers) == (near(1400, 2800), False, 1)


def test_a_clause_that_breaks_off_is_seen_and_its_repetition_ends_the_turn(tmp_path: Path) -> None:
    words = FIRST.split()
    tape = Tape().line(800).quiet(400).says(" ".join(words[:3])).quiet(900).says(FIRST).says(SECOND).quiet(3000)
    [turn] = heard(tape, tmp_path)
    assert (turn.gaps_ms, turn.finished, turn.broken) == (near(400, 900), True, 1)


def test_turns_belong_to_the_fault_they_fall_into(tmp_path: Path) -> None:
    tape = Tape().line(800).quiet(1600).says(REPLY).quiet(3000).line(800).quiet(500).says(REPLY).quiet(3000).line(500)
    faults = [Fault("tts", "hang", 1001.0, 1003.0)]
    rows, ordinary_ms = rows_of(faults, [tape.call(tmp_path)], 1500)
    assert [(row.fault, row.turns, row.over_limit) for row in rows] == [("tts hang", 1, 1), ("none", 1, 0)]
    assert tuple(row.longest_ms for row in rows) == near(1600, 500)
    assert ordinary_ms == [rows[1].longest_ms]
