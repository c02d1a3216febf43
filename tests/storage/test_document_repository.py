from __future__ import annotations

import asyncio
import threading

import pytest

from kb.ledger import DocumentEntry, DocumentLedger
from kb.postgres_ledger import PostgresLedger
from storage.database import Database
from storage.documents import DocumentRepository
from voice_agent.errors import StorageError

pytestmark = pytest.mark.postgres


def entry(source: str = "a.md", content_hash: str = "h1") -> DocumentEntry:
    return DocumentEntry(source, "Title", content_hash, 3, 99)


async def test_each_content_of_a_document_is_a_version(database: Database) -> None:
    documents = DocumentRepository(database)
    assert await documents.put("a.md", "A", "h1", chunks=1, size_bytes=10) == 1
    assert await documents.put("a.md", "A", "h1", chunks=1, size_bytes=10) == 1
    assert await documents.put("a.md", "A two", "h2", chunks=2, size_bytes=20) == 2
    (kept,) = await documents.documents()
    assert (kept.title, kept.content_hash, kept.chunks, kept.version) == ("A two", "h2", 2, 2)


async def test_a_version_number_never_means_two_contents(database: Database) -> None:
    documents = DocumentRepository(database)
    await documents.put("a.md", "A", "h1", chunks=1, size_bytes=10)
    assert await documents.remove("a.md")
    assert not await documents.remove("a.md")
    assert await documents.documents() == []
    assert await documents.put("a.md", "A", "h2", chunks=1, size_bytes=10) == 2
    first, second = await documents.versions("a.md")
    assert first["removed_at"] is not None
    assert second["removed_at"] is None


async def test_writers_at_once_do_not_share_a_version(database: Database) -> None:
    documents = DocumentRepository(database)
    versions = await asyncio.gather(
        *(documents.put("a.md", "A", f"h{number}", chunks=1, size_bytes=1) for number in range(6))
    )
    assert sorted(versions) == [1, 2, 3, 4, 5, 6]


async def test_versions_of_the_whole_are_listed_newest_first(database: Database) -> None:
    documents = DocumentRepository(database)
    for name in ("v1", "v2", "v1"):
        await documents.record_version(name, documents=1, chunks=2)
    assert [version["kb_version"] for version in await documents.kb_versions(2)] == ["v1", "v2"]


async def test_the_ledger_works_without_an_event_loop(postgres_dsn: str, empty_database: Database) -> None:
    def work() -> tuple[dict[str, DocumentEntry], dict[str, DocumentEntry]]:
        opened = PostgresLedger(postgres_dsn)
        try:
            ledger: DocumentLedger = opened
            ledger.put(entry())
            ledger.put(entry(content_hash="h2"))
            ledger.put(entry("b.md"))
            before = ledger.entries()
            ledger.remove("b.md")
            ledger.remove("never-there.md")
            ledger.record_version("v", documents=1, chunks=3)
            return before, ledger.entries()
        finally:
            opened.close()
            opened.close()

    before, after = await asyncio.to_thread(work)
    assert list(before) == ["a.md", "b.md"]
    assert (after["a.md"].version, after["a.md"].content_hash, after["a.md"].size_bytes) == (2, "h2", 99)
    assert list(after) == ["a.md"]
    assert after["a.md"].ingested_at.endswith("+00:00")
    assert "documents" not in {thread.name for thread in threading.enumerate()}


def test_a_ledger_out_of_reach_says_so_and_leaves_no_thread() -> None:
    with pytest.raises(StorageError, match=r"storage\.dsn"):
        PostgresLedger("postgresql://127.0.0.1:1/x")
    assert "documents" not in {thread.name for thread in threading.enumerate()}
