"""Calls that were taken: through the API of a running stack, else straight from Postgres."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

from actors.journal.retention import FILES, old_call_folders, remove_call_folders
from cluster.api import of_running
from configs.settings import Settings
from storage import retention
from storage.calls import CallRepository
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from voice_agent.errors import StorageError


class NoCallError(StorageError):
    """There is no such call."""

    code = "no_call"
    retryable = False


def calls(settings: Settings, limit: int) -> list[dict[str, Any]]:
    """The newest calls.

    Raises:
        StorageError: Postgres is out of reach.
        ApiError: the running stack does not answer.
    """
    with of_running(settings) as api:
        if api is not None:
            found: list[dict[str, Any]] = api.get("/api/calls", limit=limit)["calls"]
            return found

    async def read() -> list[dict[str, Any]]:
        async with _database(settings) as database:
            return list((await CallRepository(database).list_calls(limit=limit)).calls)

    return asyncio.run(read())


def call(settings: Settings, call_id: str) -> dict[str, Any]:
    """One call with its turns.

    Raises:
        NoCallError: there is none of this id.
        StorageError: Postgres is out of reach.
        ApiError: the running stack does not answer.
    """
    with of_running(settings) as api:
        if api is not None:
            found: dict[str, Any] = api.get(f"/api/calls/{call_id}")
            return found

    async def read() -> dict[str, Any] | None:
        async with _database(settings) as database:
            return await CallRepository(database).get_call(call_id)

    stored = asyncio.run(read())
    if stored is None:
        raise NoCallError(f"there is no call {call_id}; `voice-agent calls list` shows those that are there")
    return stored


def purge(settings: Settings, before: datetime, *, dry_run: bool) -> dict[str, int]:
    """Delete what is older than ``before``, in Postgres and of the event logs; how much of each kind went, or would.

    A running stack uses the same Postgres and is not disturbed.

    Raises:
        StorageError: Postgres is out of reach.
    """

    async def change() -> dict[str, int]:
        async with _database(settings) as database:
            return await (retention.count_older if dry_run else retention.purge)(database, before)

    gone, runs_dir = asyncio.run(change()), settings.runs_dir.absolute()
    if dry_run:
        return gone | {FILES: len(old_call_folders(runs_dir, before.timestamp()))}
    return gone | {FILES: remove_call_folders(runs_dir, before.timestamp())}


@contextlib.asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    with running_postgres(settings) as dsn:
        database = await Database.connect(dsn, 1)
        try:
            await database.migrate()
            yield database
        finally:
            await database.close()


@contextlib.contextmanager
def running_postgres(settings: Settings) -> Iterator[str]:
    """The DSN of Postgres; the embedded server is started when it does not run, and stopped again."""
    if settings.storage.dsn:
        yield settings.storage.dsn
        return
    server = EmbeddedPostgres(settings.data_dir.absolute())
    try:
        yield server.start()
    finally:
        server.stop()
