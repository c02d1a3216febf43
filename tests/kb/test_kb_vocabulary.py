import importlib.util
import json
import re
from pathlib import Path

import pytest
from kb_fakes import SAMPLE, BagOfWordsEmbedder

from kb.arpa import END, START, TrigramModel
from kb.knowledge import KnowledgeBase, KnowledgeOptions
from kb.ledger import MemoryLedger
from kb.phrases import CALL_PHRASES, forms_of, questions_of, topics_of
from kb.pronounce import PHONES, Lexicon, guess, load_lexicon, with_s
from kb.store import VectorStore
from kb.vocabulary import write_vocabulary
from voice_agent.errors import StorageError

SENTENCES = (
    ("we repair bicycles", 1.0),
    ("we sell bicycles and helmets", 2.0),
    ("do you sell helmets", 3.0),
    ("do you repair helmets", 1.0),
)
MATERIAL = (["We repair bicycles for $15.", "Write to ask@zorbaltrix.example."], ["Opening hours"])


@pytest.mark.parametrize("prune", [1.0, 1.5])
def test_probabilities_sum_to_one_after_any_history(prune: float) -> None:
    model = TrigramModel([(text.split(), weight) for text, weight in SENTENCES], discount=0.5, prune=prune)
    histories = [
        (),
        (START,),
        ("you",),
        ("do", "you"),
        ("we", "sell"),
        ("helmets", "we"),
        ("and", "helmets"),
        ("never", "seen"),
    ]
    for history in histories:
        assert sum(model.probability(word, history) for word in model.vocabulary) == pytest.approx(1.0)
    assert START not in model.vocabulary
    assert END in model.vocabulary


def test_what_was_seen_is_likelier_than_what_was_not() -> None:
    model = TrigramModel([(text.split(), weight) for text, weight in SENTENCES], discount=0.5)
    assert model.probability("sell", ("do", "you")) > model.probability("repair", ("do", "you"))
    assert model.probability("repair", ("do", "you")) > model.probability("bicycles", ("do", "you")) > 0


def test_arpa_counts_agree_with_its_sections() -> None:
    model = TrigramModel([(text.split(), weight) for text, weight in SENTENCES], discount=0.5, prune=1.5)
    lines = list(model.arpa())
    for order in (1, 2, 3):
        announced = next(int(line.split("=")[1]) for line in lines if line.startswith(f"ngram {order}="))
        start = lines.index(f"\\{order}-grams:") + 1
        section = lines[start : lines.index("", start)]
        assert len(section) == announced
        for line in section:
            numbers = [part for part in line.split() if re.fullmatch(r"-?\d+\.\d+", part)]
            assert len(line.split()) - len(numbers) == order
            assert float(line.split()[0]) <= 0
    assert lines[-1] == "\\end\\"


def test_lexicon_derives_what_it_does_not_list() -> None:
    lexicon = Lexicon({"bike": ["B AY K"], "box": ["B AA K S"], "harbor": ["HH AA R B ER"], "street": ["S T R IY T"]})
    spoken = lexicon.pronounce(["bike", "bikes", "box's", "harborstreet", "bikes'", "zorb", "q" * 30])
    assert spoken.found["bikes"] == ("B AY K S",)
    assert spoken.found["box's"] == ("B AA K S IH Z",)
    assert spoken.found["harborstreet"] == ("HH AA R B ER S T R IY T",)
    assert spoken.guessed == ("bikes'", "zorb") or spoken.guessed == ("zorb",)
    assert spoken.skipped == ("q" * 30,)
    assert with_s("D AO G") == "D AO G Z"


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("zorb", "Z AO R B"),
        ("blick", "B L IH K"),
        ("trake", "T R EY K"),
        ("vshp", "V IY EH S EY CH P IY"),
        ("nation", "N AE SH AH N"),
    ],
)
def test_guesses_are_sensible(word: str, phones: str) -> None:
    assert guess(word) == phones


def test_guesses_use_only_phones_of_the_model() -> None:
    lexicon = load_lexicon()
    for word in list(lexicon.entries)[::37]:
        assert set(guess(word).split()) <= PHONES


def test_guesses_are_close_to_the_dictionary() -> None:
    lexicon = load_lexicon()
    words = [word for word in lexicon.entries if word.isalpha() and 4 <= len(word) <= 8][::97]
    errors = total = 0
    for word in words:
        best = min((_distance(guess(word).split(), listed.split()), listed) for listed in lexicon.entries[word])
        errors += best[0]
        total += len(best[1].split())
    assert errors / total < 0.40


def _distance(one: list[str], other: list[str]) -> int:
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        previous, row[0] = row[0], i
        for j, right in enumerate(other, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]


