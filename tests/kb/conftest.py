import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kb_fakes import BagOfWordsEmbedder
from kb_server import LocalServer
from qdrant_client import QdrantClient

from kb.knowledge import KnowledgeBase, KnowledgeOptions
from kb.ledger import MemoryLedger
from kb.store import VectorStore


@pytest.fixture
def bag_embedder() -> BagOfWordsEmbedder:
    return BagOfWordsEmbedder()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The Qdrant server that QDRANT_URL names, or else a stand-in for one."""
    if url := os.environ.get("QDRANT_URL", ""):
        yield url
        return
    server = LocalServer()
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(params=["embedded", "server"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path, server_url: str) -> Iterator[Callable[[], VectorStore]]:
    """Opens the same store again on every call; the earlier one must be closed in the embedded case."""
    collection = f"test-{uuid.uuid4().hex[:12]}"
    opened: list[VectorStore] = []

    def make(dimension: int = 64) -> VectorStore:
        for store in opened:
            store.close()
        place = {"url": server_url} if request.param == "server" else {"path": tmp_path / "qdrant"}
        opened.append(VectorStore(collection=collection, dimension=dimension, **place))
        return opened[-1]

    yield make
    for store in opened:
        store.close()
    if request.param == "server":
        QdrantClient(url=server_url, check_compatibility=False).delete_collection(collection)


@pytest.fixture
def make_kb(tmp_path: Path, bag_embedder: BagOfWordsEmbedder) -> Iterator[Callable[..., KnowledgeBase]]:
    """A knowledge base in memory over files below `tmp_path`."""
    bases: list[KnowledgeBase] = []

    def make(**options: object) -> KnowledgeBase:
        bases.append(
            KnowledgeBase(
                store=VectorStore(dimension=bag_embedder.dimension),
                embedder=bag_embedder,
                ledger=MemoryLedger(),
                options=KnowledgeOptions(root=tmp_path, **options),
            )
        )
        return bases[-1]

    yield make
    for base in bases:
        base.close()
