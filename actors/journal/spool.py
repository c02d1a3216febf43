"""Records on disk while Postgres is away: JSON lines, in order, of bounded size, kept over a restart."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from actors.journal.record_codec import StoredRecord, from_plain, to_plain
from voice_agent.errors import ProtocolError

logger = logging.getLogger(__name__)


class Spool:
    """A queue in a file. Writing a record again after a crash is harmless: the store takes each any number of times."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._read_to = 0
        self._size = path.stat().st_size if path.exists() else 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes not read yet."""
        return self._size - self._read_to

    def put(self, record: StoredRecord) -> bool:
        """Append a record; False when the spool is full (the newest is dropped, so that what is kept has no holes).

        Raises:
            OSError: the disk does not take it.
        """
        line = json.dumps(to_plain(record), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if self._size + len(line) > self._max_bytes:
            return False
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The records hold what people said: readable by this user only.
        with open(self._path, "ab", opener=_private) as file:
            file.write(line)
        self._size += len(line)
        return True

    def head(self) -> StoredRecord | None:
        """The oldest record, None when there is none. Lines that are no records are skipped and said so.

        Raises:
            OSError: the file cannot be read.
        """
        while self.waiting_bytes > 0:
            with self._path.open("rb") as file:
                file.seek(self._read_to)
                line = file.readline()
            try:
                if not line.endswith(b"\n"):
                    raise ProtocolError("the line was not written to its end")
                return from_plain(json.loads(line))
            except (ProtocolError, ValueError) as error:
                logger.error("spooled line skipped", extra={"reason": type(error).__name__, "bytes": len(line)})
                self._advance(max(len(line), 1))
        return None

    def pop(self) -> None:
        """The oldest record is in the store."""
        with self._path.open("rb") as file:
            file.seek(self._read_to)
            self._advance(len(file.readline()))

    def _advance(self, count: int) -> None:
        self._read_to += count
        if self._read_to >= self._size:
            self._path.unlink(missing_ok=True)
            self._read_to = self._size = 0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)