def test_statements_become_the_questions_they_answer() -> None:
    def questions(text: str) -> set[str]:
        return {" ".join(words) for words in questions_of(text.split())}

    assert "do you deliver in the city" in questions("we deliver in the city")
    assert "can i pay by card" in questions("you can pay by card")
    assert "are you open on sunday" in questions("we are not open on sunday")
    assert "how much does the club cost" in questions("the club costs thirty dollars")
    assert {"is a helmet included", "what is a helmet"} <= questions("a helmet is included")


def test_topics_are_runs_of_content_words() -> None:
    assert set(topics_of("we sell city bikes for twenty dollars".split())) == {
        ("sell",), ("city",), ("bikes",), ("sell", "city"), ("city", "bikes"), ("dollars",),
    }  # fmt: skip


def test_forms_are_only_those_in_the_dictionary() -> None:
    known = {"discount", "rent", "rents", "hope", "stories"}.__contains__
    assert list(forms_of("discounts", known)) == ["discount"]
    assert set(forms_of("renting", known)) == {"rent"}
    assert set(forms_of("hoped", known)) == {"hope"}


def test_vocabulary_is_complete_and_the_pointer_is_last(tmp_path: Path) -> None:
    stats = write_vocabulary(tmp_path, "v1", MATERIAL)
    assert (tmp_path / "current").read_text().strip() == "v1"
    assert "zorbaltrix" in stats.guessed
    dictionary = (tmp_path / "v1" / "kb.dict").read_text().splitlines()
    words = {line.split()[0].partition("(")[0] for line in dictionary}
    assert {"repair", "bicycles", "fifteen", "dollars", "zorbaltrix", "opening", "hello", "goodbye"} <= words
    assert len(words) == stats.words
    for line in dictionary:
        assert set(line.split()[1:]) <= PHONES
    arpa = (tmp_path / "v1" / "kb.arpa").read_text()
    unigrams = arpa.partition("\\1-grams:\n")[2].partition("\n\n")[0].splitlines()
    assert {line.split()[1] for line in unigrams} == words | {START, END}
    assert json.loads((tmp_path / "v1" / "meta.json").read_text())["kb_version"] == "v1"


def test_a_finished_vocabulary_is_not_made_again_and_old_ones_go(tmp_path: Path) -> None:
    first = write_vocabulary(tmp_path, "v1", MATERIAL)
    written = (tmp_path / "v1" / "kb.arpa").stat().st_mtime_ns
    assert write_vocabulary(tmp_path, "v1", MATERIAL) == first
    assert (tmp_path / "v1" / "kb.arpa").stat().st_mtime_ns == written
    for version in ("v2", "v3", "v4"):
        write_vocabulary(tmp_path, version, MATERIAL)
    assert (tmp_path / "current").read_text().strip() == "v4"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "v2", "v3", "v4"]


def test_a_damaged_vocabulary_says_what_to_do(tmp_path: Path) -> None:
    write_vocabulary(tmp_path, "v1", MATERIAL)
    (tmp_path / "v1" / "meta.json").write_text("{")
    with pytest.raises(StorageError, match="ingest again"):
        write_vocabulary(tmp_path, "v1", MATERIAL)


@pytest.mark.audio
@pytest.mark.skipif(importlib.util.find_spec("pocketsphinx") is None, reason="pocketsphinx is not installed")
def test_pocketsphinx_takes_the_sample_vocabulary_and_knows_its_words(tmp_path: Path) -> None:
    from pocketsphinx import Decoder, get_model_path

    embedder = BagOfWordsEmbedder()
    base = KnowledgeBase(
        store=VectorStore(dimension=embedder.dimension),
        embedder=embedder,
        ledger=MemoryLedger(),
        options=KnowledgeOptions(root=SAMPLE.parent, vocabulary_dir=tmp_path),
    )
    report = base.ingest([SAMPLE])
    assert report.vocabulary is not None
    assert report.vocabulary.skipped == ()
    folder = tmp_path / (tmp_path / "current").read_text().strip()
    assert folder.name == report.kb_version
    decoder = Decoder(
        hmm=str(Path(get_model_path()) / "en-us" / "en-us"),
        lm=str(folder / "kb.arpa"),
        dict=str(folder / "kb.dict"),
        loglevel="FATAL",
    )
    for word in ("overhaul", "wheelchair", "harborstreet", "goodbye", "football"):
        assert decoder.lookup_word(word)
    decoder.start_utt()
    decoder.process_raw(bytes(32000), False, False)
    decoder.end_utt()


def test_no_two_phrases_of_a_call_sound_the_same() -> None:
    """Two spellings of one sound share the recogniser's posterior, and neither is ever sure."""
    lexicon = load_lexicon()
    phrases = sorted({" ".join(phrase.split()) for phrase in CALL_PHRASES.split("|") if phrase.strip()})
    heard: dict[tuple[str, ...], str] = {}
    for phrase in phrases:
        found = lexicon.pronounce(phrase.split()).found
        sound = tuple(" ".join(found[word][0] for word in phrase.split() if word in found).split())
        assert heard.setdefault(sound, phrase) == phrase, f"{phrase!r} sounds like {heard[sound]!r}"
