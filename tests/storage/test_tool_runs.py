"""The ledger of tool runs against a real Postgres: once, whoever asks, whatever dies."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from storage.calls import CallRepository
from storage.database import Database
from storage.tool_runs import Run, ToolRunRepository
from voice_agent.errors import ProtocolError, StorageError
from voice_agent.plan import Outcome
from voice_agent.tools import ToolRequest

pytestmark = pytest.mark.postgres


def request(index: int = 0, **arguments: object) -> ToolRequest:
    return ToolRequest("CA1", 2, index, "take_message", arguments, f"CA1/2/{index}", "")


@pytest.fixture
def runs(database: Database) -> ToolRunRepository:
    return ToolRunRepository(database)


class Leave:
    """An effect that leaves a message, then does what it is told to."""

    def __init__(self, then: Exception | None = None, hold: asyncio.Event | None = None) -> None:
        self.then, self.hold, self.count = then, hold, 0
        self.reached = asyncio.Event()

    async def __call__(self, run: Run) -> Outcome:
        self.count += 1
        number = await run.leave_message("CA1", "Ann", "+491", "Call me\x00 back")
        self.reached.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.then is not None:
            raise self.then
        return Outcome("take_message", True, {"message": number}, "Noted.")


async def test_a_second_request_gets_the_same_outcome_and_does_nothing(runs: ToolRunRepository) -> None:
    effect = Leave()
    first = await runs.once(request(), {"text": "Call me back"}, effect)
    assert await runs.once(request(), {"text": "Call me back"}, effect) == first
    assert await runs.outcome("CA1/2/0") == first
    assert effect.count == 1
    (message,) = await runs.messages("CA1")
    assert (message["name_pii"], message["text_pii"]) == ("Ann", "Call me back")
    (kept,) = await runs.of_call("CA1")
    assert (kept["name"], kept["ok"], kept["arguments_pii"]) == ("take_message", True, {"text": "Call me back"})


async def test_two_requests_at_once_have_one_effect(runs: ToolRunRepository) -> None:
    effects = [Leave(), Leave()]
    first, second = await asyncio.gather(*(runs.once(request(), {}, effect) for effect in effects))
    assert first == second
    assert sum(effect.count for effect in effects) == 1
    assert len(await runs.messages("CA1")) == 1


async def test_a_failure_between_effect_and_record_leaves_nothing(runs: ToolRunRepository) -> None:
    with pytest.raises(RuntimeError):
        await runs.once(request(), {}, Leave(RuntimeError("the process dies here")))
    assert await runs.messages("CA1") == []
    assert await runs.outcome("CA1/2/0") is None
    assert (await runs.once(request(), {}, Leave())).ok
    assert len(await runs.messages("CA1")) == 1


async def test_a_lost_connection_between_effect_and_record_leaves_nothing(
    runs: ToolRunRepository, database: Database
) -> None:
    effect = Leave(hold=asyncio.Event())
    task = asyncio.create_task(runs.once(request(), {}, effect))
    await effect.reached.wait()
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' "
        "AND datname = current_database()"
    )
    assert effect.hold is not None
    effect.hold.set()
    with pytest.raises(StorageError):
        await task
    assert await runs.messages("CA1") == []
    assert (await runs.once(request(), {}, Leave())).ok


async def test_a_request_that_is_cancelled_leaves_nothing(runs: ToolRunRepository) -> None:
    effect = Leave(hold=asyncio.Event())
    task = asyncio.create_task(runs.once(request(), {}, effect))
    await effect.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await runs.messages("CA1") == []
    assert await runs.outcome("CA1/2/0") is None


async def test_a_query_reads_and_cannot_write(runs: ToolRunRepository) -> None:
    async def look(run: Run) -> Outcome:
        rows = await run.read("SELECT item, total_usd, NULL AS nothing FROM orders WHERE order_number = $1", ("1001",))
        return Outcome("look_up_order", True, rows[0])

    found = await runs.once(request(0), {}, look)
    assert found.value == {"item": "city bike", "total_usd": 749.0, "nothing": None}

    async def write(run: Run) -> Outcome:
        await run.read("WITH gone AS (DELETE FROM orders RETURNING 1) SELECT count(*) FROM gone", ())
        return Outcome("look_up_order", True)

    with pytest.raises(StorageError, match="read-only"):
        await runs.once(request(1), {}, write)

    async def count(run: Run) -> Outcome:
        return Outcome("look_up_order", True, (await run.read("SELECT count(*) AS n FROM orders", ()))[0])

    assert (await runs.once(request(2), {}, count)).value == {"n": 20}


async def test_an_owner_of_the_call_that_was_replaced_runs_nothing(runs: ToolRunRepository, database: Database) -> None:
    await CallRepository(database).move_call("CA1", 3)
    effect = Leave()
    with pytest.raises(ProtocolError, match="epoch 2 of call CA1 is over"):
        await runs.once(replace(request(), epoch=2), {}, effect)
    assert effect.count == 0
    await runs.once(replace(request(), epoch=3), {}, effect)
    assert effect.count == 1
    assert len(await runs.messages("CA1")) == 1
