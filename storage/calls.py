"""Calls, turns and carrier events in Postgres.

Every write is an upsert under a natural key, so a spool may replay any part of its records, in any order, any number
of times. Columns that hold what people said or are called end in ``_pii``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from storage.database import Database
from voice_agent.dialog.records import CallRecord, TurnRecord
from voice_agent.errors import ProtocolError

MAX_PAGE = 200

_ENDED_AT = "CASE WHEN end_reason <> '' THEN started_at + duration_ms * interval '1 millisecond' END AS ended_at"
_CODES = (
    "ARRAY(SELECT t.code FROM turns AS t WHERE t.call_id = calls.call_id AND t.code <> '' "
    "GROUP BY t.code ORDER BY min(t.turn)) AS codes"
)
"""Versions of the code that ended turns of a call, in the order of its turns."""

_CALL_COLUMNS = (
    f"call_id, caller_pii, called, started_at, {_ENDED_AT}, duration_ms, turns, barge_ins, end_reason, counters, "
    f"{_CODES}"
)
_TURN_COLUMNS = (
    "turn, kind, outcome, caller_text_pii, caller_confidence, agent_text_pii, heard_text_pii, sources, "
    "failed_stages, speculations, times_ms, v2v_self_ms, engines, fillers, epoch, code"
)


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls to list; an empty field does not filter. ``state``: live or ended. ``since`` is inclusive."""

    state: str = ""
    end_reason: str = ""
    caller_pii: str = ""
    called: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class CallPage:
    """Calls, newest first. ``next_cursor`` is empty on the last page."""

    calls: list[dict[str, Any]]
    next_cursor: str = ""


@dataclass(frozen=True, slots=True)
class CarrierEvent:
    """A status callback of the carrier. ``key`` is the same when the carrier sends it again.

    ``kind``: call, stream or connect. ``error`` is the carrier's own text, empty when there is none.
    """

    call_id: str
    key: str
    kind: str
    event: str
    error: str = ""
    details: Mapping[str, str] | None = None


