"""Records on their way to Postgres: in order, by way of the disk while it is away."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from actors.call.outbox import CallBegan, CallMoved
from actors.journal.record_codec import StoredRecord
from actors.journal.spool import Spool
from storage.calls import CallRepository
from storage.database import Database
from voice_agent.dialog.records import TurnRecord
from voice_agent.errors import StorageError

logger = logging.getLogger(__name__)

MAX_QUEUE: Final = 2_000
WRITE_S: Final = 10.0
RETRY_S: Final = 1.0

Dropped = Callable[[str], None]
"""Called with the cause for each record that is lost."""


class RecordStore(Protocol):
    """Where records end up. Every write may be repeated."""

    async def write(self, record: StoredRecord) -> None:
        """Keep a record.

        Raises:
            StorageError: not now; ``retryable`` is False when the record itself is refused.
        """

    async def close(self) -> None:
        """Let go."""


class PostgresStore:
    """Connects on the first write, and again after a failed connect."""

    def __init__(self, dsn: str, pool_size: int) -> None:
        self._dsn = dsn
        self._pool_size = pool_size
        self._database: Database | None = None
        self._calls: CallRepository | None = None

    async def write(self, record: StoredRecord) -> None:
        """Keep a record."""
        if self._calls is None:
            self._database = await Database.connect(self._dsn, self._pool_size)
            self._calls = CallRepository(self._database)
        if isinstance(record, CallBegan):
            await self._calls.start_call(record.call_id, record.caller_pii, record.called, record.started_at_s)
        elif isinstance(record, CallMoved):
            await self._calls.move_call(record.call_id, record.epoch)
        elif isinstance(record, TurnRecord):
            await self._calls.save_turn(record)
        else:
            await self._calls.end_call(record)

    async def close(self) -> None:
        """Close the connections."""
        if self._database is not None:
            await self._database.close()
        self._database = self._calls = None


class RecordWriter:
    """``put`` never waits. In memory at most ``MAX_QUEUE`` records, then on disk, then dropped and counted.

    While anything is on disk, new records go there too, so the order is kept; only a queue that overflowed and then
    lost its store may write older records after newer ones, which the store does not mind.
    """

    def __init__(self, store: RecordStore, spool: Spool, dropped: Dropped, *, retry_s: float = RETRY_S) -> None:
        self._store = store
        self._spool = spool
        self._dropped = dropped
        self._retry_s = retry_s
        self._queue: deque[StoredRecord] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self.away = ""

    @property
    def queued(self) -> int:
        """Records in memory."""
        return len(self._queue)

    @property
    def spooled_bytes(self) -> int:
        """Records on disk."""
        return self._spool.waiting_bytes

    def put(self, record: StoredRecord) -> None:
        """Take a record."""
        self._idle.clear()
        if self._spool.waiting_bytes or self.away or len(self._queue) >= MAX_QUEUE:
            self._to_disk(record)
        else:
            self._queue.append(record)
        self._wake.set()

    async def run(self) -> None:
        """Write, for ever. What a former process left on disk goes first."""
        while True:
            if await self._drain():
                self._idle.set()
                await self._wake.wait()
                self._wake.clear()
            else:
                await asyncio.sleep(self._retry_s)

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all is in the store; what is not within ``timeout_s`` is put on disk, and False returned."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
            return True
        except TimeoutError:
            self._spill()
            return False

    async def _drain(self) -> bool:
        """Memory is older than the disk: it was there first. True when nothing is left."""
        while self._queue:
            if not await self._write(self._queue[0]):
                self._spill()
                return False
            self._queue.popleft()
        while (record := self._spool.head()) is not None:
            if not await self._write(record):
                return False
            self._spool.pop()
        return True

    async def _write(self, record: StoredRecord) -> bool:
        """True when the store has it, or will never take it."""
        try:
            async with asyncio.timeout(WRITE_S):
                await self._store.write(record)
        except (StorageError, TimeoutError) as error:
            if isinstance(error, StorageError) and not error.retryable:
                logger.error("record refused", extra={"call_id": record.call_id, "reason": error.message})
                self._dropped("refused")
                return True
            if not self.away:
                logger.warning("store away, records go to disk", extra={"reason": str(error) or "timeout"})
            self.away = str(error) or "timeout"
            return False
        if self.away:
            logger.warning("store is back")
            self.away = ""
        return True

    def _spill(self) -> None:
        """Memory to disk."""
        while self._queue:
            self._to_disk(self._queue.popleft())

    def _to_disk(self, record: StoredRecord) -> None:
        try:
            kept = self._spool.put(record)
        except OSError:
            logger.exception("spool not writable")
            kept = False
        if not kept:
            self._dropped("spool")
