"""Batches out of the requests of many threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from engines.micro_batch import BatchLimits, MicroBatcher
from voice_agent.errors import CapacityError, EngineFailedError


class Model:
    """Doubles numbers, remembers its batches, and stands still while ``gate`` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = Event()
        self.gate.set()
        self.busy = Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.busy.set()
        assert self.gate.wait(10)
        self.batches.append(list(items))
        if 13 in items:
            raise RuntimeError("bad luck")
        return [2 * item for item in items]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def batcher(model: Model) -> Iterator[MicroBatcher[int, int]]:
    """Items of the same sign share a batch of at most 4; 6 may wait."""
    batcher = MicroBatcher("test", model, lambda item: item >= 0, BatchLimits(4, 0.1, 6))
    yield batcher
    model.gate.set()
    batcher.close()


def hold(model: Model, batcher: MicroBatcher[int, int]) -> Future[int]:
    """Keep the model busy with one item; what comes now waits."""
    model.gate.clear()
    first = batcher.submit(0, urgent=True)
    assert model.busy.wait(10)
    return first


def results(futures: Sequence[Future[Any]]) -> list[Any]:
    return [future.result(timeout=10) for future in futures]


def test_everyone_gets_their_own_result(batcher: MicroBatcher[int, int]) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda item: batcher.submit(item, urgent=True).result(10), range(6)))
    assert answers == [0, 2, 4, 6, 8, 10]
    assert batcher.statistics.items == 6


def test_what_waits_goes_together(model: Model, batcher: MicroBatcher[int, int]) -> None:
    hold(model, batcher)
    waiting = [batcher.submit(item, urgent=True) for item in (1, 2, 3, 4, 5)]
    model.gate.set()
    assert results(waiting) == [2, 4, 6, 8, 10]
    assert model.batches == [[0], [1, 2, 3, 4], [5]]
    assert batcher.statistics.largest == 4


def test_the_first_waits_a_moment_for_company(model: Model, batcher: MicroBatcher[int, int]) -> None:
    assert results([batcher.submit(item, urgent=True) for item in (1, 2)]) == [2, 4]
    assert model.batches == [[1, 2]]


def test_keys_do_not_mix(model: Model, batcher: MicroBatcher[int, int]) -> None:
    hold(model, batcher)
    waiting = [batcher.submit(item, urgent=True) for item in (1, -1, 2, -2)]
    model.gate.set()
    assert results(waiting) == [2, -2, 4, -4]
    assert model.batches == [[0], [1, 2], [-1, -2]]


def test_urgent_ones_go_first(model: Model, batcher: MicroBatcher[int, int]) -> None:
    hold(model, batcher)
    partials = [batcher.submit(item, urgent=False) for item in (1, 2, 3)]
    urgent = [batcher.submit(item, urgent=True) for item in (4, 5)]
    model.gate.set()
    results([*urgent, *partials])
    assert model.batches == [[0], [4, 5, 1, 2], [3]]


def test_a_full_queue_refuses_the_newest_and_partials_early(model: Model, batcher: MicroBatcher[int, int]) -> None:
    hold(model, batcher)
    waiting = [batcher.submit(item, urgent=True) for item in (1, 2, 3, 4)]
    with pytest.raises(CapacityError):
        batcher.submit(9, urgent=False)
    waiting += [batcher.submit(item, urgent=True) for item in (5, 6)]
    with pytest.raises(CapacityError):
        batcher.submit(9, urgent=True)
    assert batcher.statistics.refused == 2
    model.gate.set()
    assert results(waiting) == [2, 4, 6, 8, 10, 12]


def test_a_failure_reaches_the_whole_batch_and_no_other(model: Model, batcher: MicroBatcher[int, int]) -> None:
    hold(model, batcher)
    unlucky = [batcher.submit(item, urgent=True) for item in (1, 13)]
    other = batcher.submit(-1, urgent=True)
    model.gate.set()
    errors = [future.exception(timeout=10) for future in unlucky]
    assert [str(error) for error in errors] == ["test failed: RuntimeError: bad luck"] * 2
    assert all(isinstance(error, EngineFailedError) for error in errors)
    assert errors[0] is not errors[1]
    assert other.result(10) == -2
    assert batcher.submit(1, urgent=True).result(10) == 2


def test_who_is_cancelled_while_waiting_costs_nothing(model: Model, batcher: MicroBatcher[int, int]) -> None:
    hold(model, batcher)
    gone, stays = batcher.submit(1, urgent=True), batcher.submit(2, urgent=True)
    assert gone.cancel()
    model.gate.set()
    assert stays.result(10) == 4
    assert model.batches == [[0], [2]]


def test_closing_tells_who_waits_and_refuses_the_rest(model: Model, batcher: MicroBatcher[int, int]) -> None:
    hold(model, batcher)
    waiting = batcher.submit(1, urgent=True)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(batcher.close)
        with pytest.raises(EngineFailedError, match="closed"):
            waiting.result(10)
        model.gate.set()
        closing.result(10)
    batcher.close()
    with pytest.raises(EngineFailedError, match="closed"):
        batcher.submit(1, urgent=True)
