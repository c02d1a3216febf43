"""Clauses, heard prefixes, and the judgements on words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_agent.dialog.clauses import ClauseSplitter
from voice_agent.dialog.completeness import Completeness, completeness
from voice_agent.dialog.heard import heard_prefix, word_ends
from voice_agent.dialog.history import History
from voice_agent.dialog.listening import (
    Pace,
    endpoint_silence_ms,
    interrupts,
    is_backchannel,
    is_echo,
    judge,
    sure_enough,
    surprises,
)
from voice_agent.dialog.policy import TurnPolicy
from voice_agent.ports import Message

SENTENCES = st.lists(
    st.sampled_from(
        ["We open at 9 a.m. on Monday.", "It costs $3.50, delivery included.", "Dr. Lee is in.", "Yes!", "ok"]
    ),
    min_size=1,
    max_size=6,
)


def clauses_of(text: str, size: int, **changes: int) -> list[str]:
    splitter = ClauseSplitter(**changes)
    out = []
    for start in range(0, len(text), size):
        out += splitter.feed(text[start : start + size])
    return out + splitter.finish()


@given(SENTENCES, st.integers(1, 40))
def test_clauses_are_the_text_however_it_streams(sentences: list[str], size: int) -> None:
    text = " ".join(sentences)
    assert " ".join(clauses_of(text, size)) == text


@given(SENTENCES, st.integers(1, 40))
def test_early_clauses_are_the_text_too(sentences: list[str], size: int) -> None:
    text = " ".join(sentences)
    assert " ".join(clauses_of(text, size, first_min_words=2)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("You can bring it back within two weeks.", ["You can bring it back", "within two weeks."]),
        ("Bring it to the shop today.", ["Bring it to the shop today."]),
        ("We open at nine on Monday.", ["We open at nine", "on Monday."]),
    ],
)
def test_the_first_clause_may_end_where_one_breathes(text: str, expected: list[str]) -> None:
    assert clauses_of(text, 1, first_min_words=4) == expected


@pytest.mark.parametrize(
    ("tokens", "first"),
    [
        (["You", " can", " bring", " it", " back", " if"], "You can bring it back"),
        (["You ", "can ", "bring ", "it ", "back ", "if "], "You can bring it back"),
        (["You", " can", " bring", " it", " back", " after"], None),  # "after" may be the last word, or "afternoon"
        (["You", " can", " if"], None),
    ],
)
def test_a_word_that_surely_turns_is_no_reason_to_wait_for_the_next(tokens: list[str], first: str | None) -> None:
    splitter = ClauseSplitter(first_min_words=4)
    clauses = [clause for token in tokens for clause in splitter.feed(token)]
    assert clauses == ([] if first is None else [first])
    assert " ".join(clauses + splitter.finish()) == "".join(tokens).strip()


@given(st.text(max_size=300), st.integers(1, 50))
def test_clauses_never_lose_a_word(text: str, size: int) -> None:
    got = " ".join(clauses_of(text, size)).split()
    words = text.split()
    assert [w for w in got if any(ch.isalnum() for ch in w)] == [w for w in words if any(ch.isalnum() for ch in w)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("We open at nine. We close at six.", ["We open at nine.", "We close at six."]),
        ("It is $3.50 today. Dr. Lee knows.", ["It is $3.50 today.", "Dr. Lee knows."]),
        (
            "Yes, you can rent a bicycle by the day, and a helmet is included.",
            ["Yes, you can rent a bicycle by the day,", "and a helmet is included."],
        ),
        ("...  \n", []),
    ],
)
def test_where_clauses_end(text: str, expected: list[str]) -> None:
    assert clauses_of(text, len(text)) == expected


@given(st.lists(st.text("abc,.", min_size=1, max_size=8), max_size=12), st.integers(0, 9000), st.integers(1, 9000))
def test_heard_is_a_prefix_that_grows(words: list[str], heard_ms: int, duration_ms: int) -> None:
    text = " ".join(words)
    heard = heard_prefix(text, heard_ms, duration_ms).split()
    assert words[: len(heard)] == heard
    assert len(heard_prefix(text, heard_ms + 50, duration_ms).split()) >= len(heard)
    assert heard_prefix(text, duration_ms, duration_ms).split() == words


def test_the_engines_own_word_times_count() -> None:
    assert word_ends("one two", 1000, (300, 1000)) == [300, 1000]
    assert heard_prefix("one two", 299, 1000, (300, 1000)) == ""
    assert heard_prefix("one two", 300, 1000, (300, 1000)) == "one"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Completeness.INCOMPLETE),
        ("when do you open on saturday", Completeness.COMPLETE),
        ("i would like to", Completeness.INCOMPLETE),
        ("my number is four one", Completeness.SPELLING),
        ("my number is one", Completeness.SPELLING),
        ("how much does it cost to rent a", Completeness.INCOMPLETE),
        ("what time do you open on", Completeness.INCOMPLETE),
        ("i have a question", Completeness.INCOMPLETE),
        ("i would like to order some", Completeness.INCOMPLETE),
        ("i need", Completeness.INCOMPLETE),
        ("what do you need", Completeness.COMPLETE),
        ("can i pay", Completeness.OPEN),
        ("how much does the delivery", Completeness.OPEN),
        ("my name is bell", Completeness.OPEN),
        ("do you open at nine", Completeness.COMPLETE),
        ("thank you very much", Completeness.COMPLETE),
        ("tell me about that", Completeness.COMPLETE),
        ("what time do you", Completeness.INCOMPLETE),
        ("when can i", Completeness.INCOMPLETE),
        ("i thank you", Completeness.COMPLETE),
        ("five", Completeness.SPELLING),
        ("goodbye", Completeness.OPEN),
        ("no", Completeness.OPEN),
    ],
)
def test_is_the_caller_done(text: str, expected: Completeness) -> None:
    assert completeness(text) is expected


def test_the_endpoint_follows_what_is_known() -> None:
    policy, pace = TurnPolicy(), Pace()
    assert endpoint_silence_ms(Completeness.COMPLETE, pace, policy) == policy.endpoint_short_ms
    assert endpoint_silence_ms(Completeness.INCOMPLETE, pace, policy) == policy.endpoint_long_ms
    assert endpoint_silence_ms(None, pace, policy) == policy.endpoint_ms


@pytest.mark.parametrize(
    ("text", "finished", "complete", "expected"),
    [
        ("when do you open", None, None, Completeness.COMPLETE),
        ("when do you open", None, 0.1, Completeness.INCOMPLETE),
        ("goodbye", None, 0.9, Completeness.COMPLETE),
        ("goodbye", None, 0.5, Completeness.OPEN),
        ("i would like to", None, 0.99, Completeness.INCOMPLETE),
        ("four one two", True, 0.1, Completeness.COMPLETE),
        ("when do you open", False, 0.9, Completeness.INCOMPLETE),
    ],
)
def test_a_filled_slot_beats_the_turn_model_and_that_beats_the_words(
    text: str, finished: bool | None, complete: float | None, expected: Completeness
) -> None:
    assert judge(text, finished, complete) is expected


def test_unsure_words_are_no_end_of_a_turn_unless_they_answer_what_was_asked() -> None:
    assert judge("when do you open", None, None, sure=False) is Completeness.INCOMPLETE
    assert judge("when do you open", None, 0.9, sure=False) is Completeness.INCOMPLETE
    assert judge("four one two", True, None, sure=False) is Completeness.COMPLETE


def test_the_callers_own_pauses_teach() -> None:
    policy = TurnPolicy()
    slow, quick = Pace([700, 800, 750]), Pace((), unbroken_turns=4)
    assert slow.fit(policy.endpoint_short_ms, policy) > 800
    assert slow.fit(policy.endpoint_short_ms, policy) <= policy.endpoint_long_ms
    assert policy.endpoint_min_ms <= quick.fit(policy.endpoint_short_ms, policy) < policy.endpoint_short_ms
    assert Pace([700]).fit(300, policy) > 700, "who was cut off once gets patience at once"
    assert Pace([700], unbroken_turns=3).fit(300, policy) < 300, "and loses it when it is not needed"


def test_only_a_pause_that_the_words_did_not_announce_teaches() -> None:
    assert [surprises(judged) for judged in (Completeness.COMPLETE, Completeness.OPEN, None)] == [True] * 3
    assert not surprises(Completeness.INCOMPLETE)
    assert not surprises(Completeness.SPELLING)


def test_figures_wait_by_their_own_beat() -> None:
    policy = TurnPolicy()
    waits = [endpoint_silence_ms(Completeness.SPELLING, Pace(in_turn_ms=ms), policy) for ms in (200, 400, 600, 1000)]
    assert waits == sorted(waits)
    assert waits[0] >= policy.endpoint_ms
    assert 600 < waits[2] <= waits[3] == policy.endpoint_long_ms
    assert 700 < endpoint_silence_ms(Completeness.SPELLING, Pace(), policy) <= policy.endpoint_long_ms


@pytest.mark.parametrize(
    ("text", "confidence", "expected"),
    [
        ("mhm", 0.9, False),
        ("yeah right", 0.9, False),
        ("", 0.9, False),
        ("stop", 0.9, True),
        ("when do you close", 0.2, False),
        ("we open at nine in the", 0.9, False),
        ("no i meant sunday", 0.9, True),
    ],
)
def test_what_takes_the_turn(text: str, confidence: float, expected: bool) -> None:
    assert interrupts(text, confidence, 1500, "We open at nine in the morning.", TurnPolicy()) is expected


@pytest.mark.parametrize(
    ("text", "confidence", "spoke_ms", "expected"),
    [
        ("the major member", 0.52, 1090, False),  # "mm hmm", to a recogniser of a bicycle shop
        ("do you have", 0.68, 350, False),  # "yeah"
        ("how much", 0.76, 720, True),
        ("can i rent a bike", 0.61, 1250, True),
        ("stop", 0.02, 300, True),
        ("stopping", 0.02, 300, False),
    ],
)
def test_short_speech_over_the_agent_must_be_surer(text: str, confidence: float, spoke_ms: int, expected: bool) -> None:
    assert interrupts(text, confidence, spoke_ms, "Delivery costs fifteen dollars.", TurnPolicy()) is expected


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 3000), st.integers(0, 3000), st.floats(0, 1))
def test_longer_and_surer_never_takes_the_turn_less(
    confidence: float, more: float, spoke_ms: int, longer_ms: int, least: float
) -> None:
    policy = TurnPolicy(barge_in_min_confidence=least)
    assert sure_enough(1.0, spoke_ms, policy), "what is certain counts, however short"
    if sure_enough(confidence, spoke_ms, policy):
        assert confidence >= least
        assert sure_enough(max(confidence, more), max(spoke_ms, longer_ms), policy)


def test_nods_and_echoes() -> None:
    assert is_backchannel("Okay.")
    assert not is_backchannel("okay but when")
    assert is_echo("nine in the morning", "We open at nine in the morning.")
    assert not is_echo("morning the in nine", "We open at nine in the morning.")
    assert is_echo("nine", "We open at nine in the morning.")
    assert not is_echo("stop", "The bus will stop in front of our shop.")


def test_history_joins_one_voice_and_stays_bounded() -> None:
    history = History(max_messages=3)
    for role, text in [
        ("user", "a"),
        ("user", "b"),
        ("assistant", ""),
        ("assistant", "c"),
        ("user", "d"),
        ("assistant", "e"),
    ]:
        history.add(role, text)
    assert history.messages == [Message("assistant", "c"), Message("user", "d"), Message("assistant", "e")]
    assert history.prompt("s", "q")[-1] == Message("user", "q")
    assert len(history.messages) == 3
