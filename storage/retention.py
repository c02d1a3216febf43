"""How long anything about people is kept in Postgres, and what goes when."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from storage.database import Database

AGE_OF: Final = {
    "calls": "started_at",
    "tool_runs": "at",
    "messages": "left_at",
    "carrier_events": "received_at",
}
"""Tables about people, and the column that says how old a row is. Turns go with their call."""


async def count_older(database: Database, before: datetime) -> dict[str, int]:
    """Rows of each table that are older than ``before``.

    Raises:
        StorageError: Postgres failed.
    """
    found: dict[str, int] = {}
    for table, column in AGE_OF.items():
        row = await database.fetch_one(f"SELECT count(*) AS rows FROM {table} WHERE {column} < $1", before)
        found[table] = row["rows"] if row else 0
    return found


async def purge(database: Database, before: datetime) -> dict[str, int]:
    """Delete what is older than ``before``; how many rows of each table went. All of it, or nothing.

    Raises:
        StorageError: Postgres failed.
    """
    gone: dict[str, int] = {}
    async with database.transaction() as connection:
        for table, column in AGE_OF.items():
            tag = await connection.execute(f"DELETE FROM {table} WHERE {column} < $1", before)
            gone[table] = int(tag.split()[-1])
    return gone
