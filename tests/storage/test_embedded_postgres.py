from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from storage import embedded
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.system_user import ServerUser, grant_search, make_reachable
from voice_agent.errors import StorageError

pytestmark = pytest.mark.postgres

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Private to its owner, like a temporary clone or a home directory."""
    path = Path(tempfile.mkdtemp(prefix="va-pg-"))
    yield path
    EmbeddedPostgres(path).stop()
    shutil.rmtree(path, ignore_errors=True)


def servers(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in argument for argument in process.info["cmdline"] or []):
            found.append(process)
    return [process for process in found if process.pid != os.getpid() and process.name().startswith("postgres")]


def kill(processes: list[psutil.Process]) -> None:
    """Kill, and wait until they are gone; a zombie of ours is gone enough."""
    for process in processes:
        process.kill()
    while any(alive(process) for process in processes):
        time.sleep(0.01)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ask(dsn: str, sql: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(run())


def test_start_and_stop_are_idempotent_and_leave_no_process(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    server.stop()
    dsn = server.start()
    assert server.start() == dsn
    ask(dsn, "CREATE TABLE kept AS SELECT 7 AS x")
    server.stop()
    server.stop()
    assert servers(folder) == []
    assert server.pid is None
    assert ask(server.start(), "SELECT x FROM kept") == 7
    server.stop()
    assert servers(folder) == []


def test_the_last_user_stops_it_not_the_first(folder: Path) -> None:
    first, second = EmbeddedPostgres(folder), EmbeddedPostgres(folder)
    dsn = first.start()
    assert second.start() == dsn
    first.stop()
    assert ask(dsn, "SELECT 1") == 1
    second.stop()
    assert servers(folder) == []


def test_a_killed_user_does_not_keep_it_alive_and_nothing_committed_is_lost(folder: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from storage.embedded import EmbeddedPostgres;"
        "print(EmbeddedPostgres(Path(sys.argv[1])).start(), flush=True); time.sleep(100)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert other.stdout is not None
    dsn = other.stdout.readline().strip()
    ask(dsn, "CREATE TABLE kept AS SELECT 7 AS x")
    other.send_signal(signal.SIGKILL)
    other.wait()
    server = EmbeddedPostgres(folder)
    assert ask(server.start(), "SELECT x FROM kept") == 7
    server.stop()
    assert servers(folder) == []


def test_a_killed_server_comes_back_with_its_data(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    ask(server.start(), "CREATE TABLE kept AS SELECT 7 AS x")
    kill(servers(folder))
    assert ask(server.start(), "SELECT x FROM kept") == 7
    server.stop()
    assert servers(folder) == []


def test_the_file_of_a_dead_server_makes_no_new_one_ready(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedPostgres(folder)
    server.start()
    data = folder.resolve() / "postgres" / "data"
    living = embedded._postmaster(data)
    assert embedded._is_ready(data)
    nobody = str(2**31 - 1)
    reads = iter([[nobody, *living[1:]], living])  # a new server begins its file between the two
    monkeypatch.setattr(embedded, "_postmaster", lambda _: next(reads))
    assert not embedded._is_ready(data)
    monkeypatch.undo()


def test_a_server_whose_head_was_killed_comes_back_while_its_children_go(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    server.start()
    assert server.pid is not None
    kill([psutil.Process(server.pid)])
    assert ask(server.start(), "SELECT 1") == 1
    server.stop()
    assert servers(folder) == []


def test_a_pool_finds_its_way_back_after_the_server_died(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    dsn = server.start()

    async def run() -> None:
        database = await Database.connect(dsn, 2)
        await database.ping()
        kill(servers(folder))
        with pytest.raises(StorageError):
            await database.ping()
        await asyncio.to_thread(server.start)
        await database.ping()
        await database.close()

    asyncio.run(run())
    server.stop()
    assert servers(folder) == []


def test_a_half_made_folder_is_made_again(folder: Path) -> None:
    (folder / "postgres" / "data").mkdir(parents=True)
    (folder / "postgres" / "data" / "base").mkdir()
    server = EmbeddedPostgres(folder)
    assert ask(server.start(), "SELECT 1") == 1
    server.stop()


def test_data_of_another_version_is_left_alone(folder: Path) -> None:
    data = folder / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("12\n")
    with pytest.raises(StorageError, match="Postgres 12"):
        EmbeddedPostgres(folder).start()
    assert (data / "PG_VERSION").read_text() == "12\n"


def test_a_server_that_cannot_start_says_why(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    server.start()
    server.stop()
    (folder / "postgres" / "data" / "postgresql.conf").write_text("no_such_option = 1\n")
    with pytest.raises(StorageError, match="no_such_option"):
        server.start()
    assert servers(folder) == []


def test_a_path_too_long_for_a_socket_works(folder: Path) -> None:
    deep = folder / ("d" * 60) / ("e" * 60)
    server = EmbeddedPostgres(deep)
    assert ask(server.start(), "SELECT 1") == 1
    server.stop()
    assert servers(folder) == []


def test_a_data_dir_that_is_a_file_is_told(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(StorageError, match="data_dir"):
        EmbeddedPostgres(folder / "file").start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user")
def test_a_private_folder_opens_to_the_server_user_only(folder: Path) -> None:
    private = folder / "private"
    private.mkdir(mode=0o700)
    server = EmbeddedPostgres(private)
    assert ask(server.start(), "SELECT 1") == 1
    assert server.pid is not None
    assert psutil.Process(server.pid).username() != "root"
    server.stop()
    assert not private.stat().st_mode & stat.S_IRWXO
    stranger = subprocess.run(["ls", str(private)], user=65534, group=65534, extra_groups=[], capture_output=True)
    assert stranger.returncode != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user")
def test_a_folder_that_cannot_be_opened_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(StorageError, match=rf"may not enter {folder}.*chmod o\+x"):
        make_reachable(folder / "data", ServerUser("nobody", 65534, 65534))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user")
def test_granting_twice_changes_nothing_more(folder: Path) -> None:
    grant_search(folder, 65534)
    before = os.getxattr(folder, "system.posix_acl_access")
    grant_search(folder, 65534)
    assert os.getxattr(folder, "system.posix_acl_access") == before
