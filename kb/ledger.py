"""Which documents the knowledge base holds, and at which version: the contract, and a ledger in a JSON file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from voice_agent.errors import StorageError


@dataclass(frozen=True, slots=True)
class DocumentEntry:
    """A document in the knowledge base.

    Attributes:
        source: its name, also the ``source`` of its passages.
        title: its first heading.
        content_hash: of its bytes and of everything that decides what is made of them.
        chunks: how many it was cut into.
        size_bytes: of the file.
        version: counts the contents this source has had, from 1; set by the ledger.
        ingested_at: ISO 8601, UTC; set by the ledger.
    """

    source: str
    title: str
    content_hash: str
    chunks: int
    size_bytes: int
    version: int = 0
    ingested_at: str = ""


class DocumentLedger(Protocol):
    """Where documents and versions are kept. Blocking calls that raise StorageError."""

    def entries(self) -> dict[str, DocumentEntry]:
        """Documents by source."""

    def put(self, entry: DocumentEntry) -> None:
        """Add a document, or the next version of one."""

    def remove(self, source: str) -> None:
        """Forget a document; nothing happens when it is not there."""

    def record_version(self, kb_version: str, *, documents: int, chunks: int) -> None:
        """Note that the knowledge base as a whole is now at ``kb_version``."""

    def close(self) -> None:
        """Let go of what is behind it. Idempotent."""


class MemoryLedger:
    """A ledger that lives as long as the object."""

    def __init__(self) -> None:
        self._entries: dict[str, DocumentEntry] = {}
        self._versions: list[dict[str, Any]] = []

    def entries(self) -> dict[str, DocumentEntry]:
        """Documents by source."""
        return dict(sorted(self._entries.items()))

    def put(self, entry: DocumentEntry) -> None:
        """Add a document, or the next version of one."""
        before = self._entries.get(entry.source)
        version = before.version + 1 if before else 1
        self._entries[entry.source] = replace(entry, version=version, ingested_at=_now())
        self._save()

    def remove(self, source: str) -> None:
        """Forget a document."""
        if self._entries.pop(source, None) is not None:
            self._save()

    def record_version(self, kb_version: str, *, documents: int, chunks: int) -> None:
        """Note a version of the whole."""
        self._versions.append({"kb_version": kb_version, "documents": documents, "chunks": chunks, "at": _now()})
        self._save()

    def close(self) -> None:
        """Nothing is held open."""

    def _save(self) -> None:
        """Keep the change; in memory there is nothing to do."""


class FileLedger(MemoryLedger):
    """A ledger in one JSON file, for use without Postgres. One process at a time.

    Raises:
        StorageError: the file is not a ledger, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        if path.exists():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
                self._entries = {item["source"]: DocumentEntry(**item) for item in stored["documents"]}
                self._versions = list(stored["versions"])
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise StorageError(f"{path} is not a document ledger: {error}") from error

    def _save(self) -> None:
        documents = [asdict(entry) for entry in self.entries().values()]
        write_atomically(self._path, json.dumps({"documents": documents, "versions": self._versions}, indent=1))


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new content, never a part.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def dump(entries: Mapping[str, DocumentEntry]) -> list[dict[str, Any]]:
    """Entries as plain dictionaries, by source."""
    return [asdict(entry) for _, entry in sorted(entries.items())]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
