"""The document ledger in Postgres."""

from __future__ import annotations

from kb.ledger import DocumentEntry
from storage.documents import BlockingDocuments


class PostgresLedger:
    """A :class:`~kb.ledger.DocumentLedger` over ``storage``; the connection belongs to the caller. Thread-safe."""

    def __init__(self, documents: BlockingDocuments) -> None:
        self._documents = documents

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
                entry.source, entry.title, entry.content_hash, chunks=entry.chunks, size_bytes=entry.size_bytes
            )
        )

    def remove(self, source: str) -> None:
        """Forget a document; its versions stay on record."""
        self._documents.run(lambda repository: repository.remove(source))

    def record_version(self, kb_version: str, *, documents: int, chunks: int) -> None:
        """Note a version of the whole."""
        self._documents.run(
            lambda repository: repository.record_version(kb_version, documents=documents, chunks=chunks)
        )
