"""The job that keeps nothing about people for longer than ``storage.keep_days``."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from storage import retention
from storage.database import Database
from voice_agent.errors import StorageError

logger = logging.getLogger(__name__)

EVERY_S: Final = 3600.0
FILES: Final = "call folders"
_DAY_S: Final = 86_400


def old_call_folders(runs_dir: Path, before_s: float) -> list[Path]:
    """Folders of calls, of any run, in which nothing was written since ``before_s`` (Unix time)."""
    return [folder for folder in sorted(runs_dir.glob("*/calls/*")) if folder.is_dir() and _newest_s(folder) < before_s]


def remove_call_folders(runs_dir: Path, before_s: float) -> int:
    """Delete them; how many went. Blocking. What cannot be deleted stays and is tried again the next time."""
    folders = old_call_folders(runs_dir, before_s)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return sum(not folder.exists() for folder in folders)


def _newest_s(folder: Path) -> float:
    return max((file.stat().st_mtime for file in (folder, *folder.iterdir())), default=0.0)


class Retention:
    """Deletes what is older than ``keep_days``, at once and then every hour."""

    def __init__(self, dsn: str, runs_dir: Path, keep_days: float, *, clock: Callable[[], float] = time.time) -> None:
        self._dsn = dsn
        self._runs_dir = runs_dir
        self._keep_s = keep_days * _DAY_S
        self._clock = clock

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                gone = await self.once()
                if any(gone.values()):
                    logger.info("old records deleted", extra={name.replace(" ", "_"): n for name, n in gone.items()})
            except (StorageError, OSError) as error:
                logger.warning("old records not deleted", extra={"reason": str(error)})
            await asyncio.sleep(EVERY_S)

    async def once(self) -> dict[str, int]:
        """Delete now; how much of each kind went.

        Raises:
            StorageError: Postgres failed.
            OSError: the runs folder cannot be read.
        """
        before_s = self._clock() - self._keep_s
        folders = await asyncio.to_thread(remove_call_folders, self._runs_dir, before_s)
        database = await Database.connect(self._dsn, 1)
        try:
            return await retention.purge(database, datetime.fromtimestamp(before_s, UTC)) | {FILES: folders}
        finally:
            await database.close()
