"""Connections to Postgres and ordered schema migrations. Every failure leaves here as a ``StorageError``."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from voice_agent.errors import RecordRefusedError, StorageError

MIGRATIONS = Path(__file__).parent / "migrations"

_log = logging.getLogger(__name__)

_MIGRATION_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_MIGRATION_LOCK = 0x766F6963  # "voic": any constant that other users of the server do not take
_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. ``checksum`` (SHA-256 of the text) guards against edits after it ran somewhere."""

    version: int
    name: str
    sql: str
    checksum: str


class Database:
    """A pool of connections to one Postgres database. Belongs to the event loop that made it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @classmethod
    async def connect(cls, dsn: str, pool_size: int = 4, *, timeout_s: float = 10.0) -> Database:
        """Open a pool of up to ``pool_size`` connections.

        Raises:
            StorageError: the server is out of reach or refuses us. The message never holds the password.
        """
        try:
            pool = await asyncpg.create_pool(
                dsn,
                min_size=1,
                max_size=pool_size,
                timeout=timeout_s,
                command_timeout=timeout_s,
                init=_prepare_connection,
                server_settings={"application_name": "voice-agent"},
            )
        except (*_FAILURES, ValueError) as error:
            raise StorageError(f"cannot connect to Postgres: {_reason(error)}; check storage.dsn") from error
        return cls(pool)

    async def close(self) -> None:
        """Close all connections; those in use get a few seconds. Idempotent."""
        try:
            await asyncio.wait_for(self._pool.close(), 5.0)
        except TimeoutError:
            self._pool.terminate()

    async def migrate(self, folder: Path = MIGRATIONS) -> list[str]:
        """Bring the schema up to date and return the names of the migrations that ran.

        Safe to call from many processes at once: an advisory lock lets one work while the others wait.

        Raises:
            StorageError: a migration failed (it left nothing behind), was edited after it ran, or the database is newer
                than this program.
        """
        wanted = load_migrations(folder)
        async with self.connection() as connection:
            await connection.execute("SELECT pg_advisory_lock($1)", _MIGRATION_LOCK)
            try:
                return await _apply(connection, wanted)
            finally:
                await connection.execute("SELECT pg_advisory_unlock($1)", _MIGRATION_LOCK)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection from the pool; Postgres errors inside the block become ``StorageError``."""
        with _storage_errors():
            async with self._pool.acquire() as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """A connection inside a transaction: committed at the end of the block, rolled back on an error."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def fetch(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        """All rows."""
        async with self.connection() as connection:
            return [dict(row) for row in await connection.fetch(sql, *arguments)]

    async def fetch_one(self, sql: str, *arguments: object) -> dict[str, Any] | None:
        """The first row, or None."""
        async with self.connection() as connection:
            row = await connection.fetchrow(sql, *arguments)
        return None if row is None else dict(row)

    async def execute(self, sql: str, *arguments: object) -> str:
        """Run a statement and return its tag, e.g. ``"DELETE 3"``."""
        async with self.connection() as connection:
            return str(await connection.execute(sql, *arguments))

    async def execute_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run a statement once a row, all or nothing."""
        async with self.connection() as connection:
            await connection.executemany(sql, rows)

    async def ping(self) -> None:
        """Ask the server for a sign of life.

        Raises:
            StorageError: there is none.
        """
        await self.fetch_one("SELECT 1 AS alive")


def load_migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """Read ``NNNN_name.sql`` files in order.

    Raises:
        StorageError: a name does not fit, or the numbers have a gap or a double.
    """
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _MIGRATION_NAME.fullmatch(path.name)
        if match is None:
            raise StorageError(f"migration {path.name}: the name must look like 0001_calls.sql")
        sql = path.read_text(encoding="utf-8")
        found.append(Migration(int(match[1]), path.stem, sql, hashlib.sha256(sql.encode()).hexdigest()))
    numbers = [migration.version for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise StorageError(f"migrations in {folder} must be numbered 1, 2, 3 ... without gap or double, not {numbers}")
    return found


async def _apply(connection: Any, wanted: list[Migration]) -> list[str]:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version integer PRIMARY KEY, name text NOT NULL, "
        "checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    rows = await connection.fetch("SELECT version, name, checksum FROM schema_migrations ORDER BY version")
    applied = {row["version"]: row for row in rows}
    known = {migration.version for migration in wanted}
    if unknown := sorted(set(applied) - known):
        raise StorageError(f"the database has migrations this program does not know ({unknown}): update the program")
    ran: list[str] = []
    for migration in wanted:
        before = applied.get(migration.version)
        if before is None:
            await _run_migration(connection, migration)
            ran.append(migration.name)
        elif before["checksum"] != migration.checksum:
            raise StorageError(f"migration {migration.name} was edited after it ran here; add a new one instead")
    return ran


async def _run_migration(connection: Any, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
                migration.version,
                migration.name,
                migration.checksum,
            )
    except asyncpg.PostgresError as error:
        raise StorageError(f"migration {migration.name} failed: {_reason(error)}") from error
    _log.info("schema migration applied", extra={"migration": migration.name})


async def _prepare_connection(connection: Any) -> None:
    await connection.set_type_codec("jsonb", encoder=_dump_json, decoder=json.loads, schema="pg_catalog", format="text")


def _dump_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _storage_errors:  # noqa: N801 - used like a function
    """Context manager: what asyncpg raises becomes a ``StorageError``, told apart by whether a retry can help."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, asyncpg.DataError | asyncpg.IntegrityConstraintViolationError):
            raise RecordRefusedError(f"Postgres refuses the record: {_reason(error)}") from error
        if isinstance(error, _FAILURES):
            raise StorageError(f"Postgres failed: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Words for the user. A Postgres error is told by class and state: its text may quote what a caller said."""
    if isinstance(error, asyncpg.DataError | asyncpg.IntegrityConstraintViolationError):
        return f"{type(error).__name__} {getattr(error, 'sqlstate', '') or ''}".strip()
    if isinstance(error, asyncpg.PostgresError):
        text = getattr(error, "message", None) or type(error).__name__
        return f"{text} ({getattr(error, 'sqlstate', None) or 'no state'})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
