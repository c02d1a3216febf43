"""kill -9 while a tool is at work, in a whole stack: the effect happens once, and its result is found again.

The tool leaves a message. The test holds the table of messages, so that the effect waits inside its transaction, kills
a process, lets go, and looks at what became of the message, of the ledger and of the call.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest
from stack_kit import Line, launched, line_to

from loadtest.script import AgentSilent, AwaitHangUp, Press
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.tool_runs import ToolRunRepository

pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.timeout(900)]

FLOW = """
flow: message
start: sure
states:
  sure: {say: Press one to leave a message., ask: sure, type: yes_no, next: keep, on_fail: lost}
  keep: {tool: keep_it, with: {text: "Call me back."}, next: kept, on_error: lost}
  kept: {say: "Your message is number {keep_it.message}.", hang_up: goodbye}
  lost: {say: I could not keep it., hang_up: no_message}
"""
TOOLS = {"keep_it": {"kind": "message", "timeout_ms": 25_000, "parameters": {"text": {}}}}


class Holder:
    """Holds the table of messages in a thread of its own, does what it is told while a tool waits, and lets go."""

    def __init__(self, dsn: str, meanwhile: Callable[[], None]) -> None:
        self._dsn = dsn
        self._meanwhile = meanwhile
        self._held = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> None:
        self._thread.start()
        assert self._held.wait(20)

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)

    async def _run(self) -> None:
        connection = await asyncpg.connect(self._dsn)
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
                self._held.set()
                waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'messages'::regclass"
                for _ in range(400):
                    if await connection.fetchval(waits):
                        break
                    await asyncio.sleep(0.1)
                self._meanwhile()
                await asyncio.sleep(1.0)
        finally:
            await connection.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Line, str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("tools")
    (folder / "flow.yaml").write_text(FLOW)
    more = {
        "dialog__flow": folder / "flow.yaml",
        "tools__inline": json.dumps(TOOLS),
        "calls__spare_actors": 1,
    }
    with launched(folder, **more) as up:
        ready = up.ready()
        server = EmbeddedPostgres(up.data_dir)
        dsn = server.start()
        with line_to(up) as line:
            yield line, dsn, ready["pids"]
        server.stop()
        up.let_go()


async def _left(dsn: str, call_id: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    database = await Database.connect(dsn, 1)
    try:
        runs = ToolRunRepository(database)
        return await runs.messages(call_id), await runs.of_call(call_id)
    finally:
        await database.close()


@pytest.mark.parametrize("kind", ["tools", "call_host"])
def test_the_effect_happens_once_whoever_is_killed(stack: tuple[Line, str, dict[str, Any]], kind: str) -> None:
    line, dsn, pids = stack
    killed: list[int] = []

    def kill() -> None:
        for pid in pids["tools"] if kind == "tools" else _hosts(line):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    with Holder(dsn, kill):
        outcome = line.place(f"killed-{kind}", Press("1", AgentSilent(600)), AwaitHangUp(40_000))
    assert killed
    call = line.ended(outcome.call_sid)
    messages, runs = asyncio.run(_left(dsn, outcome.call_sid))
    assert [message["text_pii"] for message in messages] == ["Call me back."]
    assert [(run["name"], run["ok"], run["value_pii"]) for run in runs] == [
        ("keep_it", True, {"message": messages[0]["id"]})
    ]
    assert call["end_reason"] == "goodbye"
    assert f"number {messages[0]['id']}" in call["turn_records"][-1]["agent_text_pii"]
    assert (outcome.ended_by, outcome.streams) == ("agent", 1)


def _hosts(line: Line) -> list[int]:
    """The actor that has the call."""
    hosts = line.api.get("/api/status")["dispatcher"]["hosts"]
    return [host["pid"] for host in hosts.values() if host["calls"]]
