import pytest

from kb.sentences import as_sentence, split_sentences
from kb.spoken import cardinal, ordinal, spoken_words
from kb.terms import document_vector, query_vector, stem, term_share, terms


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("We open at 9 a.m. Monday to Friday. Come in!", ["We open at 9 a.m. Monday to Friday.", "Come in!"]),
        ("We close at 5 p.m. On Sunday we rest.", ["We close at 5 p.m.", "On Sunday we rest."]),
        (
            "Ask Mr. Bell, e.g. J. Smith. It costs 3.50 dollars.",
            ["Ask Mr. Bell, e.g. J. Smith.", "It costs 3.50 dollars."],
        ),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("Really?! Yes… No", ["Really?!", "Yes…", "No"]),
        ("", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert list(split_sentences(text)) == sentences


def test_as_sentence_ends_once() -> None:
    assert [as_sentence(text) for text in ("one", "two.", "three?", "four,", "")] == [
        "one.",
        "two.",
        "three?",
        "four.",
        "",
    ]


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Mon-Fri 9:00-17:30", "monday to friday nine o'clock to five thirty p.m."),
        ("9am-5pm", "nine a.m. to five p.m."),
        ("at 9:05 A.M.", "at nine oh five a.m."),
        ("0:30", "twelve thirty"),
        (
            "$1,250.50 or £1 or €20",
            "one thousand two hundred fifty dollars and fifty cents or one pound or twenty euros",
        ),
        ("$0.99", "ninety nine cents"),
        ("call 555-0142", "call five five five zero one four two"),
        ("since 1998, 2005 and 2024", "since nineteen ninety eight two thousand five and twenty twenty four"),
        ("write to a.b@shop.example", "write to a dot b at shop dot example"),
        ("see www.shop.com/sale", "see www dot shop dot com slash sale"),
        ("3.5 stars, 20% off, 15 km", "three point five stars twenty percent off fifteen kilometers"),
        ("the 21st, 2nd and 12th", "the twenty first second and twelfth"),
        ("St. James & Co.", "street james and co"),
        ("the café’s bikes' 24/7 sun", "the cafe's bikes twenty four seven sun"),
        ("10-15 items, 10–15", "ten to fifteen items ten to fifteen"),
    ],
)
def test_spoken_words(text: str, spoken: str) -> None:
    assert " ".join(spoken_words(text)) == spoken


def test_numbers() -> None:
    assert cardinal(1_000_001) == "one million one"
    assert cardinal(-5) == "minus five"
    assert [ordinal(number) for number in (1, 20, 33, 100)] == ["first", "twentieth", "thirty third", "one hundredth"]


def test_written_and_spoken_forms_are_the_same_terms() -> None:
    assert terms("Open 9 a.m., $15") == terms("open nine a.m. fifteen dollars")


@pytest.mark.parametrize(
    "pair",
    [
        ("bicycles", "bicycle"),
        ("repairs", "repairing"),
        ("prices", "price"),
        ("company", "companies"),
        ("stopped", "stop"),
    ],
)
def test_stems_join_forms(pair: tuple[str, str]) -> None:
    assert stem(pair[0]) == stem(pair[1])


def test_term_share_counts_informative_words_only() -> None:
    query = frozenset(terms("do you have a warranty on the frame"))
    assert term_share(query, "The frame has a warranty.") == 1.0
    assert term_share(query, "The frame is blue.") == 0.5
    assert term_share(frozenset(terms("do you have the")), "anything") == 0.0


def test_sparse_vectors_meet_in_the_same_dimensions() -> None:
    query, document = query_vector("cheap bikes"), document_vector("a bike, a bike and a helmet")
    assert len(query.keys() & document.keys()) == 1
    assert document[next(iter(query.keys() & document.keys()))] > 1.0
