from collections.abc import Callable
from pathlib import Path

import pytest
from kb_pdf_writer import RIDERS_CLUB, make_pdf

from kb.knowledge import KnowledgeBase
from kb.ledger import DocumentEntry, FileLedger
from voice_agent.errors import DocumentError, StorageError

MakeKb = Callable[..., KnowledgeBase]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    (docs / "sub").mkdir(parents=True)
    (docs / "hours.md").write_text("# Hours\nWe open at nine.\n")
    (docs / "sub" / "place.txt").write_text("Find us at the harbor.\n")
    (docs / "club.pdf").write_bytes(make_pdf(RIDERS_CLUB))
    (docs / "notes.yaml").write_text("a: 1\n")
    (docs / ".hidden.md").write_text("secret\n")
    return docs


def test_first_ingest_adds_everything_readable(make_kb: MakeKb, folder: Path) -> None:
    base = make_kb()
    seen: list[tuple[int, int, str]] = []
    report = base.ingest([folder], lambda *step: seen.append(step))
    assert report.added == ("docs/club.pdf", "docs/hours.md", "docs/sub/place.txt")
    assert report.ignored == ("docs/notes.yaml",)
    assert not report.failed
    assert report.kb_version == base.version != "empty"
    assert seen == [(0, 3, "docs/club.pdf"), (1, 3, "docs/hours.md"), (2, 3, "docs/sub/place.txt")]
    assert base.search("where is the harbor", 1).passages[0].source == "docs/sub/place.txt"
    assert base.search("where is the harbor", 1).kb_version == report.kb_version


def test_unchanged_files_cost_nothing_and_keep_the_version(make_kb: MakeKb, folder: Path) -> None:
    base = make_kb()
    first = base.ingest([folder])
    second = base.ingest([folder])
    assert second.unchanged == first.added
    assert second.added == second.changed == second.removed == ()
    assert second.kb_version == first.kb_version


def test_a_changed_file_replaces_its_sentences(make_kb: MakeKb, folder: Path) -> None:
    base = make_kb()
    first = base.ingest([folder])
    (folder / "hours.md").write_text("# Hours\nWe open at ten.\n")
    second = base.ingest([folder])
    assert second.changed == ("docs/hours.md",)
    assert second.kb_version != first.kb_version
    assert base.search("when do you open", 1).passages[0].sentence == "We open at ten."
    assert {item["source"]: item["version"] for item in base.documents()}["docs/hours.md"] == 2
    (folder / "hours.md").write_text("# Hours\nWe open at nine.\n")
    assert base.ingest([folder]).kb_version == first.kb_version


def test_a_file_gone_from_an_ingested_folder_is_removed(make_kb: MakeKb, folder: Path) -> None:
    base = make_kb()
    base.ingest([folder])
    (folder / "hours.md").unlink()
    # Only the folder that is ingested is compared.
    assert base.ingest([folder / "sub"]).removed == ()
    assert base.ingest([folder]).removed == ("docs/hours.md",)
    assert all(passage.source != "docs/hours.md" for passage in base.search("when do you open", 9).passages)


def test_a_broken_file_is_reported_and_the_rest_ingested(make_kb: MakeKb, folder: Path) -> None:
    base = make_kb()
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 broken")
    report = base.ingest([folder, folder / "missing.md", folder / "notes.yaml"])
    assert len(report.added) == 3
    reasons = dict(report.failed)
    assert set(reasons) == {"docs/broken.pdf", "docs/missing.md", "docs/notes.yaml"}
    assert "not supported" in reasons["docs/notes.yaml"]


def test_a_file_that_became_unreadable_keeps_its_last_version(make_kb: MakeKb, folder: Path) -> None:
    base = make_kb()
    first = base.ingest([folder])
    (folder / "hours.md").write_bytes(b"\xff\xfe\x00")
    report = base.ingest([folder])
    assert [source for source, _ in report.failed] == ["docs/hours.md"]
    assert report.kb_version == first.kb_version
    assert base.search("when do you open", 1).passages[0].sentence == "We open at nine."


def test_sentences_lost_from_the_store_are_put_back(make_kb: MakeKb, folder: Path) -> None:
    base = make_kb()
    base.ingest([folder])
    base._store.remove("docs/hours.md")
    assert base.ingest([folder]).changed == ("docs/hours.md",)
    assert base.search("when do you open", 1).passages[0].sentence == "We open at nine."
    assert {item["version"] for item in base.documents()} == {1}


def test_remove(make_kb: MakeKb, folder: Path) -> None:
    base = make_kb()
    base.ingest([folder])
    with pytest.raises(DocumentError, match=r"did you mean docs/hours\.md\?"):
        base.remove("hours.md")
    report = base.remove("docs/hours.md")
    assert report.removed == ("docs/hours.md",)
    assert [item["source"] for item in base.documents()] == ["docs/club.pdf", "docs/sub/place.txt"]
    for source in ("docs/club.pdf", "docs/sub/place.txt"):
        report = base.remove(source)
    assert report.kb_version == "empty"
    assert base.search("anything", 3).passages == ()


def test_search_without_words_finds_nothing(make_kb: MakeKb, folder: Path) -> None:
    base = make_kb()
    base.ingest([folder])
    assert base.search("  ", 3).passages == ()
    assert base.search("the of and", 2).passages != ()


def test_report_is_plain_for_the_wire(make_kb: MakeKb, folder: Path) -> None:
    plain = make_kb().ingest([folder, folder / "gone.md"]).as_dict()
    assert plain["added"] == ["docs/club.pdf", "docs/hours.md", "docs/sub/place.txt"]
    assert list(plain["failed"]) == ["docs/gone.md"]
    assert plain["vocabulary"] is None


def test_file_ledger_survives_and_refuses_damage(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    entry = DocumentEntry("a.md", "A", "hash", 2, 10)
    ledger = FileLedger(path)
    ledger.put(entry)
    ledger.record_version("abc", documents=1, chunks=2)
    again = FileLedger(path)
    assert again.entries()["a.md"].version == 1
    again.put(DocumentEntry("a.md", "A", "hash2", 2, 10))
    again.remove("nothing")
    assert FileLedger(path).entries()["a.md"].version == 2
    path.write_text("{}")
    with pytest.raises(StorageError, match="not a document ledger"):
        FileLedger(path)
