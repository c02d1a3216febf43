"""What a Qdrant server holds is copied, and the copy answers while the server is away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kb_fakes import BagOfWordsEmbedder
from kb_server import LocalServer
from qdrant_client import QdrantClient

import kb.store
from kb.knowledge import KnowledgeBase, KnowledgeOptions
from kb.ledger import MemoryLedger
from kb.store import VectorStore
from voice_agent.errors import StorageError
from voice_agent.ports import COPY

Open = Callable[..., KnowledgeBase]


@pytest.fixture
def server() -> Iterator[LocalServer]:
    server = LocalServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def open_kb(server: LocalServer, tmp_path: Path) -> Iterator[Open]:
    """Knowledge bases of several processes: one server, one ledger."""
    ledger, embedder = MemoryLedger(), BagOfWordsEmbedder()
    opened: list[KnowledgeBase] = []

    def make(copy_sentences: int = 100) -> KnowledgeBase:
        store = VectorStore(url=server.url, dimension=embedder.dimension, copy_sentences=copy_sentences)
        options = KnowledgeOptions(root=tmp_path)
        opened.append(KnowledgeBase(store=store, embedder=embedder, ledger=ledger, options=options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def write(folder: Path, *sentences: str) -> Path:
    path = folder / "hours.md"
    path.write_text("# Hours\n\n" + " ".join(sentences) + "\n")
    return path


def found(base: KnowledgeBase, question: str = "when do you open") -> tuple[list[str], str]:
    response = base.search(question, 3)
    return [passage.sentence for passage in response.passages], response.engine


def test_a_copy_answers_like_the_server_until_that_is_back(server: LocalServer, open_kb: Open, tmp_path: Path) -> None:
    base = open_kb()
    base.ingest([write(tmp_path, "We open at nine.", "We close at five.")])
    base.look()
    before = base.search("when do you open on zanzibar", 3)
    assert (before.engine, base.away) == ("", "")
    server.stop()
    during = base.search("when do you open on zanzibar", 3)
    assert during.engine == COPY
    assert server.url in base.away
    assert [(hit.chunk_id, hit.sentence, hit.unknown) for hit in during.passages] == [
        (hit.chunk_id, hit.sentence, hit.unknown) for hit in before.passages
    ]
    assert [hit.score for hit in during.passages] == pytest.approx([hit.score for hit in before.passages])
    assert during.kb_version == before.kb_version
    base.look()
    assert found(base)[1] == COPY
    server.start()
    base.look()
    assert (found(base), base.away) == ((["We open at nine."], ""), "")


def test_the_copy_has_what_other_processes_brought_in(server: LocalServer, open_kb: Open, tmp_path: Path) -> None:
    writer, reader = open_kb(), open_kb()
    writer.ingest([write(tmp_path, "We open at nine.")])
    reader.look()
    writer.ingest([write(tmp_path, "We open at ten.")])
    reader.look()
    assert reader.version == writer.version
    server.stop()
    assert found(reader) == (["We open at ten."], COPY)


def test_a_change_that_fails_leaves_the_copy_as_it_was(server: LocalServer, open_kb: Open, tmp_path: Path) -> None:
    base = open_kb()
    base.ingest([write(tmp_path, "We open at nine.")])
    base.look()
    server.stop()
    with pytest.raises(StorageError):
        base.ingest([write(tmp_path, "We open at ten.")])
    assert found(base) == (["We open at nine."], COPY)


def test_a_server_that_hangs_is_waited_for_once(
    server: LocalServer, open_kb: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kb.store, "_SEARCH_TIMEOUT_S", 1)
    base = open_kb()
    base.ingest([write(tmp_path, "We open at nine.")])
    base.look()
    server.free.clear()
    before = server.searches
    assert [found(base) for _ in range(3)] == 3 * [(["We open at nine."], COPY)]
    assert server.searches == before + 1
    base.look()
    assert found(base)[1] == COPY, "it answers all but searches"
    server.free.set()
    base.look()
    assert found(base) == (["We open at nine."], "")


def test_a_server_that_comes_back_empty_is_not_asked_until_an_ingest_has_filled_it(
    server: LocalServer, open_kb: Open, tmp_path: Path
) -> None:
    base = open_kb()
    base.ingest([write(tmp_path, "We open at nine.")])
    base.look()
    with closing(QdrantClient(url=server.url, check_compatibility=False)) as client:
        client.delete_collection("kb")
    assert found(base) == (["We open at nine."], COPY)
    base.look()
    assert base.away, "it has no collection"
    open_kb()
    base.look()
    assert found(base) == (["We open at nine."], COPY), "another process has made an empty collection"
    base.ingest([tmp_path / "hours.md"])
    base.look()
    assert found(base) == (["We open at nine."], "")


def test_what_went_missing_and_came_back_is_in_the_copy(server: LocalServer, open_kb: Open, tmp_path: Path) -> None:
    base, other = open_kb(), open_kb()
    base.ingest([write(tmp_path, "We open at nine.")])
    with closing(QdrantClient(url=server.url, check_compatibility=False)) as client:
        client.delete_collection("kb")
    other = open_kb()
    other.look()
    base.ingest([tmp_path / "hours.md"])
    other.look()
    server.stop()
    assert found(other) == (["We open at nine."], COPY)


def test_what_is_too_much_is_not_copied_and_that_is_told(
    server: LocalServer, open_kb: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = open_kb(copy_sentences=1)
    base.ingest([write(tmp_path, "We open at nine.", "We close at five.")])
    base.look()
    base.look()
    assert [record.holds for record in caplog.records if "kb.copy_sentences" in record.message] == [2]
    server.stop()
    with pytest.raises(StorageError, match=r"check kb\.qdrant_url"):
        found(base)
