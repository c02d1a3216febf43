"""What is kept about people goes by its age, in Postgres and of the event logs."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from test_call_repository import ended, turn

from actors.journal.retention import FILES, Retention
from storage import retention
from storage.calls import CallRepository, CarrierEvent
from storage.database import Database
from storage.tool_runs import Run, ToolRunRepository
from voice_agent.plan import Outcome
from voice_agent.tools import ToolRequest

NOW_S = 1_700_000_000.0
OLD, NEW = "CA-old", "CA-new"


async def keep_one(database: Database, call_id: str, age_days: float) -> None:
    """A call with all that can be kept of it, so many days old."""
    at = datetime.fromtimestamp(NOW_S, UTC) - timedelta(days=age_days)
    calls = CallRepository(database)
    await calls.start_call(call_id, "+15550100", "+15550199", at.timestamp())
    await calls.save_turn(turn(call_id=call_id))
    await calls.end_call(ended(call_id))
    await calls.add_carrier_event(CarrierEvent(call_id, "k", "call", "completed"))

    async def leave(run: Run) -> Outcome:
        return Outcome("take_message", True, {"message": await run.leave_message(call_id, "Ann", "+491", "Hello")})

    await ToolRunRepository(database).once(ToolRequest(call_id, 1, 0, "take_message", {}, f"{call_id}/1/0"), {}, leave)
    for table, column in retention.AGE_OF.items():
        await database.execute(f"UPDATE {table} SET {column} = $1 WHERE call_id = $2", at, call_id)


@pytest.mark.postgres
async def test_everything_of_an_old_call_goes_and_nothing_of_a_new_one(
    database: Database, postgres_dsn: str, tmp_path: Path
) -> None:
    await keep_one(database, OLD, 31)
    await keep_one(database, NEW, 29)
    for call_id, age_days in ((OLD, 31), (NEW, 29)):
        folder = tmp_path / "run-1" / "calls" / call_id
        folder.mkdir(parents=True)
        (folder / "events.jsonl").write_text("{}\n")
        for path in (folder / "events.jsonl", folder):
            os.utime(path, (NOW_S - age_days * 86_400,) * 2)
    before = datetime.fromtimestamp(NOW_S, UTC) - timedelta(days=30)
    one_each = dict.fromkeys(retention.AGE_OF, 1)
    assert await retention.count_older(database, before) == one_each
    job = Retention(postgres_dsn, tmp_path, 30, clock=lambda: NOW_S)
    assert await job.once() == one_each | {FILES: 1}
    assert await job.once() == dict.fromkeys((*retention.AGE_OF, FILES), 0)
    for table in (*retention.AGE_OF, "turns", "tool_calls"):
        rows = await database.fetch(f"SELECT DISTINCT call_id FROM {table}")
        assert [row["call_id"] for row in rows] == [NEW], table
    assert sorted(os.listdir(tmp_path / "run-1" / "calls")) == [NEW]


@pytest.mark.postgres
async def test_every_table_about_people_has_an_age(database: Database) -> None:
    """A column that ends in _pii in a table that is not purged would be kept for ever."""
    rows = await database.fetch(
        "SELECT DISTINCT table_name FROM information_schema.columns "
        "WHERE table_schema = 'public' AND column_name LIKE '%\\_pii'"
    )
    with_their_call = {"turns"}
    assert {row["table_name"] for row in rows} - with_their_call <= set(retention.AGE_OF)
