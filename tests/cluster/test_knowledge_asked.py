"""``kb ask`` without a stack answers as a call would, with the stack's own gates and phrases."""

from __future__ import annotations

import asyncio

import pytest

from cluster import knowledge
from configs.loader import resolve
from voice_agent.ports import Passage

NEAR = Passage("c", "We open at nine.", "We open at nine.", "Hours", "hours.md", 0.5, 0.0, 0.5)


@pytest.mark.parametrize(("least", "answer"), [(0.4, "We open at nine."), (0.6, "Ask at the desk.")])
def test_the_gate_and_the_words_for_no_answer_are_those_of_the_settings(least: float, answer: str) -> None:
    wanted = [f"retriever.min_dense={least}", "agent.unknown=Ask at the desk."]
    settings = resolve("embedded", None, wanted, env={}).settings
    assert asyncio.run(knowledge._answer(settings, "when do you open", (NEAR,))) == answer