class CallRepository:
    """Reads and writes calls. Errors are ``StorageError``; ``RecordRefusedError`` when a retry cannot help."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start_call(self, call_id: str, caller_pii: str, called: str, started_at_s: float) -> None:
        """A call is up. ``started_at_s`` is Unix time."""
        await self._database.execute(
            "INSERT INTO calls (call_id, caller_pii, called, started_at) VALUES ($1, $2, $3, $4) "
            "ON CONFLICT (call_id) DO UPDATE SET caller_pii = EXCLUDED.caller_pii, called = EXCLUDED.called, "
            "started_at = EXCLUDED.started_at",
            _clean(call_id),
            _clean(caller_pii),
            _clean(called),
            datetime.fromtimestamp(started_at_s, UTC),
        )

    async def save_turn(self, record: TurnRecord) -> None:
        """Keep a turn; a newer record of the same turn replaces it. Makes the call's row when it is not there yet.

        A record of an older epoch than the one that is kept changes nothing.
        """
        call_id = _clean(record.call_id)
        async with self._database.transaction() as connection:
            await connection.execute("INSERT INTO calls (call_id) VALUES ($1) ON CONFLICT DO NOTHING", call_id)
            if not await connection.fetchval(_UPSERT_TURN, *_turn_values(record)):
                return
            await connection.execute("DELETE FROM tool_calls WHERE call_id = $1 AND turn = $2", call_id, record.turn)
            await connection.executemany(
                "INSERT INTO tool_calls (call_id, turn, position, name) VALUES ($1, $2, $3, $4)",
                [(call_id, record.turn, position, _clean(name)) for position, name in enumerate(record.tool_calls)],
            )

    async def move_call(self, call_id: str, epoch: int) -> None:
        """A call has a new owner: what an older one says of its end, or asks of tools, is refused from here on."""
        await self._database.execute(
            "INSERT INTO calls (call_id, epoch) VALUES ($1, $2) "
            "ON CONFLICT (call_id) DO UPDATE SET epoch = GREATEST(calls.epoch, EXCLUDED.epoch)",
            _clean(call_id),
            epoch,
        )

    async def end_call(self, record: CallRecord) -> None:
        """A call is over. What the record leaves empty does not overwrite what ``start_call`` knew.

        The word of an owner that was replaced changes nothing.
        """
        await self._database.execute(
            "INSERT INTO calls (call_id, caller_pii, called, duration_ms, turns, barge_ins, end_reason, counters, "
            "epoch) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) "
            "ON CONFLICT (call_id) DO UPDATE SET caller_pii = COALESCE(NULLIF(EXCLUDED.caller_pii, ''), "
            "calls.caller_pii), called = COALESCE(NULLIF(EXCLUDED.called, ''), calls.called), "
            "duration_ms = EXCLUDED.duration_ms, turns = EXCLUDED.turns, barge_ins = EXCLUDED.barge_ins, "
            "end_reason = EXCLUDED.end_reason, counters = EXCLUDED.counters, "
            "epoch = GREATEST(calls.epoch, EXCLUDED.epoch) WHERE EXCLUDED.epoch = 0 OR calls.epoch <= EXCLUDED.epoch",
            _clean(record.call_id),
            _clean(record.caller_pii),
            _clean(record.called),
            record.duration_ms,
            record.turns,
            record.barge_ins,
            _clean(record.end_reason) or "failed",
            record.counters,
            record.epoch,
        )

    async def add_carrier_event(self, event: CarrierEvent) -> bool:
        """Keep a status callback. False when it is kept already."""
        tag = await self._database.execute(
            "INSERT INTO carrier_events (call_id, event_key, kind, event, error, details) "
            "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            _clean(event.call_id),
            _clean(event.key),
            event.kind,
            _clean(event.event),
            _clean(event.error),
            {_clean(key): _clean(value) for key, value in (event.details or {}).items()},
        )
        return not tag.endswith(" 0")

    async def list_calls(self, wanted: CallFilter | None = None, *, limit: int = 50, cursor: str = "") -> CallPage:
        """Calls, newest first, ``limit`` (1 to 200) a page; ``cursor`` is the ``next_cursor`` of the page before.

        Raises:
            ProtocolError: the cursor is none of ours.
        """
        limit = max(1, min(limit, MAX_PAGE))
        where, arguments = _conditions(wanted or CallFilter())
        if cursor:
            started_at, call_id = _decode_cursor(cursor)
            arguments += [started_at, call_id]
            where.append(f"(started_at, call_id) < (${len(arguments) - 1}, ${len(arguments)})")
        arguments.append(limit + 1)
        rows = await self._database.fetch(
            f"SELECT {_CALL_COLUMNS} FROM calls {'WHERE ' + ' AND '.join(where) if where else ''} "
            f"ORDER BY started_at DESC, call_id DESC LIMIT ${len(arguments)}",
            *arguments,
        )
        more = len(rows) > limit
        rows = rows[:limit]
        return CallPage(rows, _encode_cursor(rows[-1]) if more else "")

    async def get_call(self, call_id: str) -> dict[str, Any] | None:
        """One call with ``turn_records`` (each with ``tool_calls``) and ``carrier_events``; None when unknown."""
        call_id = _clean(call_id)
        call = await self._database.fetch_one(f"SELECT {_CALL_COLUMNS} FROM calls WHERE call_id = $1", call_id)
        if call is None:
            return None
        turns = await self._database.fetch(
            f"SELECT {_TURN_COLUMNS}, ARRAY(SELECT name FROM tool_calls AS t WHERE t.call_id = turns.call_id "
            "AND t.turn = turns.turn ORDER BY position) AS tool_calls FROM turns WHERE call_id = $1 ORDER BY turn",
            call_id,
        )
        return call | {"turn_records": turns, "carrier_events": await self.carrier_events(call_id)}

    async def carrier_events(self, call_id: str) -> list[dict[str, Any]]:
        """What the carrier told about a call, oldest first, also of calls that never reached a stream."""
        return await self._database.fetch(
            "SELECT kind, event, error, details, received_at FROM carrier_events WHERE call_id = $1 "
            "ORDER BY received_at, event_key",
            _clean(call_id),
        )


_TURN_FIELDS = "call_id, " + _TURN_COLUMNS
_UPSERT_TURN = (
    f"INSERT INTO turns ({_TURN_FIELDS}) VALUES ({', '.join(f'${n}' for n in range(1, 18))}) "
    "ON CONFLICT (call_id, turn) DO UPDATE SET "
    + ", ".join(f"{name} = EXCLUDED.{name}" for name in _TURN_COLUMNS.split(", ") if name != "turn")
    + " WHERE turns.epoch <= EXCLUDED.epoch RETURNING true AS kept"
)


def _turn_values(record: TurnRecord) -> tuple[object, ...]:
    times_ms = {name: value for name, value in asdict(record.times).items() if value is not None}
    return (
        _clean(record.call_id),
        record.turn,
        record.kind,
        record.outcome,
        _clean(record.caller_text_pii),
        float(record.caller_confidence),
        _clean(record.agent_text_pii),
        _clean(record.heard_text_pii),
        [_clean(source) for source in record.sources],
        list(record.failed_stages),
        record.speculations,
        times_ms,
        record.v2v_self_reported_ms,
        dict(record.engines),
        record.fillers,
        record.epoch,
        _clean(record.code),
    )


def _conditions(wanted: CallFilter) -> tuple[list[str], list[object]]:
    where: list[str] = []
    arguments: list[object] = []
    if wanted.state:
        where.append("end_reason = ''" if wanted.state == "live" else "end_reason <> ''")
    for condition, value in (
        ("end_reason = ", wanted.end_reason),
        ("caller_pii = ", wanted.caller_pii),
        ("called = ", wanted.called),
        ("started_at >= ", wanted.since),
        ("started_at < ", wanted.until),
    ):
        if value:
            arguments.append(value)
            where.append(f"{condition}${len(arguments)}")
    return where, arguments


def _encode_cursor(row: Mapping[str, Any]) -> str:
    text = json.dumps([row["started_at"].isoformat(), row["call_id"]])
    return base64.urlsafe_b64encode(text.encode()).decode()


def _decode_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        started_at, call_id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        moment = datetime.fromisoformat(started_at)
    except (ValueError, TypeError, binascii.Error) as error:
        raise ProtocolError("the cursor is not one this server gave out: list again without it") from error
    if moment.tzinfo is None or not isinstance(call_id, str):
        raise ProtocolError("the cursor is not one this server gave out: list again without it")
    return moment, call_id


def _clean(text: str) -> str:
    """Postgres text cannot hold NUL, nor UTF-8 lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
