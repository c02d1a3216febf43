import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kb_fakes import BagOfWordsEmbedder
from qdrant_client import QdrantClient

from kb.document import Chunk
from kb.retrieve import embed_sentences, retrieve
from kb.store import VectorStore
from kb.terms import query_vector
from voice_agent.errors import StorageError
from voice_agent.ports import Passage

HOURS = [
    Chunk(0, "Shop > Hours", ("We open at nine.", "We close at five.")),
    Chunk(1, "Shop > Place", ("Find us at the harbor.",)),
]
MakeStore = Callable[..., VectorStore]


def fill(store: VectorStore, embedder: BagOfWordsEmbedder, source: str, version: str, chunks: list[Chunk]) -> None:
    store.replace(source, version, chunks, embed_sentences(embedder, chunks))


def test_what_is_stored_is_found_after_reopening(make_store: MakeStore, bag_embedder: BagOfWordsEmbedder) -> None:
    fill(make_store(), bag_embedder, "hours.md", "v1", HOURS)
    store = make_store()
    assert [item.sentence for item in store.sentences()] == [
        "We open at nine.",
        "We close at five.",
        "Find us at the harbor.",
    ]
    passages = retrieve(store, bag_embedder, "where is the harbor", top_k=4)
    assert passages[0].sentence == "Find us at the harbor."
    assert passages[0].heading == "Shop > Place"
    assert passages[0].source == "hours.md"
    assert passages[0].lexical == 1.0
    assert len({passage.chunk_id for passage in passages}) == len(passages) == 2


def test_a_new_version_replaces_the_old_one(make_store: MakeStore, bag_embedder: BagOfWordsEmbedder) -> None:
    store = make_store()
    fill(store, bag_embedder, "hours.md", "v1", HOURS)
    fill(store, bag_embedder, "other.md", "v1", [Chunk(0, "", ("Other things.",))])
    fill(store, bag_embedder, "hours.md", "v2", [Chunk(0, "", ("We open at ten.",))])
    assert [item.sentence for item in store.sentences()] == ["We open at ten.", "Other things."]
    assert store.holds("hours.md", "v2")
    assert not store.holds("hours.md", "v1")
    store.remove("hours.md")
    assert [item.source for item in store.sentences()] == ["other.md"]


def test_hits_of_either_search_carry_their_cosine(make_store: MakeStore, bag_embedder: BagOfWordsEmbedder) -> None:
    store = make_store()
    fill(store, bag_embedder, "hours.md", "v1", HOURS)
    # A dense query far from the sentence that only the lexical search finds, and room for one hit of each.
    dense = bag_embedder.embed(["open nine hours"])[0]
    hits = {hit.stored.sentence: hit for hit in store.search(dense, query_vector("harbor"), limit=1)}
    assert set(hits) == {"We open at nine.", "Find us at the harbor."}
    stored = embed_sentences(bag_embedder, HOURS)
    assert hits["Find us at the harbor."].dense == pytest.approx(float(stored[2] @ dense), abs=1e-5)
    assert hits["Find us at the harbor."].sparse > 0
    assert hits["We open at nine."].sparse == 0


def test_a_rare_term_weighs_more_than_a_common_one(make_store: MakeStore, bag_embedder: BagOfWordsEmbedder) -> None:
    store = make_store()
    common = [
        Chunk(number, "", (f"The bicycle number {word}.",)) for number, word in enumerate(("red", "blue", "green"))
    ]
    fill(store, bag_embedder, "a.md", "v1", [*common, Chunk(3, "", ("The helmet.",))])
    hits = store.search(np.ones(64, dtype=np.float32) / 8, query_vector("bicycle helmet"), limit=4)
    assert max(hits, key=lambda hit: hit.sparse).stored.sentence == "The helmet."


def test_another_vector_length_is_refused_with_a_way_out(make_store: MakeStore) -> None:
    make_store()
    with pytest.raises(StorageError, match=r"64 where the embedder gives 32.*kb\.collection"):
        make_store(dimension=32)


def test_a_folder_in_use_says_so(tmp_path: Path) -> None:
    holder = VectorStore(path=tmp_path, dimension=4)
    with pytest.raises(StorageError, match=r"in use by another process.*qdrant_url"):
        VectorStore(path=tmp_path, dimension=4)
    holder.close()
    VectorStore(path=tmp_path, dimension=4).close()


def test_a_server_out_of_reach_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:9"):
        VectorStore(url="http://127.0.0.1:9", dimension=4)


def test_a_copy_finds_what_the_server_finds(server_url: str, bag_embedder: BagOfWordsEmbedder) -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    store = VectorStore(url=server_url, collection=name, dimension=bag_embedder.dimension, copy_sentences=10)
    fill(store, bag_embedder, "hours.md", "v1", HOURS)
    assert store.take_copy() == 3
    questions = ("where is the harbor", "when do you open", "zebra")

    def passages() -> list[tuple[Passage, ...]]:
        return [retrieve(store, bag_embedder, question, top_k=4) for question in questions]

    by_server = passages()
    with closing(QdrantClient(url=server_url, check_compatibility=False)) as client:
        client.delete_collection(name)
    by_copy = passages()
    assert store.away
    for one, other in zip(by_server, by_copy, strict=True):
        assert [replace(hit, dense=0, score=0) for hit in one] == [replace(hit, dense=0, score=0) for hit in other]
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=1e-5)
    store.close()
