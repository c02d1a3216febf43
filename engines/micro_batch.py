"""Requests of many threads, gathered into batches for the one thread that runs a model."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Generic, TypeVar

from voice_agent.errors import CapacityError, EngineFailedError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How batches are made.

    Attributes:
        max_batch: most items in a batch.
        max_wait_s: how long the first item of a batch waits for others.
        max_waiting: urgent items that may wait; one more is refused. Others are refused from ``max_batch`` waiting
            items on, because the next batch is full without them.
    """

    max_batch: int
    max_wait_s: float
    max_waiting: int


@dataclass(slots=True)
class BatchStatistics:
    """Counts since the start."""

    batches: int = 0
    items: int = 0
    largest: int = 0
    refused: int = 0


@dataclass(slots=True, eq=False)  # known by identity: items may be arrays, which do not compare to a truth
class _Waiting(Generic[Item, Result]):
    item: Item
    key: Hashable
    due_s: float
    future: Future[Result] = field(default_factory=Future)


class MicroBatcher(Generic[Item, Result]):
    """One thread that runs ``run`` on batches of items with the same ``key``, urgent ones first, oldest first.

    ``run`` gives one result per item, in order. What it raises reaches everyone in the batch as EngineFailedError.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        key: Callable[[Item], Hashable],
        limits: BatchLimits,
    ) -> None:
        self.statistics = BatchStatistics()
        self._name = name
        self._run = run
        self._key = key
        self._limits = limits
        self._urgent: deque[_Waiting[Item, Result]] = deque()
        self._others: deque[_Waiting[Item, Result]] = deque()
        self._changed = Condition()
        self._closed = False
        self._thread = Thread(target=self._work, name=f"{name}-batches", daemon=True)
        self._thread.start()

    def submit(self, item: Item, *, urgent: bool) -> Future[Result]:
        """Queue an item; cancelling the future takes it out again while it waits.

        Raises:
            CapacityError: too much is waiting.
            EngineFailedError: the batcher is closed.
        """
        waiting: _Waiting[Item, Result] = _Waiting(item, self._key(item), time.monotonic() + self._limits.max_wait_s)
        with self._changed:
            if self._closed:
                raise EngineFailedError(f"The {self._name} engine is closed.")
            if len(self._urgent) + len(self._others) >= (
                self._limits.max_waiting if urgent else self._limits.max_batch
            ):
                self.statistics.refused += 1
                raise CapacityError(f"The {self._name} engine has too many requests waiting.")
            (self._urgent if urgent else self._others).append(waiting)
            self._changed.notify()
        return waiting.future

    def close(self) -> None:
        """Stop the thread when the batch under way is done; who still waits is told. Idempotent."""
        with self._changed:
            self._closed = True
            left = [*self._urgent, *self._others]
            self._urgent.clear()
            self._others.clear()
            self._changed.notify()
        for waiting in left:
            if waiting.future.set_running_or_notify_cancel():
                waiting.future.set_exception(EngineFailedError(f"The {self._name} engine was closed."))
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            taken = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if taken:
                self._answer(taken)

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        """Wait for work, then for company; empty when closed."""
        with self._changed:
            while not self._closed:
                head = self._head()
                if head is None:
                    self._changed.wait()
                    continue
                left_s = head.due_s - time.monotonic()
                if left_s <= 0 or self._count(head.key) >= self._limits.max_batch:
                    return self._take(head.key)
                self._changed.wait(left_s)
            return []

    def _head(self) -> _Waiting[Item, Result] | None:
        return next(iter(self._urgent or self._others), None)

    def _count(self, key: Hashable) -> int:
        return sum(waiting.key == key for line in (self._urgent, self._others) for waiting in line)

    def _take(self, key: Hashable) -> list[_Waiting[Item, Result]]:
        taken: list[_Waiting[Item, Result]] = []
        for line in (self._urgent, self._others):
            mine = [waiting for waiting in line if waiting.key == key][: self._limits.max_batch - len(taken)]
            for waiting in mine:
                line.remove(waiting)
            taken += mine
        return taken

    def _answer(self, batch: Sequence[_Waiting[Item, Result]]) -> None:
        self.statistics.batches += 1
        self.statistics.items += len(batch)
        self.statistics.largest = max(self.statistics.largest, len(batch))
        try:
            results = self._run([waiting.item for waiting in batch])
        except Exception as error:  # noqa: BLE001 - it goes on in the threads that wait; this one must live
            for waiting in batch:
                # One exception each: a shared one would gather the stacks of all who raise it.
                failure = EngineFailedError(f"{self._name} failed: {type(error).__name__}: {error}")
                failure.__cause__ = error
                waiting.future.set_exception(failure)
            return
        for waiting, result in zip(batch, results, strict=True):
            waiting.future.set_result(result)
