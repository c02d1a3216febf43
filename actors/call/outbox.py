"""From the calls of one process to the journal: batches in order, one on its way at a time, bounded."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

from actors.call.redaction import Redactor
from voice_agent.dialog.records import CallRecord, TurnRecord
from voice_agent.errors import VoiceAgentError

logger = logging.getLogger(__name__)

BATCH_S: Final = 0.5
RETRY_S: Final = 1.0
MAX_RECORDS: Final = 5_000
"""Records kept while the journal is away. Past this the oldest batches of log entries go first, then the newest
records are dropped and counted."""
BAD_RECORD: Final = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What code raises at a record that is not as it should be. No retry heals it, as it does a disk or a database."""


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A call is up. ``started_at_s`` is Unix time of zero on the call's clock."""

    call_id: str
    caller_pii: str
    called: str
    started_at_s: float
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class LogEntries:
    """Log entries of one call; ``n`` in each counts from 1 within ``epoch``."""

    call_id: str
    epoch: int
    entries: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class CallMoved:
    """A call has a new owner; what an older one says from here on is refused.

    ``turn`` is the newest turn at that moment: an older owner may still tell of turns up to it, which it had ended.
    """

    call_id: str
    epoch: int
    turn: int


JournalRecord = CallBegan | CallMoved | LogEntries | TurnRecord | CallRecord


class JournalPort(Protocol):
    """The journal as other processes see it."""

    async def batch(self, records: list[JournalRecord]) -> None:
        """Take records in order. A batch that was taken may be sent again.

        Raises:
            StorageError: the journal is away; or, not ``retryable``, one of the records can never be taken.
        """


class JournalOutbox:
    """``add`` never waits; ``run`` is the one task that sends.

    Args:
        journal: where records go.
        redactor: masks private data in what is added; None: nothing is masked.
        batch_s: how long records are gathered before they are sent.
        retry_s: how long after a failure they are sent again.
    """

    def __init__(
        self,
        journal: JournalPort,
        redactor: Redactor | None = None,
        *,
        batch_s: float = BATCH_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self.redactor = redactor
        self._journal = journal
        self._batch_s = batch_s
        self._retry_s = retry_s
        self._waiting: deque[JournalRecord] = deque()
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._sources: dict[str, Callable[[], None]] = {}
        self._most = MAX_RECORDS
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Records not taken by the journal yet."""
        return len(self._waiting)

    def add(self, record: JournalRecord) -> None:
        """Queue a record."""
        if len(self._waiting) >= MAX_RECORDS and not self._make_room():
            self.dropped += 1
            return
        self._waiting.append(self.redactor.record(record) if self.redactor else record)
        self._wake.set()

    def attach(self, name: str, gather: Callable[[], None]) -> None:
        """Call ``gather`` before each batch, so that a source may collect small things itself and add them late."""
        self._sources[name] = gather

    def detach(self, name: str) -> None:
        """The source is gone. Unknown names are fine."""
        self._sources.pop(name, None)

    def notify(self) -> None:
        """A source has something to gather."""
        self._wake.set()

    async def run(self) -> None:
        """Send batches, for ever."""
        while True:
            await self._wake.wait()
            await self._pause(self._batch_s)
            self._wake.clear()
            if not await self._round():
                await asyncio.sleep(self._retry_s)
            if self._waiting:
                self._wake.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything is with the journal; False when it is not within ``timeout_s``. ``run`` must run."""
        loop = asyncio.get_running_loop()
        give_up_at_s = loop.time() + timeout_s
        self._gather()
        while self._waiting and loop.time() < give_up_at_s:
            self._hurry.set()
            self._wake.set()
            await asyncio.sleep(0.01)
        return not self._waiting

    async def _pause(self, delay_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._hurry.wait()
        self._hurry.clear()

    def _gather(self) -> None:
        for gather in tuple(self._sources.values()):
            gather()

    async def _round(self) -> bool:
        """Gather and send once. False: not before a while again."""
        try:
            self._gather()
            return not self._waiting or await self._send()
        except Exception:
            # The border of the one task that tells of calls: were it to end, no record would leave this process again.
            logger.exception("outbox failed", extra={"waiting": len(self._waiting)})
            return False

    async def _send(self) -> bool:
        batch = list(islice(self._waiting, self._most))
        try:
            await self._journal.batch(batch)
        except VoiceAgentError as error:
            if error.retryable:
                logger.warning("journal away", extra={"code": error.code, "waiting": len(self._waiting)})
                return False
            logger.warning("records refused", extra={"code": error.code, "records": len(batch)})
            self._narrow(batch)
            return True
        except Exception:
            self._narrow(batch)
            raise
        self._most = min(MAX_RECORDS, 2 * self._most)
        self._forget(batch)
        return True

    def _narrow(self, batch: list[JournalRecord]) -> None:
        """A batch failed as no journal that is away does: one of its records may be why, and must not hold up the rest.

        They go one by one from here on; one that fails alone is dropped and counted.
        """
        if len(batch) == 1:
            self.dropped += 1
            self._forget(batch)
        self._most = 1

    def _forget(self, batch: list[JournalRecord]) -> None:
        # Room may have been made at the front meanwhile, so records are removed by identity.
        sent = {id(record) for record in batch}
        while self._waiting and id(self._waiting[0]) in sent:
            self._waiting.popleft()

    def _make_room(self) -> bool:
        for index, record in enumerate(self._waiting):
            if isinstance(record, LogEntries):
                del self._waiting[index]
                self.dropped += 1
                return True
        return False
