"""The one task that tells of calls: nothing that goes wrong in it ends it, and one bad record holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from local_plane import ListJournal
from ray.exceptions import RayActorError, RayTaskError

from actors.call.outbox import JournalOutbox, JournalRecord, LogEntries
from actors.clients import RayJournal
from voice_agent.errors import RecordRefusedError, StorageError


class WeakJournal(ListJournal):
    """Raises what ``fault`` makes of a batch."""

    def __init__(self, fault: Callable[[list[JournalRecord]], Exception | None]) -> None:
        super().__init__()
        self._fault = fault

    async def batch(self, records: list[JournalRecord]) -> None:
        if (error := self._fault(records)) is not None:
            raise error
        await super().batch(records)


def numbered(number: int) -> LogEntries:
    return LogEntries(f"CA{number}", 1, ())


def taken(journal: ListJournal) -> list[str]:
    return [record.call_id for record in journal.of(LogEntries)]


@asynccontextmanager
async def running(journal: ListJournal, retry_s: float = 0.0) -> AsyncIterator[JournalOutbox]:
    outbox = JournalOutbox(journal, batch_s=0.0, retry_s=retry_s)
    task = asyncio.create_task(outbox.run())
    yield outbox
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_unexpected_failure_is_told_and_the_records_go_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    faults = [TypeError("not today")]
    journal = WeakJournal(lambda _: faults.pop() if faults else None)
    async with running(journal) as outbox:
        for number in range(20):
            outbox.add(numbered(number))
        assert await outbox.flush(5)
    assert taken(journal) == [f"CA{number}" for number in range(20)]
    assert outbox.dropped == 0
    assert [record.message for record in caplog.records] == ["outbox failed"]


async def test_one_record_that_cannot_be_sent_is_dropped_and_counted_the_others_go_in_order() -> None:
    journal = WeakJournal(lambda batch: TypeError("cannot pickle") if numbered(3) in batch else None)
    async with running(journal) as outbox:
        for number in range(9):
            outbox.add(numbered(number))
        assert await outbox.flush(5)
    assert taken(journal) == [f"CA{number}" for number in range(9) if number != 3]
    assert outbox.dropped == 1


async def test_one_record_that_is_refused_for_good_is_dropped_and_counted_the_others_go_in_order() -> None:
    journal = WeakJournal(lambda batch: RecordRefusedError("never") if numbered(3) in batch else None)
    async with running(journal, retry_s=3600.0) as outbox:
        for number in range(9):
            outbox.add(numbered(number))
        assert await outbox.flush(5)
    assert taken(journal) == [f"CA{number}" for number in range(9) if number != 3]
    assert outbox.dropped == 1


class Failing:
    """The actor's handle; its method fails as Ray says it."""

    def __init__(self, error: Exception) -> None:
        self.batch = self
        self._error = error

    async def remote(self, _: object) -> None:
        raise self._error


@pytest.mark.parametrize("cause", [TypeError("no turn"), KeyError("times"), ValueError("no text")])
async def test_a_journal_that_fails_at_a_record_refuses_it_for_good(cause: Exception) -> None:
    journal = RayJournal("namespace")
    journal._actor = Failing(RayTaskError("batch", "traceback", cause).as_instanceof_cause())
    with pytest.raises(RecordRefusedError) as caught:
        await journal.batch([numbered(1)])
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "error",
    [
        RayTaskError("batch", "traceback", OSError("disk full")).as_instanceof_cause(),
        RayTaskError("batch", "traceback", StorageError("away")).as_instanceof_cause(),
        RayActorError(),
        ValueError("no actor of that name"),
    ],
)
async def test_a_journal_that_is_away_or_without_its_disk_may_be_asked_again(error: Exception) -> None:
    journal = RayJournal("namespace")
    journal._actor = Failing(error)
    with pytest.raises(StorageError) as caught:
        await journal.batch([numbered(1)])
    assert caught.value.retryable


async def test_a_source_that_fails_does_not_end_the_task() -> None:
    def gather() -> None:
        if outbox.waiting == 0:
            raise ValueError("nothing here")

    journal = ListJournal()
    async with running(journal) as outbox:
        outbox.attach("bad", gather)
        outbox.notify()
        await asyncio.sleep(0.01)
        outbox.detach("bad")
        outbox.add(numbered(1))
        assert await outbox.flush(5)
    assert taken(journal) == ["CA1"]


async def test_while_the_journal_is_away_nothing_is_dropped() -> None:
    away = [StorageError("away")] * 5
    journal = WeakJournal(lambda _: away.pop() if away else None)
    async with running(journal) as outbox:
        outbox.add(numbered(1))
        assert await outbox.flush(5)
    assert (taken(journal), outbox.dropped) == (["CA1"], 0)
