"""The one task that tells of calls: nothing that goes wrong in it ends it, and one bad record holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from local_plane import ListJournal

from actors.call.outbox import JournalOutbox, JournalRecord, LogEntries
from voice_agent.errors import StorageError


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
async def running(journal: ListJournal) -> AsyncIterator[JournalOutbox]:
    outbox = JournalOutbox(journal, batch_s=0.0, retry_s=0.0)
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
