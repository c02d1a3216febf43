"""The knowledge base from the command line: through a running stack, which holds the store, else directly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster.api import of_running
from cluster.records import running_postgres
from cluster.stores import migrate
from configs.settings import Settings
from kb.knowledge import KnowledgeBase
from kb.opening import open_knowledge_base
from voice_agent.errors import DocumentError
from voice_agent.ports import Message, Passage, ReplyRequest

_INGEST_TIMEOUT_S = 600.0
_CALL = "command-line"

Progress = Callable[[int, int, str], None]


def ingest(settings: Settings, paths: Sequence[Path], progress: Progress) -> dict[str, Any]:
    """Ingest files and folders; the report as plain values.

    Raises:
        StorageError: the store or Postgres failed.
        ApiError: the running stack refused.
    """
    with of_running(settings, timeout_s=_INGEST_TIMEOUT_S) as api:
        if api is not None:
            report: dict[str, Any] = api.post("/api/kb/ingest", {"paths": [str(path) for path in paths]})
            return report
    with _opened(settings) as base:
        return base.ingest(list(paths), progress).as_dict()


def documents(settings: Settings) -> list[dict[str, Any]]:
    """What the knowledge base holds. Raises as ``ingest``."""
    with of_running(settings) as api:
        if api is not None:
            found: list[dict[str, Any]] = api.get("/api/kb/documents")["documents"]
            return found
    with _opened(settings) as base:
        return base.documents()


def remove(settings: Settings, source: str) -> dict[str, Any]:
    """Take a document out. Raises as ``ingest``, and DocumentError when there is none of this name."""
    with of_running(settings) as api:
        if api is not None:
            report: dict[str, Any] = api.delete("/api/kb/documents", source=source)
            return report
    with _opened(settings) as base:
        return base.remove(source).as_dict()


def ask(settings: Settings, question: str) -> dict[str, Any]:
    """``answer`` as a caller would get it, and ``passages``. Raises as ``ingest``."""
    with of_running(settings, timeout_s=60.0) as api:
        if api is not None:
            told: dict[str, Any] = api.post("/api/kb/ask", {"question": question})
            return told
    with _opened(settings) as base:
        found = base.search(question, settings.retriever.top_k)
    answer = asyncio.run(_answer(settings, question, found.passages))
    return {"answer": answer, "passages": [asdict(passage) for passage in found.passages]}


def evaluate(settings: Settings, questions: Path, top_k: int) -> dict[str, Any]:
    """Measure retrieval over ``kb.sources``, ingested afresh in memory; a running stack is neither asked nor disturbed.

    Raises:
        ConfigError: the question file is wrong.
        DocumentError: a source cannot be read.
        EngineUnavailableError: the embedder cannot run here.
    """
    from kb.evaluate import evaluate as measure
    from kb.evaluate import load_questions

    asked = load_questions(questions)
    with in_memory(settings) as base:
        return measure(base.search, asked, top_k=top_k, min_dense=settings.retriever.min_dense).as_dict()


@contextlib.contextmanager
def in_memory(settings: Settings, vocabulary_dir: Path | None = None) -> Iterator[KnowledgeBase]:
    """``kb.sources`` in a knowledge base of its own, gone at the end; the recogniser's vocabulary where it is wanted.

    Raises:
        DocumentError: a source cannot be read.
        EngineUnavailableError: the embedder cannot run here.
    """
    from engines import registry
    from kb.knowledge import KnowledgeOptions
    from kb.ledger import MemoryLedger
    from kb.store import VectorStore

    embedder = registry.load("embed", settings.retriever.engine, settings.retriever.options)
    options = KnowledgeOptions(Path.cwd(), chunk_words=settings.kb.chunk_words, vocabulary_dir=vocabulary_dir)
    store = VectorStore(dimension=embedder.dimension)
    base = KnowledgeBase(store=store, embedder=embedder, ledger=MemoryLedger(), options=options)
    with contextlib.closing(base):
        report = base.ingest(list(settings.kb.sources))
        if report.failed:
            raise DocumentError("; ".join(f"{source}: {reason}" for source, reason in report.failed))
        yield base


async def _answer(settings: Settings, question: str, passages: tuple[Passage, ...]) -> str:
    from engines import registry
    from serve_apps.build import llm_options

    engine = registry.load("llm", settings.llm.engine, llm_options(settings))
    request = ReplyRequest(
        call_id=_CALL, turn=1, messages=(Message("user", question),), passages=passages, confidence=1.0
    )
    return "".join([chunk.text async for chunk in engine.reply(request)])


@contextlib.contextmanager
def _opened(settings: Settings) -> Iterator[KnowledgeBase]:
    data_dir = settings.data_dir.absolute()
    with running_postgres(settings) as dsn:
        asyncio.run(migrate(dsn))
        base = open_knowledge_base(settings, data_dir=data_dir, dsn=dsn)
        try:
            yield base
        finally:
            base.close()
