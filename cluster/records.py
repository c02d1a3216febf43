"""Calls that were taken: through the API of a running stack, else straight from Postgres."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from cluster import statefile
from cluster.api import Api
from configs.settings import Settings
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
    state = statefile.find(settings.data_dir.absolute())
    if state is not None:
        with Api(state) as api:
            found: list[dict[str, Any]] = api.get("/api/calls", limit=limit)["calls"]
            return found

    async def read() -> list[dict[str, Any]]:
        async with _repository(settings) as repository:
            return list((await repository.list_calls(limit=limit)).calls)

    return asyncio.run(read())


def call(settings: Settings, call_id: str) -> dict[str, Any]:
    """One call with its turns.

    Raises:
        NoCallError: there is none of this id.
        StorageError: Postgres is out of reach.
        ApiError: the running stack does not answer.
    """
    state = statefile.find(settings.data_dir.absolute())
    if state is not None:
        with Api(state) as api:
            found: dict[str, Any] = api.get(f"/api/calls/{call_id}")
            return found

    async def read() -> dict[str, Any] | None:
        async with _repository(settings) as repository:
            return await repository.get_call(call_id)

    stored = asyncio.run(read())
    if stored is None:
        raise NoCallError(f"there is no call {call_id}; `voice-agent calls list` shows those that are there")
    return stored


@contextlib.asynccontextmanager
async def _repository(settings: Settings) -> AsyncIterator[CallRepository]:
    with running_postgres(settings) as dsn:
        database = await Database.connect(dsn, 1)
        try:
            await database.migrate()
            yield CallRepository(database)
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
