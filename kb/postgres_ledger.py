"""The document ledger in Postgres."""

from __future__ import annotations

from kb.ledger import DocumentEntry
from storage.documents import BlockingDocuments


class PostgresLedger:
    """``DocumentLedger`` over ``storage.documents``. Blocking and thread-safe.

    Raises:
        StorageError: Postgres is out of reach; also from every method.
    """

    def __init__(self, dsn: str) -> None:
        self._documents = BlockingDocuments(dsn)

    def entries(self) -> dict[str, DocumentEntry]:
        """Documents by source."""
        stored = self._documents.run(lambda repository: repository.documents())
        return {
            item.source: DocumentEntry(
                source=item.source,
                title=item.title,
                content_hash=item.content_hash,
                chunks=item.chunks,
                size_bytes=item.size_bytes,
                version=item.version,
                ingested_at=item.ingested_at.isoformat(timespec="seconds"),
            )
            for item in stored
        }

    def put(self, entry: DocumentEntry) -> None:
        """Add a document, or the next version of one."""
        self._documents.run(
            lambda repository: repository.put(
                entry.source,
                entry.title,
                entry.content_hash,
                chunks=entry.chunks,
                size_bytes=entry.size_bytes,
            )
        )

    def remove(self, source: str) -> None:
        """Forget a document; nothing happens when it is not there."""
        self._documents.run(lambda repository: repository.remove(source))

    def record_version(self, kb_version: str, *, documents: int, chunks: int) -> None:
        """Note that the knowledge base as a whole is now at ``kb_version``."""
        self._documents.run(
            lambda repository: repository.record_version(kb_version, documents=documents, chunks=chunks)
        )

    def close(self) -> None:
        """Let go of Postgres. Idempotent."""
        self._documents.close()
