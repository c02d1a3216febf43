"""A dead Postgres is started again, for as long as its stack wants it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.keeper import Keeper
from storage.embedded import EmbeddedPostgres
from voice_agent.errors import StorageError


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


class Flaky:
    """Dead, and refuses to start at first."""

    def __init__(self, refusals: int) -> None:
        self.pid: int | None = None
        self.refusals = refusals

    def start(self) -> str:
        if self.refusals:
            self.refusals -= 1
            raise StorageError("remains of the last one")
        self.pid = 1
        return "dsn"


def test_it_goes_on_trying() -> None:
    server = Flaky(refusals=2)
    keeper = Keeper(server, look_s=0.01)
    keeper.start()
    until(lambda: server.pid)
    keeper.stop()
    assert (keeper.restarts, server.refusals) == (1, 0)


@pytest.mark.postgres
def test_a_killed_server_is_back_at_the_same_address_until_it_is_given_up(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    dsn = server.start()
    keeper = Keeper(server, look_s=0.05)
    keeper.start()
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: keeper.restarts == 1)
    assert server.pid not in (None, first)
    assert server.start() == dsn
    keeper.stop()
    server.stop()
    assert server.pid is None
    time.sleep(0.2)
    assert server.pid is None
