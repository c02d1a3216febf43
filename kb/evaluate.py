"""Measure retrieval on a file of questions: recall, rank, and whether the gates keep foreign questions out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from voice_agent.errors import ConfigError
from voice_agent.ports import Passage, SearchResponse

Search = Callable[[str, int], SearchResponse]


@dataclass(frozen=True, slots=True)
class Question:
    """A question the knowledge base answers; ``sentences`` are beginnings of right answers, ``source`` a file name."""

    text: str
    source: str
    sentences: tuple[str, ...]

    def answered_by(self, passage: Passage) -> bool:
        """Whether the passage's best sentence is a right answer."""
        return Path(passage.source).name == self.source and passage.sentence.startswith(self.sentences)


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions with an answer, and questions without."""

    in_domain: tuple[Question, ...]
    out_of_domain: tuple[str, ...]

    def texts(self) -> tuple[str, ...]:
        """Every question."""
        return (*(question.text for question in self.in_domain), *self.out_of_domain)

    def as_heard(self, heard: Mapping[str, str]) -> QuestionSet:
        """The same questions as a recogniser heard them."""
        inside = tuple(replace(question, text=heard[question.text]) for question in self.in_domain)
        return QuestionSet(inside, tuple(heard[text] for text in self.out_of_domain))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Shares in [0, 1] over the in-domain questions, unless said.

    Attributes:
        questions: how many were in the domain; ``foreign`` were not.
        top1: first passage's sentence is a right answer.
        recall: a right answer is among the sentences of the ``top_k`` passages (recall@k).
        document_recall: a right answer's document is among the ``top_k`` passages' documents.
        mrr: mean reciprocal rank of the first passage whose sentence is a right answer (0 when none).
        gate_accuracy: over all questions: in-domain ones let through, foreign ones kept out, by ``min_dense``.
        lowest_dense: smallest first cosine of an in-domain question that was answered right.
        highest_foreign_dense: largest first cosine of a foreign question.
        wrong: (question, sentence given) for each in-domain question whose first sentence is wrong.
    """

    questions: int
    foreign: int
    top_k: int
    min_dense: float
    top1: float
    recall: float
    document_recall: float
    mrr: float
    gate_accuracy: float
    lowest_dense: float
    highest_foreign_dense: float
    wrong: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "wrong": [list(pair) for pair in self.wrong]}


def load_questions(path: Path) -> QuestionSet:
    """Read a question file (see ``kb/sample/questions.yaml``).

    Raises:
        ConfigError: it cannot be read, or an entry is not as it should be; the message names file and entry.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or set(content) != {"in_domain", "out_of_domain"}:
        raise ConfigError(f"{path}: the keys must be in_domain and out_of_domain")
    inside = tuple(_question(path, number, item) for number, item in enumerate(content["in_domain"] or (), start=1))
    return QuestionSet(inside, tuple(str(text) for text in content["out_of_domain"] or ()))


def _question(path: Path, number: int, item: Any) -> Question:
    if not isinstance(item, dict) or set(item) != {"question", "source", "sentence"}:
        raise ConfigError(f"{path}: in_domain entry {number} needs the keys question, source and sentence")
    sentences = item["sentence"]
    listed = [sentences] if isinstance(sentences, str) else list(sentences)
    return Question(str(item["question"]), str(item["source"]), tuple(str(sentence) for sentence in listed))


def evaluate(search: Search, questions: QuestionSet, *, top_k: int = 4, min_dense: float = 0.40) -> Evaluation:
    """Ask every question and count.

    Raises:
        ConfigError: there are no in-domain questions.
        StorageError: the store failed.
    """
    if not questions.in_domain:
        raise ConfigError("there are no in-domain questions to measure with")
    found = [(question, search(question.text, top_k).passages) for question in questions.in_domain]
    foreign = [_first_dense(search(text, top_k).passages) for text in questions.out_of_domain]
    ranks = [_rank(question, passages) for question, passages in found]
    right = [_first_dense(passages) for (_, passages), rank in zip(found, ranks, strict=True) if rank == 1]
    let_through = sum(_first_dense(passages) >= min_dense for _, passages in found)
    kept_out = sum(dense < min_dense for dense in foreign)
    count = len(found)
    return Evaluation(
        questions=count,
        foreign=len(foreign),
        top_k=top_k,
        min_dense=min_dense,
        top1=ranks.count(1) / count,
        recall=sum(rank > 0 for rank in ranks) / count,
        document_recall=sum(_has_source(question, passages) for question, passages in found) / count,
        mrr=sum(1 / rank for rank in ranks if rank) / count,
        gate_accuracy=(let_through + kept_out) / (count + len(foreign)),
        lowest_dense=min(right, default=0.0),
        highest_foreign_dense=max(foreign, default=0.0),
        wrong=tuple(
            (question.text, passages[0].sentence if passages else "")
            for (question, passages), rank in zip(found, ranks, strict=True)
            if rank != 1
        ),
    )


def _rank(question: Question, passages: Sequence[Passage]) -> int:
    """Place of the first right passage, from 1; 0 when there is none."""
    return next((place for place, passage in enumerate(passages, start=1) if question.answered_by(passage)), 0)


def _has_source(question: Question, passages: Sequence[Passage]) -> bool:
    return any(Path(passage.source).name == question.source for passage in passages)


def _first_dense(passages: Sequence[Passage]) -> float:
    """Cosine of the first passage; below every gate when there is none."""
    return passages[0].dense if passages else -1.0
