"""Knowledge-base documents and versions in Postgres, and a blocking face for code without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from storage.database import Database
from voice_agent.errors import StorageError

T = TypeVar("T")

_COLUMNS = "source, title, content_hash, chunks, size_bytes, version, ingested_at"


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it is kept. ``version`` counts the contents its source has had, from 1, also across a removal."""

    source: str
    title: str
    content_hash: str
    chunks: int
    size_bytes: int
    version: int
    ingested_at: datetime


class DocumentRepository:
    """Reads and writes documents. Errors are ``StorageError``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def documents(self) -> list[StoredDocument]:
        """Every document, by source."""
        rows = await self._database.fetch(f"SELECT {_COLUMNS} FROM documents ORDER BY source")
        return [StoredDocument(**row) for row in rows]

    async def put(self, source: str, title: str, content_hash: str, *, chunks: int, size_bytes: int) -> int:
        """Add a document, or new content of one, and return its version. The same content again keeps its version."""
        async with self._database.transaction() as connection:
            # One writer a document at a time: two processes must not give out one version twice.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", source)
            same = await connection.fetchval(
                "SELECT version FROM documents WHERE source = $1 AND content_hash = $2", source, content_hash
            )
            version = same or 1 + await connection.fetchval(
                "SELECT COALESCE(max(version), 0) FROM document_versions WHERE source = $1", source
            )
            await connection.execute(
                f"INSERT INTO documents ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, now()) "
                "ON CONFLICT (source) DO UPDATE SET title = EXCLUDED.title, content_hash = EXCLUDED.content_hash, "
                "chunks = EXCLUDED.chunks, size_bytes = EXCLUDED.size_bytes, version = EXCLUDED.version, "
                "ingested_at = EXCLUDED.ingested_at",
                *(source, title, content_hash, chunks, size_bytes, version),
            )
            await connection.execute(
                "INSERT INTO document_versions (source, version, content_hash, chunks, size_bytes) "
                "VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                *(source, version, content_hash, chunks, size_bytes),
            )
        return int(version)

    async def remove(self, source: str) -> bool:
        """Forget a document; its versions stay on record. False when it is not there."""
        async with self._database.transaction() as connection:
            version = await connection.fetchval("DELETE FROM documents WHERE source = $1 RETURNING version", source)
            await connection.execute(
                "UPDATE document_versions SET removed_at = now() WHERE source = $1 AND version = $2", source, version
            )
        return version is not None

    async def versions(self, source: str) -> list[dict[str, Any]]:
        """Every content a source has had, oldest first."""
        return await self._database.fetch(
            "SELECT version, content_hash, chunks, size_bytes, ingested_at, removed_at FROM document_versions "
            "WHERE source = $1 ORDER BY version",
            source,
        )

    async def record_version(self, kb_version: str, *, documents: int, chunks: int) -> None:
        """Note that the knowledge base as a whole is now at ``kb_version``."""
        await self._database.execute(
            "INSERT INTO kb_versions (kb_version, documents, chunks) VALUES ($1, $2, $3)", kb_version, documents, chunks
        )

    async def kb_versions(self, limit: int = 20) -> list[dict[str, Any]]:
        """Versions of the whole, newest first."""
        return await self._database.fetch(
            "SELECT kb_version, documents, chunks, at FROM kb_versions ORDER BY id DESC LIMIT $1", limit
        )


class BlockingDocuments:
    """``DocumentRepository`` for code that blocks: an event loop of its own on a thread of its own. Thread-safe.

    Connects at once and brings the schema up to date.

    Raises:
        StorageError: Postgres is out of reach; also from ``run``.
    """

    def __init__(self, dsn: str, *, timeout_s: float = 30.0) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="documents", daemon=True)
        self._thread.start()
        self._database: Database | None = None
        try:
            self._database = self._wait(Database.connect(dsn, 2))
            self._wait(self._database.migrate())
        except StorageError:
            self.close()
            raise

    def run(self, work: Callable[[DocumentRepository], Coroutine[Any, Any, T]]) -> T:
        """Do ``work`` with the repository and wait for its result."""
        if self._database is None:
            raise StorageError("the document store is closed")
        return self._wait(work(DocumentRepository(self._database)))

    def close(self) -> None:
        """Close the connections and end the thread. Idempotent."""
        if self._loop.is_closed():
            return
        if self._database is not None:
            self._wait(self._database.close())
            self._database = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(self._timeout_s)
        except TimeoutError as error:
            future.cancel()
            raise StorageError(f"Postgres did not answer within {self._timeout_s:g} s") from error
