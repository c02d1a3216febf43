from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from storage.database import Database, load_migrations
from voice_agent.errors import StorageError

pytestmark = pytest.mark.postgres


def write(folder: Path, **files: str) -> Path:
    for name, sql in files.items():
        (folder / f"{name}.sql").write_text(sql)
    return folder


async def test_migrations_run_once_and_in_order(empty_database: Database) -> None:
    names = [migration.name for migration in load_migrations()]
    assert await empty_database.migrate() == names
    assert await empty_database.migrate() == []


async def test_many_processes_may_migrate_at_once(postgres_dsn: str, empty_database: Database) -> None:
    others = [await Database.connect(postgres_dsn, 1) for _ in range(3)]
    try:
        ran = await asyncio.gather(*(other.migrate() for other in others))
    finally:
        await asyncio.gather(*(other.close() for other in others))
    assert sorted(map(len, ran)) == [0, 0, len(load_migrations())]


async def test_a_failing_migration_leaves_nothing_behind(empty_database: Database, tmp_path: Path) -> None:
    write(tmp_path, **{"0001_good": "CREATE TABLE a (x int)", "0002_bad": "CREATE TABLE b (x int); SELECT nonsense"})
    with pytest.raises(StorageError, match="0002_bad"):
        await empty_database.migrate(tmp_path)
    assert await empty_database.fetch_one("SELECT to_regclass('a')::text AS a, to_regclass('b')::text AS b") == {
        "a": "a",
        "b": None,
    }
    write(tmp_path, **{"0002_bad": "CREATE TABLE b (x int)"})
    assert await empty_database.migrate(tmp_path) == ["0002_bad"]


async def test_an_edited_migration_is_refused(empty_database: Database, tmp_path: Path) -> None:
    await empty_database.migrate(write(tmp_path, **{"0001_a": "CREATE TABLE a (x int)"}))
    write(tmp_path, **{"0001_a": "CREATE TABLE a (x bigint)"})
    with pytest.raises(StorageError, match="edited"):
        await empty_database.migrate(tmp_path)


async def test_a_database_newer_than_the_program_is_refused(empty_database: Database, tmp_path: Path) -> None:
    await empty_database.migrate(write(tmp_path, **{"0001_a": "SELECT 1", "0002_b": "SELECT 1"}))
    (tmp_path / "0002_b.sql").unlink()
    with pytest.raises(StorageError, match="update the program"):
        await empty_database.migrate(tmp_path)


@pytest.mark.parametrize("names", [["0002_b"], ["0001_a", "0003_c"], ["0001_a", "0001_b"], ["1_a"], ["0001-a"]])
def test_wrong_numbers_or_names_are_told(tmp_path: Path, names: list[str]) -> None:
    write(tmp_path, **dict.fromkeys(names, "SELECT 1"))
    with pytest.raises(StorageError, match=r"number|name"):
        load_migrations(tmp_path)


@pytest.mark.parametrize(
    "dsn", ["postgresql://u:hunter2@127.0.0.1:1/x", "postgresql://u:hunter2@nowhere.invalid/x", "not a dsn"]
)
async def test_a_server_out_of_reach_is_a_storage_error_without_the_password(dsn: str) -> None:
    with pytest.raises(StorageError, match=r"storage\.dsn") as caught:
        await Database.connect(dsn, timeout_s=3.0)
    assert "hunter2" not in str(caught.value)
    assert caught.value.retryable


async def test_a_statement_that_fails_is_a_storage_error(empty_database: Database) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        await empty_database.fetch("SELECT * FROM nowhere")
    await empty_database.ping()
