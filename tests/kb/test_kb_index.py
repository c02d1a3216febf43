"""The arrays that searches of the embedded store read, against the client's own search of the same points."""

import random

import numpy as np
import pytest
from kb_fakes import BagOfWordsEmbedder
from qdrant_client import models
from qdrant_client.http.exceptions import ApiException

from kb.document import Chunk
from kb.retrieve import embed_sentences
from kb.store import DENSE, SPARSE, SentenceHit, VectorStore
from kb.terms import query_vector
from voice_agent.errors import StorageError

WORDS = "bicycle helmet harbor monday repair lock pump ticket voucher saddle wheel tire lamp bell paint".split()


def document(seed: int, chunks: int = 12) -> list[Chunk]:
    chance = random.Random(seed)
    return [
        Chunk(
            number,
            chance.choice(("", "Shop > Prices", "Shop > Wheels")),
            # The last one has no informative term, and so an empty sparse vector.
            (*(" ".join(chance.choices(WORDS, k=chance.randint(2, 9))) + "." for _ in range(3)), "We are."),
        )
        for number in range(chunks)
    ]


def fill(store: VectorStore, source: str, version: str, chunks: list[Chunk]) -> None:
    store.replace(source, version, chunks, embed_sentences(BagOfWordsEmbedder(), chunks))


def client_search(store: VectorStore, dense: np.ndarray, query: str, limit: int) -> dict[str, tuple[float, float]]:
    """Scores by sentence and place, as the embedded client finds them."""
    sparse = query_vector(query)
    weights = models.SparseVector(indices=list(sparse), values=list(sparse.values()))
    found: dict[str, tuple[float, float]] = {}
    for using, vector in ((DENSE, dense.tolist()), (SPARSE, weights)):
        for point in store._client.query_points("kb", query=vector, using=using, limit=limit).points:
            payload = point.payload or {}
            key = f"{payload['source']} {payload['chunk']} {payload['position']}"
            before = found.get(key, (0.0, 0.0))
            found[key] = (point.score, before[1]) if using == DENSE else (before[0], point.score)
    return found


def by_place(hits: list[SentenceHit]) -> dict[str, tuple[float, float]]:
    return {f"{hit.stored.source} {hit.stored.chunk} {hit.stored.position}": (hit.dense, hit.sparse) for hit in hits}


def assert_same(store: VectorStore, limit: int) -> None:
    for query in ("bicycle helmet", "monday repair of a tire", "saddle", "unheard of", "bell " * 3):
        dense = BagOfWordsEmbedder().embed([query])[0]
        ours, theirs = (
            by_place(store.search(dense, query_vector(query), limit=limit)),
            client_search(store, dense, query, limit),
        )
        for side in (0, 1):
            scores = (
                sorted((item[side] for item in found.values() if item[side] > 0), reverse=True)[:limit]
                for found in (ours, theirs)
            )
            np.testing.assert_allclose(*map(list, scores), atol=1e-5)
        for place in ours.keys() & theirs.keys():
            if theirs[place][1]:
                assert ours[place][1] in (0.0, pytest.approx(theirs[place][1], abs=1e-5))


@pytest.mark.parametrize("limit", [5, 32, 500])
def test_the_same_scores_as_the_client_through_changes(limit: int) -> None:
    store = VectorStore(dimension=64)
    store.get_ready()
    fill(store, "a.md", "v1", document(1))
    fill(store, "b.md", "v1", document(2))
    assert_same(store, limit)
    fill(store, "a.md", "v2", document(3, chunks=20))
    assert_same(store, limit)
    store.remove("b.md")
    assert_same(store, limit)
    store.remove("a.md")
    assert store.search(np.ones(64, dtype=np.float32), query_vector("bicycle"), limit=limit) == []
    store.close()


def test_what_is_held_through_changes_is_what_would_be_read() -> None:
    store = VectorStore(dimension=64)
    store.get_ready()
    for source, version, seed in (("a.md", "v1", 1), ("b.md", "v1", 2), ("a.md", "v2", 3), ("a.md", "v2", 3)):
        fill(store, source, version, document(seed))
    dense = BagOfWordsEmbedder().embed(["bicycle helmet"])[0]
    held = by_place(store.search(dense, query_vector("bicycle helmet"), limit=500))
    store._held = None
    read = by_place(store.search(dense, query_vector("bicycle helmet"), limit=500))
    assert held.keys() == read.keys()
    for place, scores in held.items():
        assert scores == pytest.approx(read[place], abs=1e-5)
    store.close()


def test_a_term_goes_with_its_last_sentence() -> None:
    store = VectorStore(dimension=64)
    fill(store, "a.md", "v1", [Chunk(0, "", ("The helmet.",))])
    assert store.has_term("helmet")
    fill(store, "a.md", "v2", [Chunk(0, "", ("The lamp.",))])
    assert not store.has_term("helmet")
    assert store.has_term("lamp")
    store.close()


def test_after_a_change_that_failed_searches_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    store = VectorStore(dimension=64)
    fill(store, "a.md", "v1", [Chunk(0, "", ("The helmet.",))])
    assert store.has_term("helmet")

    def fail(*_: object, **__: object) -> None:
        raise ApiException("half done")

    # New sentences are in, the old ones not yet out: what is held knows neither.
    with monkeypatch.context() as patch:
        patch.setattr(store._client, "delete", fail)
        with pytest.raises(StorageError, match="half done"):
            fill(store, "a.md", "v2", [Chunk(0, "", ("The lamp.",))])
    assert store.has_term("lamp")
    assert store.has_term("helmet")
    fill(store, "a.md", "v2", [Chunk(0, "", ("The lamp.",))])
    assert not store.has_term("helmet")
    store.close()
