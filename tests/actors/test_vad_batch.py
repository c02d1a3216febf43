"""The micro-batch of voice activity: order, fairness, quiet windows, a failing engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from gateway_kit import silence, until, voice
from numpy.typing import NDArray

from actors.gateway.vad_batch import LARGEST_BATCH, VadBatch
from voice_agent.ports import Capabilities


class CountingVad:
    """Says 0.5 and counts the windows of each call in its state."""

    window_samples = 256
    capabilities = Capabilities(name="counting", version="1")

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.broken = False

    def initial_state(self) -> int:
        return 0

    def batch(self, windows: NDArray[np.float32], states: Sequence[Any]) -> tuple[NDArray[np.float32], list[Any]]:
        if self.broken:
            raise RuntimeError("no more memory")
        assert windows.shape == (len(states), 256)
        self.batches.append(len(states))
        return np.full(len(states), 0.5, np.float32), [state + 1 for state in states]


class Source:
    def __init__(self, batch: VadBatch, audio: bytes, *, speaking: bool = False) -> None:
        self.vad_state = batch.initial_state()
        self.speaking = speaking
        self.notices = True
        self.audio = audio
        self.at = 0
        self.judgements: list[tuple[float, list[float]]] = []

    def worth_judging(self, loudest_db: float) -> bool:
        return self.notices

    def has_window(self) -> bool:
        return len(self.audio) - self.at >= 256

    def next_window(self) -> bytes:
        self.at += 256
        return self.audio[self.at - 256 : self.at]

    def judged(self, probability: float, frames_db: list[float]) -> None:
        self.judgements.append((probability, frames_db))


async def test_calls_are_judged_together_window_by_window() -> None:
    engine = CountingVad()
    batch = VadBatch(engine)
    sources = [Source(batch, voice(96)) for _ in range(10)]
    for source in sources:
        batch.submit(source)
    await until(lambda: all(len(source.judgements) == 3 for source in sources))
    assert engine.batches == [10, 10, 10]
    assert [source.vad_state for source in sources] == [3] * 10
    assert batch.statistics.windows == 30


async def test_a_backlog_does_not_starve_other_calls() -> None:
    engine = CountingVad()
    batch = VadBatch(engine)
    greedy = [Source(batch, voice(3200)) for _ in range(LARGEST_BATCH)]
    for source in greedy:
        batch.submit(source)
    ahead: list[int] = []

    class Late(Source):
        def judged(self, probability: float, frames_db: list[float]) -> None:
            super().judged(probability, frames_db)
            ahead.append(max(len(source.judgements) for source in greedy))

    batch.submit(Late(batch, voice(32)))
    await until(lambda: ahead)
    assert ahead[0] <= 2
    batch.close()


async def test_quiet_windows_do_not_cost_an_inference_unless_the_caller_speaks() -> None:
    engine = CountingVad()
    batch = VadBatch(engine)
    quiet, talking = Source(batch, silence(320)), Source(batch, silence(320), speaking=True)
    batch.submit(quiet)
    batch.submit(talking)
    await until(lambda: len(quiet.judgements) == len(talking.judgements) == 10)
    assert {probability for probability, _ in quiet.judgements} == {0.0}
    assert {probability for probability, _ in talking.judgements} == {0.5}
    assert (quiet.vad_state, talking.vad_state) == (0, 10)
    assert batch.statistics.silent_windows == 10


async def test_a_failing_engine_is_heard_as_silence_and_counted() -> None:
    engine = CountingVad()
    batch = VadBatch(engine)
    source = Source(batch, voice(64))
    engine.broken = True
    batch.submit(source)
    await until(lambda: len(source.judgements) == 2)
    assert [probability for probability, _ in source.judgements] == [0.0, 0.0]
    assert batch.statistics.failed_windows == 2
    engine.broken = False
    source.audio += voice(32)
    batch.submit(source)
    await until(lambda: len(source.judgements) == 3)
    assert source.judgements[-1][0] == 0.5


async def test_nothing_runs_for_calls_that_are_gone() -> None:
    engine = CountingVad()
    batch = VadBatch(engine)
    source = Source(batch, voice(320))
    batch.submit(source)
    batch.forget(source)
    await asyncio.sleep(0.05)
    assert engine.batches == []
    assert source.judgements == []


async def test_levels_are_those_of_the_frames() -> None:
    batch = VadBatch(CountingVad())
    source = Source(batch, silence(24) + voice(8))
    batch.submit(source)
    await until(lambda: source.judgements)
    levels = source.judgements[0][1]
    assert max(levels[:3]) < -100
    assert -20 < levels[3] < -10


async def test_what_does_not_stand_out_of_a_callers_background_is_not_judged() -> None:
    engine = CountingVad()
    batch = VadBatch(engine)
    noisy = Source(batch, bytes(2560))
    noisy.notices = False
    batch.submit(noisy)
    await until(lambda: len(noisy.judgements) == 10)
    assert noisy.vad_state == 0
    assert batch.statistics.silent_windows == 10
