"""The knowledge base: ingest files, search them, list and remove documents."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kb.chunk import chunk
from kb.document import HEADING_SEPARATOR
from kb.ledger import DocumentEntry, DocumentLedger, dump
from kb.parse import SUFFIXES, parse, read_bytes
from kb.retrieve import embed_sentences, retrieve
from kb.store import StoredSentence, VectorStore
from kb.vocabulary import VocabularyStats, write_vocabulary
from voice_agent.errors import DocumentError
from voice_agent.ports import COPY, Embedder, SearchResponse

logger = logging.getLogger(__name__)

# Part of every content hash: raise it when parsing, chunking or indexing changes, and everything is ingested anew.
PIPELINE_VERSION = 1

Progress = Callable[[int, int, str], None]
"""Called with (files done, files in all, source of the next one)."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did. All but ``failed`` are sources; ``ignored`` are files in a folder of a format not read.

    ``failed`` maps a source to the reason; its earlier version, if any, stays. ``kb_version`` names the content of the
    whole knowledge base; ``vocabulary`` is None when the recogniser's vocabulary is not wanted.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    kb_version: str = ""
    vocabulary: VocabularyStats | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for the wire."""
        plain = asdict(self)
        plain["failed"] = dict(self.failed)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


@dataclass(frozen=True, slots=True)
class KnowledgeOptions:
    """How files become knowledge.

    Attributes:
        root: a file below it is named by its path from here, any other by its whole path.
        chunk_words: largest chunk.
        vocabulary_dir: where the recogniser's vocabulary is written; None writes none.
    """

    root: Path
    chunk_words: int = 120
    vocabulary_dir: Path | None = None


class KnowledgeBase:
    """Documents in, passages out. Blocking; ``search`` may run in several threads, changes run one at a time."""

    def __init__(
        self, *, store: VectorStore, embedder: Embedder, ledger: DocumentLedger, options: KnowledgeOptions
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._ledger = ledger
        self._options = options
        self._changing = threading.Lock()
        self._version = kb_version(ledger.entries().values())
        self._copied: tuple[str, int] | None = None

    @property
    def copies(self) -> bool:
        """Whether ``look`` keeps a copy: the vector store is a server."""
        return self._store.copies

    @property
    def away(self) -> str:
        """Why a copy answers, and not the vector store's server; empty while the server does."""
        return self._store.away

    @property
    def version(self) -> str:
        """Names the content of the whole knowledge base."""
        return self._version

    def search(self, query: str, top_k: int) -> SearchResponse:
        """The best passages for a question; ``engine`` is ``COPY`` while a copy answers.

        Raises:
            StorageError: the store failed, and there is no copy.
        """
        began = time.perf_counter()
        passages = retrieve(self._store, self._embedder, query, top_k=top_k)
        elapsed_ms = (time.perf_counter() - began) * 1000
        answering = COPY if self._store.away else ""
        return SearchResponse(passages, kb_version=self._version, engine_ms=elapsed_ms, engine=answering)

    def look(self) -> None:
        """Ask a server that was away again, and copy what it holds when that has changed. To be called again and again:
        documents come and go through other processes too.

        Raises:
            StorageError: the ledger or the server failed.
        """
        if self._store.away and not self._store.ask_again():
            return
        self._version = kb_version(self._ledger.entries().values())
        # What changes while it is copied changes one of these after it was read, and is copied at the next look.
        now = self._version, self._store.count()
        if now == self._copied:
            return
        sentences = self._store.take_copy()
        self._copied = now
        if sentences is None:
            logger.warning("no copy of the vector store, it holds more than kb.copy_sentences", extra={"holds": now[1]})
        else:
            logger.info("vector store copied", extra={"sentences": sentences, "kb_version": now[0]})

    def ingest(self, paths: Sequence[str | Path], progress: Progress | None = None) -> IngestReport:
        """Bring files and folders in: new ones are added, changed ones replaced, unchanged ones skipped.

        A document that came from inside a given folder and whose file is gone is removed. A file that cannot be read
        is reported and the others are ingested.

        Raises:
            StorageError: the vector store or the ledger failed; what was done so far stays, and a new run goes on.
        """
        with self._changing:
            self._store.prepare()
            return _Ingest(self._store, self._embedder, self._ledger, self._options).run(paths, progress, self._settle)

    def documents(self) -> list[dict[str, Any]]:
        """Every document, by source, as plain values of :class:`~kb.ledger.DocumentEntry`."""
        return dump(self._ledger.entries())

    def remove(self, source: str) -> IngestReport:
        """Take a document out.

        Raises:
            DocumentError: there is no such document; the message lists those that look like it.
            StorageError: the vector store or the ledger failed.
        """
        with self._changing:
            known = self._ledger.entries()
            if source not in known:
                similar = [name for name in known if Path(source).name == Path(name).name]
                hint = f"; did you mean {', '.join(similar)}?" if similar else "; see `voice-agent kb list`"
                raise DocumentError(f"no document {source!r} in the knowledge base{hint}")
            self._store.remove(source)
            self._ledger.remove(source)
            version, stats = self._settle(changed=True)
            return IngestReport(removed=(source,), kb_version=version, vocabulary=stats)

    def close(self) -> None:
        """Let go of the vector store and the ledger. Idempotent."""
        self._store.close()
        self._ledger.close()

    def _settle(self, *, changed: bool) -> tuple[str, VocabularyStats | None]:
        """Name the new content, and make the vocabulary that belongs to it."""
        entries = self._ledger.entries()
        self._version = kb_version(entries.values())
        if changed:
            chunks = sum(entry.chunks for entry in entries.values())
            self._ledger.record_version(self._version, documents=len(entries), chunks=chunks)
        self._store.get_ready()
        folder = self._options.vocabulary_dir
        if folder is None:
            return self._version, None
        stored = self._store.sentences()
        return self._version, write_vocabulary(folder, self._version, _spoken_material(stored))


