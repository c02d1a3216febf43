"""The vector store: sentences in Qdrant, embedded in a folder or on a server, through the same client.

A point is one sentence, with a dense vector, a sparse BM25 vector (the store multiplies the inverse document frequency
in), and its chunk as payload: small things are found, whole passages are returned.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from kb.document import Chunk, innermost
from kb.index import VectorIndex, build_index
from kb.terms import document_vector, term_id
from voice_agent.errors import StorageError

T = TypeVar("T")

DENSE, SPARSE = "dense", "sparse"
_BATCH_POINTS = 128
_TIMEOUT_S = 10
_SEARCH_TIMEOUT_S = 2
"""Of a server: less than a turn waits for its passages (``turn.stage_deadline_s``), so that the reason can be told."""
_OTHER_SHAPE = "the vector store holds points of another shape: set kb.collection to a new name"
_POINT_NAMESPACE = uuid.UUID("6f1d7c0a-3b52-4b8e-9a53-0c6f6d0c8f11")


@dataclass(frozen=True, slots=True)
class StoredSentence:
    """A sentence as stored, with the chunk it belongs to. ``position`` counts sentences in the chunk from 0."""

    source: str
    content_hash: str
    chunk: int
    position: int
    sentence: str
    text: str
    heading: str


@dataclass(frozen=True, slots=True)
class SentenceHit:
    """A found sentence. ``dense`` is the cosine, ``sparse`` the BM25 score (0 when the lexical search missed it)."""

    stored: StoredSentence
    dense: float
    sparse: float


@dataclass(frozen=True, slots=True)
class _Held:
    """Sentences and their vectors, row by row, for searches. Replaced whole when something changes."""

    sentences: tuple[StoredSentence, ...]
    index: VectorIndex

    def without(self, source: str) -> _Held:
        dropped = np.array([stored.source == source for stored in self.sentences], dtype=np.bool_)
        kept = tuple(stored for stored in self.sentences if stored.source != source)
        return _Held(kept, self.index.without(dropped))

    def joined(self, other: _Held) -> _Held:
        return _Held(self.sentences + other.sentences, self.index.joined(other.index))

    def search(self, dense: NDArray[np.float32], sparse: Mapping[int, float], limit: int) -> list[SentenceHit]:
        found = self.index.search(dense, sparse, limit=limit)
        return [SentenceHit(self.sentences[hit.row], hit.dense, hit.sparse) for hit in found]


class VectorStore:
    """One collection of sentences. Thread-safe.

    A server searches itself. The embedded store is searched in arrays held beside it; so is the copy that
    ``take_copy`` made of what a server holds, while that is away.

    Args:
        path: folder of the embedded store; used when ``url`` is empty. One process at a time can hold it.
        url: Qdrant server.
        api_key: its key.
        collection: name; made when missing.
        dimension: length of the dense vectors.
        copy_sentences: a server's content may be copied when it is no more than this; 0: never.

    Raises:
        StorageError: the folder is held by another process, the server is out of reach or refuses, or the collection
            holds vectors of another length.
    """

    def __init__(
        self,
        *,
        path: Path | None = None,
        url: str = "",
        api_key: str = "",
        collection: str = "kb",
        dimension: int,
        copy_sentences: int = 0,
    ) -> None:
        self._collection = collection
        self._dimension = dimension
        self._copy_sentences = copy_sentences
        self._where = url or str(path or "memory")
        self._embedded = not url
        self._held: _Held | None = None
        self._copy: _Held | None = None
        self._away = ""
        # The embedded store is plain Python over shared arrays: no one may see an upsert half done. A server takes
        # requests side by side, and one that hangs must hold up nobody else's.
        self._lock: AbstractContextManager[Any] = threading.RLock() if self._embedded else nullcontext()
        with self._guarded():
            if url:
                self._client, self._searching = (
                    QdrantClient(url=url, api_key=api_key or None, timeout=timeout_s, check_compatibility=False)
                    for timeout_s in (_TIMEOUT_S, _SEARCH_TIMEOUT_S)
                )
            elif path is not None:
                path.mkdir(parents=True, exist_ok=True)
                self._client = QdrantClient(path=str(path), force_disable_check_same_thread=True)
            else:
                self._client = QdrantClient(location=":memory:")
            if self._embedded:
                self._searching = self._client
        try:
            self.prepare()
        except StorageError:
            self.close()
            raise

    def replace(self, source: str, content_hash: str, chunks: Sequence[Chunk], vectors: NDArray[np.float32]) -> None:
        """Store a document's sentences, then drop those of its other versions.

        In this order a search of a server in between finds too much rather than nothing, and a crash in between is
        healed by the next ingest. ``vectors`` is float32, shape (sentences, dimension), chunk by chunk.
        """
        stored = list(_sentences(source, content_hash, chunks))
        points = (self._point(sentence, vector) for sentence, vector in zip(stored, vectors, strict=True))
        with self._changing(source) as held:
            while batch := list(islice(points, _BATCH_POINTS)):
                self._client.upsert(self._collection, points=batch, wait=True)
            stale = models.Filter(must=[_match("source", source)], must_not=[_match("content_hash", content_hash)])
            self._client.delete(self._collection, points_selector=models.FilterSelector(filter=stale), wait=True)
            self._held = held and held.joined(_Held(tuple(stored), build_index(vectors, list(map(_weights, stored)))))

    def remove(self, source: str) -> None:
        """Drop every sentence of a document."""
        selector = models.FilterSelector(filter=models.Filter(must=[_match("source", source)]))
        with self._changing(source) as held:
            self._client.delete(self._collection, points_selector=selector, wait=True)
            self._held = held

    def holds(self, source: str, content_hash: str) -> bool:
        """Whether this version of the document is stored."""
        condition = models.Filter(must=[_match("source", source), _match("content_hash", content_hash)])
        with self._guarded():
            return bool(self._client.count(self._collection, count_filter=condition, exact=True).count)

    def sentences(self) -> list[StoredSentence]:
        """Everything stored, by source, chunk and position."""
        found: list[StoredSentence] = []
        offset: Any = None
        with self._guarded():
            while True:
                points, offset = self._client.scroll(
                    self._collection, limit=1024, offset=offset, with_payload=True, with_vectors=False
                )
                found.extend(_stored(point.payload) for point in points)
                if offset is None:
                    break
        return sorted(found, key=lambda stored: (stored.source, stored.chunk, stored.position))

    def search(self, dense: NDArray[np.float32], sparse: Mapping[int, float], *, limit: int) -> list[SentenceHit]:
        """Sentences found by either search, at most ``limit`` each, in no order. Every hit carries its cosine."""
        return self._answer(
            lambda: self._search_server(dense, sparse, limit), lambda held: held.search(dense, sparse, limit)
        )

    def _search_server(self, dense: NDArray[np.float32], sparse: Mapping[int, float], limit: int) -> list[SentenceHit]:
        vector = [float(value) for value in dense]
        requests = [models.QueryRequest(query=vector, using=DENSE, limit=limit, with_payload=True)]
        if sparse:
            weights = models.SparseVector(indices=list(sparse), values=list(sparse.values()))
            requests.append(models.QueryRequest(query=weights, using=SPARSE, limit=limit, with_payload=True))
        with self._guarded():
            answers = self._searching.query_batch_points(self._collection, requests=requests)
            by_dense = answers[0].points
            by_sparse = answers[1].points if sparse else []
            cosines = {str(point.id): point.score for point in by_dense}
            missing = [point.id for point in by_sparse if str(point.id) not in cosines]
            cosines.update(self._cosines(missing, dense))
        weights_found = {str(point.id): point.score for point in by_sparse}
        payloads = {str(point.id): point.payload for point in [*by_dense, *by_sparse]}
        return [
            SentenceHit(_stored(payload), float(cosines[key]), float(weights_found.get(key, 0.0)))
            for key, payload in payloads.items()
        ]

    def has_term(self, term: str) -> bool:
        """Whether any sentence has this stem."""
        return self._answer(lambda: self._server_has(term_id(term)), lambda held: held.index.has(term_id(term)))

    def _server_has(self, term: int) -> bool:
        weights = models.SparseVector(indices=[term], values=[1.0])
        with self._guarded():
            answer = self._searching.query_points(self._collection, query=weights, using=SPARSE, limit=1)
        return any(point.score > 0 for point in answer.points)

    def close(self) -> None:
        """Let go of the folder or the connection. Idempotent."""
        with self._lock:
            self._held = self._copy = None
            self._client.close()
            self._searching.close()

    @property
    def away(self) -> str:
        """Why the copy is searched at present, and not the server; empty while the server is."""
        return self._away

    def ask_again(self) -> bool:
        """Ask a server that was away what searches ask; they go there when it answers and has sentences again."""
        copy = self._copy
        try:
            self._server_has(0)
            there = self.count() > 0 or (copy is not None and not copy.sentences)
        except StorageError:
            return False
        if there:
            self._away = ""
        return there

    @property
    def copies(self) -> bool:
        """Whether a copy may be made."""
        return not self._embedded and self._copy_sentences > 0

    def count(self) -> int:
        """Sentences stored."""
        with self._guarded():
            return self._client.count(self._collection, exact=True).count

    def take_copy(self) -> int | None:
        """Copy what a server holds, for searches while it is away. Returns the sentences; None: they are too many.

        Raises:
            StorageError: the server failed; an earlier copy stays.
        """
        few = self.count() <= self._copy_sentences
        with self._guarded():
            copy = self._copy = self._read() if few else None
        return len(copy.sentences) if copy else None

    @property
    def embedded(self) -> bool:
        """Whether asking it costs no request."""
        return self._embedded

    def get_ready(self) -> None:
        """Read what searches need, so that no caller waits for it.

        Raises:
            StorageError: the store failed.
        """
        if self._embedded:
            self._hold()

    def _answer(self, server: Callable[[], T], held: Callable[[_Held], T]) -> T:
        """By the server; by the copy of it while it is away; by what is held of the embedded store."""
        if self._embedded:
            return held(self._hold())
        copy = self._copy
        if copy is None or not self._away:
            try:
                return server()
            except StorageError as error:
                if copy is None:
                    raise
                self._away = error.message
        return held(copy)

    def _hold(self) -> _Held:
        """What a search of the embedded store reads: read once, and again after a change that failed."""
        held = self._held
        if held is None:
            with self._guarded():
                held = self._held = self._held or self._read()
        return held

    def _read(self) -> _Held:
        held = _Held((), build_index(np.zeros((0, self._dimension), dtype=np.float32), ()))
        offset: Any = None
        while True:
            points, offset = self._client.scroll(
                self._collection, limit=1024, offset=offset, with_payload=True, with_vectors=True
            )
            if points:
                held = held.joined(_rows(points))
            if offset is None:
                return held

    @contextmanager
    def _changing(self, source: str) -> Iterator[_Held | None]:
        """A change of one document; gives what is held without it. Searches find the old state until it is done."""
        with self._guarded():
            done = False
            try:
                yield self._held and self._held.without(source)
                done = True
            finally:
                if not done:
                    self._held = None

    def prepare(self) -> None:
        """Make the collection where there is none, as when a server has come back without its disk.

        Raises:
            StorageError: the store failed, or the collection holds vectors of another length.
        """
        dimension = self._dimension
        with self._guarded():
            if not self._client.collection_exists(self._collection):
                self._create(dimension)
            vectors = self._client.get_collection(self._collection).config.params.vectors
        params = vectors.get(DENSE) if isinstance(vectors, dict) else None
        if params is None or params.size != dimension:
            held = params.size if params else "another kind of vectors"
            raise StorageError(
                f"collection {self._collection!r} at {self._where} holds {held} where the embedder gives {dimension}: "
                "set kb.collection to a new name, or drop the collection and ingest again"
            )

    def _create(self, dimension: int) -> None:
        try:
            self._client.create_collection(
                self._collection,
                vectors_config={DENSE: models.VectorParams(size=dimension, distance=models.Distance.COSINE)},
                sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            )
        except (ApiException, ValueError):
            # Replicas start together, and another one may have made it in between.
            if not self._client.collection_exists(self._collection):
                raise
        if not self._embedded:
            for field in ("source", "content_hash"):
                self._client.create_payload_index(self._collection, field, models.PayloadSchemaType.KEYWORD)

    def _cosines(self, ids: Sequence[Any], query: NDArray[np.float32]) -> dict[str, float]:
        """Cosines of sentences that only the lexical search found; few, since most are found by both."""
        if not ids:
            return {}
        records = self._searching.retrieve(self._collection, ids=list(ids), with_payload=False, with_vectors=[DENSE])
        found: dict[str, float] = {}
        for record in records:
            vectors = record.vector
            if isinstance(vectors, dict):
                found[str(record.id)] = float(np.dot(np.asarray(vectors[DENSE], dtype=np.float32), query))
        return {str(key): found.get(str(key), 0.0) for key in ids}

    def _point(self, stored: StoredSentence, vector: NDArray[np.float32]) -> models.PointStruct:
        weights = _weights(stored)
        name = f"{stored.source}\n{stored.content_hash}\n{stored.chunk}\n{stored.position}"
        return models.PointStruct(
            id=str(uuid.uuid5(_POINT_NAMESPACE, name)),
            vector={
                DENSE: [float(value) for value in vector],
                SPARSE: models.SparseVector(indices=list(weights), values=list(weights.values())),
            },
            payload={name: getattr(stored, name) for name in StoredSentence.__dataclass_fields__},
        )

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """One operation at a time on the embedded store, and the client's errors as ours."""
        with self._lock:
            try:
                yield
            except (ApiException, QdrantException, ValueError, OSError) as error:
                advice = "" if self._embedded else "; check kb.qdrant_url, and that the server runs"
                raise StorageError(f"Qdrant at {self._where} failed: {error}{advice}") from error
            except RuntimeError as error:
                if "already accessed" not in str(error):
                    raise StorageError(f"Qdrant at {self._where} failed: {error}") from error
                raise StorageError(
                    f"the vector store in {self._where} is in use by another process: use the running stack "
                    "(its API or CLI), stop it first, or set kb.qdrant_url to a Qdrant server"
                ) from error


