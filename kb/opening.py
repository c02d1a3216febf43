"""The knowledge base of a configuration: which embedder, which store, which ledger, which folders.

The vector store's client and the parsers, 35 MB, are imported by whoever opens one: the process that deploys a stack,
and stays, only names its parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from configs.settings import Settings
from engines import registry
from voice_agent.ports import Embedder

if TYPE_CHECKING:
    from kb.knowledge import KnowledgeBase
    from kb.ledger import DocumentLedger


def vocabulary_dir(data_dir: Path) -> Path:
    """Where an ingest writes the recogniser's vocabulary."""
    return data_dir / "vocabulary"


def vectors_dir(data_dir: Path) -> Path:
    """The folder of the embedded vector store."""
    return data_dir / "qdrant"


def open_knowledge_base(settings: Settings, *, data_dir: Path, dsn: str, root: Path | None = None) -> KnowledgeBase:
    """Open the knowledge base; the caller closes it. One process at a time can hold the embedded vector store.

    Args:
        settings: sections ``retriever`` and ``kb``.
        data_dir: of the stack.
        dsn: Postgres, for the ledger of documents; empty keeps the ledger in a file.
        root: files below it are named by their path from here; None: the working directory.

    Raises:
        StorageError: the store or the ledger is out of reach, or another process holds the store.
        EngineUnavailableError: the embedder cannot run here.
    """
    from kb.knowledge import KnowledgeBase, KnowledgeOptions
    from kb.ledger import FileLedger
    from kb.postgres_ledger import PostgresLedger
    from kb.store import VectorStore

    embedder: Embedder = registry.load("embed", settings.retriever.engine, settings.retriever.options)
    embedded = not settings.kb.qdrant_url
    store = VectorStore(
        path=vectors_dir(data_dir) if embedded else None,
        url=settings.kb.qdrant_url,
        api_key=settings.kb.qdrant_api_key,
        collection=settings.kb.collection,
        dimension=embedder.dimension,
        copy_sentences=settings.kb.copy_sentences,
    )
    ledger: DocumentLedger = PostgresLedger(dsn) if dsn else FileLedger(data_dir / "documents.json")
    options = KnowledgeOptions(
        root=root or Path.cwd(), chunk_words=settings.kb.chunk_words, vocabulary_dir=vocabulary_dir(data_dir)
    )
    return KnowledgeBase(store=store, embedder=embedder, ledger=ledger, options=options)