class _Ingest:
    """One run over a list of paths."""

    def __init__(
        self, store: VectorStore, embedder: Embedder, ledger: DocumentLedger, options: KnowledgeOptions
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._ledger = ledger
        self._options = options
        self._known = ledger.entries()
        self._outcome: dict[str, list[str]] = {
            name: [] for name in ("added", "changed", "unchanged", "removed", "ignored")
        }
        self._failed: dict[str, str] = {}

    def run(
        self,
        paths: Sequence[str | Path],
        progress: Progress | None,
        settle: Callable[..., tuple[str, VocabularyStats | None]],
    ) -> IngestReport:
        files = self._files([Path(path).absolute() for path in paths])
        for done, (source, path) in enumerate(files.items()):
            if progress:
                progress(done, len(files), source)
            self._take(source, path)
        self._drop_vanished([Path(path).absolute() for path in paths], files)
        outcome = {name: tuple(sources) for name, sources in self._outcome.items()}
        changed = any(outcome[name] for name in ("added", "changed", "removed"))
        version, stats = settle(changed=changed)
        return IngestReport(**outcome, failed=tuple(self._failed.items()), kb_version=version, vocabulary=stats)

    def _files(self, paths: Sequence[Path]) -> dict[str, Path]:
        """Files to read, by source; formats that are not read are only worth a word inside a folder."""
        files: dict[str, Path] = {}
        for path in paths:
            for file in _walk(path) if path.is_dir() else [path]:
                source = self._source(file)
                if file.suffix.lower() in SUFFIXES or not path.is_dir():
                    files[source] = file
                else:
                    self._outcome["ignored"].append(source)
        return files

    def _source(self, path: Path) -> str:
        root = self._options.root.absolute()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()

    def _take(self, source: str, path: Path) -> None:
        try:
            data = read_bytes(path)
            digest = self._digest(data)
            before = self._known.get(source)
            if before and before.content_hash == digest and self._store.holds(source, digest):
                self._outcome["unchanged"].append(source)
                return
            document = parse(data, source=source, suffix=path.suffix)
            chunks = chunk(document, max_words=self._options.chunk_words)
        except DocumentError as error:
            self._failed[source] = error.message
            return
        self._store.replace(source, digest, chunks, embed_sentences(self._embedder, chunks))
        entry = DocumentEntry(source, document.title, digest, len(chunks), len(data))
        # Sentences that went missing from the store are put back without counting a version.
        if before is None or before.content_hash != digest:
            self._ledger.put(entry)
        self._outcome["changed" if before else "added"].append(source)

    def _digest(self, data: bytes) -> str:
        """Names the bytes together with all that decides what is stored of them."""
        made_by = f"{PIPELINE_VERSION}\n{self._embedder.capabilities.version}\n{self._options.chunk_words}\n"
        return hashlib.sha256(made_by.encode() + data).hexdigest()

    def _drop_vanished(self, paths: Sequence[Path], files: dict[str, Path]) -> None:
        folders = [path for path in paths if path.is_dir()]
        for source in self._known:
            path = self._options.root.absolute() / source
            if source in files or path.exists():
                continue
            if any(path.is_relative_to(folder) for folder in folders):
                self._store.remove(source)
                self._ledger.remove(source)
                self._outcome["removed"].append(source)


def kb_version(entries: Iterator[DocumentEntry] | Sequence[DocumentEntry] | Any) -> str:
    """Twelve hex digits that name the content of all documents; ``empty`` for none."""
    lines = sorted(f"{entry.source}\n{entry.content_hash}\n" for entry in entries)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12] if lines else "empty"


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder in a stable order, hidden ones left out."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _spoken_material(stored: Sequence[StoredSentence]) -> tuple[list[str], list[str]]:
    """Sentences, and headings without repeats, for the vocabulary."""
    headings = dict.fromkeys(part for item in stored for part in item.heading.split(HEADING_SEPARATOR) if part)
    return [item.sentence for item in stored], list(headings)
