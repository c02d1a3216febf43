"""``kb evaluate --spoken``: questions asked aloud of the real recogniser, and retrieval on what it heard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import kb
from cluster import spoken_questions
from cluster.cli import app
from configs.loader import resolve
from voice_agent.errors import ConfigError, EngineUnavailableError

SAMPLE = Path(kb.__path__[0]) / "sample"
QUESTIONS = """
in_domain:
  - {question: how long is the warranty, source: service-and-warranty.md, sentence: Every new bicycle comes}
  - {question: when do you close on saturday, source: hours-and-location.md, sentence: On Saturday we open}
out_of_domain: [tell me a joke]
"""


@pytest.mark.audio
@pytest.mark.timeout(280)
def test_what_is_heard_of_a_question_is_searched_whole_and_in_part(tmp_path: Path) -> None:
    (tmp_path / "questions.yaml").write_text(QUESTIONS)
    sources = [str(SAMPLE / name) for name in ("service-and-warranty.md", "hours-and-location.md")]
    settings = resolve("embedded", None, [f"kb.sources={json.dumps(sources)}"], env={}).settings
    try:
        found = spoken_questions.evaluate(settings, tmp_path / "questions.yaml", 4, "rms")
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    whole, part = found["rms"], found["rms, first 60%"]
    assert (whole["questions"], whole["foreign"]) == (2, 1)
    assert whole["recall"] == whole["mrr"] == 1.0
    assert whole["word_error_rate"] <= 0.4
    assert part["mrr"] <= whole["mrr"]
    assert json.dumps(found)


def test_a_simulated_recogniser_is_no_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = resolve("simulated", None, (), env={}).settings
    with pytest.raises(ConfigError, match="hears nothing"):
        spoken_questions._recogniser(settings, str(tmp_path))


@pytest.mark.parametrize(
    ("heard", "rate"),
    [
        ("we open at nine", 0.0),
        ("we open nine", 0.25),
        ("we open at at nine", 0.25),
        ("", 1.0),
        ("no no no no no", 1.25),
    ],
)
def test_the_word_error_rate_counts_words_put_in_left_out_and_exchanged(heard: str, rate: float) -> None:
    assert spoken_questions.word_error_rate({"We open at nine": heard}) == rate


def test_a_table_has_a_column_for_each_way_of_asking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = {"questions": 2, "foreign": 1, "recall": 1.0, "document_recall": 1.0, "mrr": 0.75, "top1": 0.5}
    one |= {"gate_accuracy": 1.0, "min_dense": 0.4, "lowest_dense": 0.5, "highest_foreign_dense": 0.2, "wrong": []}
    monkeypatch.setattr("cluster.knowledge.evaluate", lambda *_: one)
    monkeypatch.setattr(
        "cluster.spoken_questions.evaluate", lambda *_: {"rms": one | {"word_error_rate": 0.125, "mrr": 0.5}}
    )
    monkeypatch.chdir(tmp_path)
    lines = CliRunner().invoke(app, ["kb", "evaluate", "--spoken", "rms"]).output.splitlines()
    assert lines[0].split("\t") == ["measure", "written", "rms"]
    assert "MRR\t0.750\t0.500" in lines
    assert "word error rate\t\t0.125" in lines