def _match(field: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _sentences(source: str, content_hash: str, chunks: Iterable[Chunk]) -> Iterator[StoredSentence]:
    for chunk in chunks:
        for position, sentence in enumerate(chunk.sentences):
            yield StoredSentence(source, content_hash, chunk.index, position, sentence, chunk.text, chunk.heading)


def _weights(stored: StoredSentence) -> dict[int, float]:
    return document_vector(f"{innermost(stored.heading)} {stored.sentence}")


def _rows(points: Sequence[models.Record]) -> _Held:
    sentences = tuple(_stored(point.payload) for point in points)
    vectors: list[Any] = [point.vector for point in points]
    try:
        dense = np.array([vector[DENSE] for vector in vectors], dtype=np.float32)
        sparse = [dict(zip(vector[SPARSE].indices, vector[SPARSE].values, strict=True)) for vector in vectors]
    except (KeyError, TypeError) as error:
        raise StorageError(_OTHER_SHAPE) from error
    return _Held(sentences, build_index(dense, sparse))


def _stored(payload: Mapping[str, Any] | None) -> StoredSentence:
    if payload is None:
        raise StorageError("the vector store returned a point without payload: was it written by something else?")
    try:
        return StoredSentence(**payload)
    except TypeError as error:
        raise StorageError(_OTHER_SHAPE) from error
