"""The journal: records of calls in, out to Postgres, files, Prometheus and OpenTelemetry.

Long-lived, and the only process that counts calls: series of processes that come and go would grow without end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import start_http_server

from actors.call.outbox import BAD_RECORD, CallBegan, CallMoved, JournalRecord, LogEntries
from actors.journal.call_files import CallFiles
from actors.journal.instruments import Instruments
from actors.journal.record_writer import PostgresStore, RecordStore, RecordWriter
from actors.journal.retention import Retention
from actors.journal.spans import CallSpans
from actors.journal.spool import Spool
from actors.tasks import TaskKeeper
from configs.runtime import StackContext
from voice_agent import metrics
from voice_agent.dialog.records import CallRecord, TurnRecord
from voice_agent.errors import ConfigError

logger = logging.getLogger(__name__)

TAIL: Final = 2_000
"""Log entries of a call kept in memory."""

CALLS_KEPT: Final = 300
"""Calls with entries in memory; the one longest untouched goes first."""

FLUSH_S: Final = 5.0


@dataclass(slots=True)
class _Call:
    """What is in memory of a call. ``newest`` is (epoch, n) of its last log entry.

    ``epoch`` numbers its newest owner, ``epoch_turn`` the turn at which that one took it over.
    """

    entries: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=TAIL))
    turns: dict[int, TurnRecord] = field(default_factory=dict)
    sequence: int = 0
    newest: tuple[int, int] = (0, 0)
    epoch: int = 0
    epoch_turn: int = 0
    began: bool = False
    started_at_s: float = 0.0
    ended: bool = False


class Journal:
    """Plain class; ``start`` is idempotent and implied by every method, because a restarted actor re-runs only its
    constructor. ``store`` and ``spans`` are for tests.
    """

    def __init__(self, context: StackContext, store: RecordStore | None = None, spans: CallSpans | None = None) -> None:
        settings = context.settings
        self._context = context
        self._instruments = Instruments()
        self._store = store or PostgresStore(context.dsn, settings.storage.pool_size)
        self._writer = RecordWriter(
            self._store,
            Spool(context.data_dir / "spool" / "journal.jsonl", settings.storage.spool_max_mb * 1024 * 1024),
            lambda cause: self._instruments.count(metrics.JOURNAL_DROPPED, cause),
        )
        self._files = CallFiles(context.run_dir)
        self._spans = spans
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self._tasks = TaskKeeper()
        self._starting = asyncio.Lock()
        self._disk = asyncio.Lock()
        self._server: Any = None
        self._started = False

    # --- life ---

    async def start(self) -> None:
        """Serve metrics and begin to write. Idempotent.

        Raises:
            ConfigError: the metrics port is taken.
        """
        async with self._starting:
            if self._started:
                return
            settings = self._context.settings
            if self._spans is None and settings.telemetry.otlp_endpoint:
                self._spans = CallSpans.otlp(settings)
            self._server = _serve_metrics(self._instruments, settings.server.host, settings.telemetry.metrics_port)
            self._tasks.start(self._writer.run(), "record-writer")
            if settings.storage.keep_days:
                retention = Retention(self._context.dsn, self._context.run_dir.parent, settings.storage.keep_days)
                self._tasks.start(retention.run(), "retention")
            self._started = True

    async def stop(self) -> bool:
        """Bring what is here to Postgres, or to disk where it waits for the next start. True when all is in Postgres.

        Idempotent.
        """
        if not self._started:
            return True
        written = await self._writer.flush(FLUSH_S)
        await self._tasks.aclose()
        await self._store.close()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)
        server, thread = self._server
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await asyncio.to_thread(thread.join)
        self._started = False
        return written

    # --- records in ---

    async def batch(self, records: Sequence[JournalRecord]) -> None:
        """Take records in order; what was taken before is not counted twice.

        One that cannot be dealt with is left out and counted: sent again it would fail again, and hold up all others.
        """
        await self.start()
        for record in records:
            try:
                await self._take(record)
            except BAD_RECORD:
                logger.exception("bad record left out", extra={"kind": type(record).__name__})
                self._instruments.count(metrics.JOURNAL_DROPPED, "bad")

    async def call_started(self, call_id: str, caller_pii: str, called: str, started_at: float) -> None:
        """A call is up. ``started_at`` is Unix time in s."""
        await self.batch([CallBegan(call_id, caller_pii, called, started_at)])

    async def turn(self, record: TurnRecord) -> None:
        """A turn is over."""
        await self.batch([record])

    async def call_ended(self, record: CallRecord) -> None:
        """A call is over."""
        await self.batch([record])

    async def call_lost(self, call_id: str, reason: str) -> None:
        """A call may have ended without its actor saying so: record its end, unless one is known."""
        await self.start()
        call = self._call(call_id)
        if call.ended or not call.began:
            return
        duration_ms = round((time.time() - call.started_at_s) * 1000) if call.started_at_s else 0
        self._ended(CallRecord(call_id, duration_ms=duration_ms, turns=len(call.turns), end_reason=reason))

    async def events(self, call_id: str, entries: list[dict[str, Any]]) -> None:
        """Append to the event log of a call."""
        await self.start()
        await self._log(call_id, entries)

    async def cluster_status(self, status: Mapping[str, Any]) -> None:
        """What the dispatcher says of itself, for the gauges."""
        await self.start()
        self._instruments.cluster(status)

    async def take_over(self, reason: str, took_s: float) -> None:
        """A call that had lost its actor for ``reason`` is listened to by the next one, ``took_s`` after the loss."""
        await self.start()
        self._instruments.observe(metrics.TAKE_OVER_SECONDS, took_s, metrics.take_over_label(reason))

    # --- looking in ---

    async def live_events(self, call_id: str, after: int) -> list[dict[str, Any]]:
        """Log entries of a call whose ``seq`` is above ``after``, oldest first; at most the newest ``TAIL``."""
        call = self._calls.get(call_id)
        return [] if call is None else [entry for entry in call.entries if entry["seq"] > after]

    async def status(self) -> dict[str, Any]:
        """Counters, and the port metrics are served on."""
        await self.start()
        self._gauges()
        return {
            "metrics_port": self._server[0].server_port,
            "calls_in_memory": len(self._calls),
            "queued": self._writer.queued,
            "spooled_bytes": self._writer.spooled_bytes,
            "store_away": self._writer.away,
            "spans": self._spans is not None,
        }

    # --- inside ---

    async def _take(self, record: JournalRecord) -> None:
        if isinstance(record, LogEntries):
            await self._log(record.call_id, self._fresh(record))
        elif isinstance(record, CallBegan):
            self._began(record)
        elif isinstance(record, CallMoved):
            self._moved(record)
        elif isinstance(record, TurnRecord):
            await self._turn(record)
        else:
            self._ended(record)

    def _call(self, call_id: str) -> _Call:
        call = self._calls.get(call_id)
        if call is None:
            call = self._calls[call_id] = self._remember(call_id)
            if len(self._calls) > CALLS_KEPT:
                self._calls.popitem(last=False)
        self._calls.move_to_end(call_id)
        return call

    def _remember(self, call_id: str) -> _Call:
        """A call that is new here may be one that a former process of this run knew."""
        entries, turns = self._files.remembered(call_id, TAIL)
        call = _Call(turns={turn.turn: turn for turn in turns}, began=bool(turns))
        call.entries.extend(entries)
        call.sequence = int(entries[-1].get("seq", 0)) if entries else 0
        return call

    def _began(self, record: CallBegan) -> None:
        call = self._call(record.call_id)
        if not call.began:
            call.began, call.started_at_s = True, record.started_at_s
            self._instruments.count(metrics.CALLS_STARTED)
            if self._spans is not None:
                self._spans.began(record)
        self._put(record)

    def _moved(self, record: CallMoved) -> None:
        call = self._call(record.call_id)
        if record.epoch > call.epoch:
            call.epoch, call.epoch_turn = record.epoch, record.turn
        self._put(record)

    def _overtaken(self, record: TurnRecord | CallRecord) -> bool:
        """Whether it is the word of an owner that was only frozen: the call went on elsewhere without it."""
        call = self._call(record.call_id)
        if not 0 < record.epoch < call.epoch:
            return False
        if isinstance(record, TurnRecord):
            known = call.turns.get(record.turn)
            if record.turn <= call.epoch_turn and (known is None or known.epoch <= record.epoch):
                return False  # it had ended that turn while the call was still its own
        logger.warning("record of a former owner refused", extra={"call_id": record.call_id, "epoch": record.epoch})
        return True

    async def _turn(self, record: TurnRecord) -> None:
        call = self._call(record.call_id)
        if self._overtaken(record):
            return
        if record.turn not in call.turns:
            self._instruments.turn(record)
            if self._spans is not None:
                self._spans.turn(record)
        call.turns[record.turn] = record
        turns = list(call.turns.values())
        await self._to_disk(lambda: self._files.write_turns(record.call_id, turns))
        self._put(record)

    def _ended(self, record: CallRecord) -> None:
        call = self._call(record.call_id)
        if self._overtaken(record):
            return
        if not call.ended:
            call.ended = True
            self._instruments.call_ended(record)
            if self._spans is not None:
                self._spans.ended(record)
        self._put(record)

    def _put(self, record: CallBegan | CallMoved | TurnRecord | CallRecord) -> None:
        self._writer.put(record)
        self._gauges()

    def _gauges(self) -> None:
        self._instruments.level(metrics.JOURNAL_QUEUE, self._writer.queued)
        self._instruments.level(metrics.JOURNAL_SPOOL, self._writer.spooled_bytes)

    def _fresh(self, record: LogEntries) -> list[dict[str, Any]]:
        """Entries that are not here yet: a batch may come twice, and a call may move to another actor."""
        call = self._call(record.call_id)
        fresh = [entry for entry in record.entries if (record.epoch, int(entry["n"])) > call.newest]
        if fresh:
            call.newest = (record.epoch, int(fresh[-1]["n"]))
        return fresh

    async def _log(self, call_id: str, entries: Sequence[dict[str, Any]]) -> None:
        call = self._call(call_id)
        numbered = [{"seq": call.sequence + place, **entry} for place, entry in enumerate(entries, 1)]
        if numbered:
            call.sequence += len(numbered)
            call.entries.extend(numbered)
            await self._to_disk(lambda: self._files.append_events(call_id, numbered))

    async def _to_disk(self, write: Any) -> None:
        async with self._disk:
            try:
                await asyncio.to_thread(write)
            except OSError:
                logger.exception("run folder not writable")
                self._instruments.count(metrics.JOURNAL_DROPPED, "disk")


def _serve_metrics(instruments: Instruments, host: str, port: int) -> Any:
    try:
        return start_http_server(port, host, instruments.registry)
    except OSError as error:
        raise ConfigError(
            f"telemetry.metrics_port: cannot serve metrics on {host}:{port} ({error.strerror}); "
            "choose a free port, or 0 for any"
        ) from error
