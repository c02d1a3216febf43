"""The ledger of tool runs: an effect and the record of it stand in one transaction, under a key that is unique.

So a run that is asked for again gives the outcome it gave before, and one whose process died half-way has left nothing
and may be done again. What is private in an outcome is masked in the record, and the record says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from storage.database import Database
from voice_agent.errors import ProtocolError, StorageError
from voice_agent.plan import Outcome
from voice_agent.tools import ToolRequest

MOST_ROWS: Final = 20
"""Rows of a query that are looked at; nobody wants more of them read out."""

_TAKE = (
    "INSERT INTO tool_runs (idempotency_key, call_id, turn, position, name, arguments_pii) "
    "VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (idempotency_key) DO NOTHING RETURNING true AS taken"
)
_KEEP = "UPDATE tool_runs SET ok = $2, code = $3, value_pii = $4, say_pii = $5, masked = $6 WHERE idempotency_key = $1"
_FENCE = "SELECT epoch FROM calls WHERE call_id = $1"
_FIND = "SELECT name, ok, code, value_pii, say_pii, masked FROM tool_runs WHERE idempotency_key = $1"

Effect = Callable[["Run"], Awaitable[Outcome]]
Mask = Callable[[Outcome], Outcome]


class Run:
    """What an effect may do inside its transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def read(self, sql: str, arguments: tuple[object, ...]) -> list[dict[str, Any]]:
        """Rows of one query, which cannot change anything; text, numbers, booleans and None only.

        Raises:
            StorageError: Postgres refuses it.
        """
        # Postgres cannot go back from read-only inside a transaction but by rolling back to before it.
        inner = self._connection.transaction()
        await inner.start()
        try:
            await self._connection.execute("SET LOCAL transaction_read_only = on")
            rows = await self._connection.fetch(sql, *arguments)
        finally:
            await inner.rollback()
        return [{name: _plain(value) for name, value in row.items()} for row in rows[:MOST_ROWS]]

    async def leave_message(self, call_id: str, name_pii: str, phone_pii: str, text_pii: str) -> int:
        """Keep a caller's message; its number."""
        number = await self._connection.fetchval(
            "INSERT INTO messages (call_id, name_pii, phone_pii, text_pii) VALUES ($1, $2, $3, $4) RETURNING id",
            *(_clean(text) for text in (call_id, name_pii, phone_pii, text_pii)),
        )
        return int(number)


class ToolRunRepository:
    """Runs of tools. Errors are ``StorageError``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def once(
        self,
        request: ToolRequest,
        arguments: Mapping[str, Any],
        effect: Effect,
        *,
        mask: Mask = lambda outcome: outcome,
        repeatable: bool = False,
    ) -> Outcome:
        """Do ``effect`` unless it was done under this key; either way its outcome.

        A second request that comes while the first is at work waits for it. When ``effect`` raises or is cancelled,
        nothing of it stays.

        Args:
            request: what is asked for.
            arguments: those the ledger keeps; what is private may be masked in them.
            effect: what is to be done.
            mask: the outcome as the ledger keeps it. Whoever asks again is given that one.
            repeatable: ``effect`` changes nothing, so it is done anew for who asks again where something was masked.

        Raises:
            ProtocolError: the request is of an owner of the call that was replaced.
        """
        key = _clean(request.idempotency_key)
        async with self._database.transaction() as connection:
            epoch = await connection.fetchval(_FENCE, _clean(request.call_id)) or 0
            if 0 < request.epoch < epoch:
                raise ProtocolError(f"epoch {request.epoch} of call {request.call_id} is over: it is in epoch {epoch}")
            taken = await connection.fetchval(
                _TAKE,
                key,
                _clean(request.call_id),
                request.turn,
                request.index,
                _clean(request.name),
                _clean_mapping(arguments),
            )
            if taken:
                outcome = await effect(Run(connection))
                kept = mask(outcome)
                value, say = _clean_mapping(kept.value), _clean(kept.say)
                await connection.execute(_KEEP, key, outcome.ok, outcome.code, value, say, kept != outcome)
                return outcome
            row = await connection.fetchrow(_FIND, key)
            if row is not None and row["masked"] and repeatable:
                return await effect(Run(connection))
        if row is None:
            raise StorageError("the run of a tool was taken back while another request waited for it")
        return _outcome(row)

    async def outcome(self, idempotency_key: str) -> Outcome | None:
        """What a run gave; None when it has not been done."""
        row = await self._database.fetch_one(_FIND, _clean(idempotency_key))
        return None if row is None else _outcome(row)

    async def of_call(self, call_id: str) -> list[dict[str, Any]]:
        """Runs of a call, in order."""
        return await self._database.fetch(
            "SELECT turn, position, name, arguments_pii, ok, code, value_pii, say_pii, masked, at FROM tool_runs "
            "WHERE call_id = $1 ORDER BY turn, position",
            _clean(call_id),
        )

    async def messages(self, call_id: str) -> list[dict[str, Any]]:
        """Messages a caller left, oldest first."""
        return await self._database.fetch(
            "SELECT id, name_pii, phone_pii, text_pii, left_at FROM messages WHERE call_id = $1 ORDER BY id",
            _clean(call_id),
        )


def _outcome(row: Mapping[str, Any]) -> Outcome:
    return Outcome(row["name"], row["ok"], row["value_pii"], row["say_pii"], row["code"])


def _plain(value: object) -> Any:
    """A column as JSON can carry it: numbers as numbers, everything else as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return float(value)
    return str(value)


def _clean(text: str) -> str:
    """Postgres text cannot hold NUL, nor UTF-8 lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def _clean_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    return {_clean(name): _clean(value) if isinstance(value, str) else value for name, value in values.items()}
