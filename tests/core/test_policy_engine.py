"""What rules make of a text: who acts, who is counted, what it costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_agent.errors import ConfigError
from voice_agent.policy.engine import OVERRUNS, PolicyAction, PolicyEngine
from voice_agent.policy.phrases import MAX_PHRASES, PhraseTree, expand
from voice_agent.policy.rules import (
    Abuse,
    Disclosure,
    Escalate,
    Failures,
    ForbiddenSpeech,
    ForbiddenTopic,
    Match,
    PolicySet,
    Redact,
)
from voice_agent.policy.tokens import tokens_of


def words(*phrases: str, patterns: tuple[str, ...] = ()) -> Match:
    return Match(tuple(phrase for written in phrases for phrase in expand(written)), patterns)


ABUSE = Abuse("abuse", words("you idiot"), "Be polite.", "Goodbye.", warn_after=1, end_after=3)
HUMAN = Escalate("human", words("(speak|talk) to [a] human"), "One moment.", "Nobody is here.", "support")
TOPIC = ForbiddenTopic("law", words("legal advice", patterns=(r"\bsue\b",)), "I cannot advise you on that.")
SECRETS = Redact("secrets", ("card",), ("stored", "model", "spoken"))
CONTACTS = Redact("contacts", ("phone", "email"), ("stored",))
CARD = "4111 1111 1111 1111"


def engine(*rules: object) -> PolicyEngine:
    return PolicyEngine(PolicySet(tuple(rules)))  # type: ignore[arg-type]


def test_a_policy_without_rules_lets_everything_pass() -> None:
    policy = engine()
    verdict = policy.heard(f"my card is {CARD}", {"failures": 1})
    assert (verdict.text, verdict.action, verdict.findings) == (f"my card is {CARD}", None, ())
    assert verdict.counts == {"failures": 1}
    assert policy.about_to_say("hello").text == "hello"
    assert policy.redact(CARD) == CARD
    assert policy.disclosures() == ()
    assert policy.after_failures({"failures": 99}) is None


def test_abuse_warns_and_then_ends_the_call_when_it_goes_on() -> None:
    policy, counts, said = engine(ABUSE), {"failures": 2}, []
    for text in ("you idiot", "You, idiot!", "you IDIOT"):
        verdict = policy.heard(text, counts)
        counts = verdict.counts
        said.append(verdict.action)
        assert verdict.findings == ("abuse",)
    assert said == [
        PolicyAction("say", "Be polite."),
        PolicyAction("say", "Be polite."),
        PolicyAction("end_call", "Goodbye."),
    ]
    assert counts == {"failures": 2, "abuse": 3}


def test_a_polite_turn_starts_the_count_again() -> None:
    policy = engine(ABUSE)
    counts = policy.heard("you idiot", {}).counts
    assert policy.heard("when do you open", counts).counts == {"abuse": 0}
    assert policy.heard("you idiot", {"abuse": 0}).action == PolicyAction("say", "Be polite.")


def test_first_rule_that_wants_to_act_does_but_all_are_found() -> None:
    text = "let me talk to a human you idiot"
    human_first, abuse_first = engine(HUMAN, ABUSE).heard(text, {}), engine(ABUSE, HUMAN).heard(text, {})
    assert human_first.action == PolicyAction("transfer", "One moment.", "support")
    assert abuse_first.action == PolicyAction("say", "Be polite.")
    assert set(human_first.findings) == set(abuse_first.findings) == {"human", "abuse"}
    assert human_first.counts == {"abuse": 1}


def test_nobody_to_transfer_to_is_told() -> None:
    alone = Escalate("human", HUMAN.match, "One moment.", "Nobody is here.")
    assert engine(alone).heard("I want to speak to a human", {}).action == PolicyAction("say", "Nobody is here.")


def test_topics_by_phrase_and_by_pattern() -> None:
    policy = engine(TOPIC)
    for text in ("I need legal advice", "can I SUE you"):
        assert policy.heard(text, {}).action == PolicyAction("say", TOPIC.say)
    assert policy.heard("I bought an issue of the legal times for advice", {}).action is None


def test_after_failures_in_a_row() -> None:
    policy = engine(Failures("f", "I will connect you.", 3, "support"))
    assert policy.after_failures({"failures": 2}) is None
    assert policy.after_failures({}) is None
    assert policy.after_failures({"failures": 3}) == PolicyAction("transfer", "I will connect you.", "support")
    for inert in (Failures("f", "x", 0, "support"), Failures("f", "x", 3, "")):
        assert engine(inert).after_failures({"failures": 9}) is None


def test_the_model_sees_contacts_but_no_secrets() -> None:
    verdict = engine(SECRETS, CONTACTS).heard(f"card {CARD}, call 555-867-5309", {})
    assert verdict.text == "card [card], call 555-867-5309"
    assert verdict.findings == ("secrets",)
    assert engine(SECRETS, CONTACTS).redact(f"card {CARD}, call 555-867-5309") == "card [card], call [phone]"


def test_the_agent_does_not_read_out_secrets() -> None:
    verdict = engine(SECRETS, CONTACTS).about_to_say(f"So your card is {CARD}.")
    assert (verdict.text, verdict.action) == ("So your card is a card number.", None)
    assert verdict.findings == ("secrets",)


@pytest.mark.parametrize(
    ("rule", "text", "action"),
    [
        (ForbiddenSpeech("s", words("we guarantee"), "I can't promise that."), "I can't promise that.", True),
        (ForbiddenSpeech("s", words("we guarantee"), "", stop=False), "", False),
        (ForbiddenSpeech("s", Match(patterns=(r"guarantee\w*",)), "", stop=True), "", True),
    ],
)
def test_forbidden_speech_is_replaced_or_dropped(rule: ForbiddenSpeech, text: str, action: bool) -> None:
    verdict = engine(rule).about_to_say("Yes, we guarantee it.")
    assert (verdict.text, verdict.action is not None, verdict.findings) == (text, action, ("s",))
    assert engine(rule).about_to_say("Yes, of course.").text == "Yes, of course."


def test_disclosures_in_order() -> None:
    assert engine(Disclosure("a", "Recorded."), ABUSE, Disclosure("b", "Automated.")).disclosures() == (
        "Recorded.",
        "Automated.",
    )


def test_private_data_that_began_before_is_masked_where_it_ends() -> None:
    policy = engine(SECRETS)
    assert policy.redact("1111 1111 that is it", before="my card is 4111 1111") == "[card] that is it"
    assert policy.redact("1111 1111 that is it", before="room 12") == "1111 1111 that is it"


# --- costs ---


class Clock:
    """Time goes on by ``step_s`` at each look."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.step_s = 0.0

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def test_runs_and_time_are_counted_by_rule() -> None:
    clock = Clock()
    clock.step_s = 0.0001
    policy = PolicyEngine(PolicySet((ABUSE, SECRETS)), clock)
    policy.heard("one", {})
    policy.heard("two", {})
    counted = policy.statistics()
    assert (counted["abuse"].runs, counted["secrets"].runs) == (2, 2)
    assert counted["abuse"].total_ms == pytest.approx(0.2)
    assert counted["abuse"].overruns == 0


def test_a_rule_that_is_late_again_and_again_is_told_once_and_still_runs() -> None:
    clock = Clock()
    policy = PolicyEngine(PolicySet((ABUSE,)), clock)
    clock.step_s = 1.0
    told = []
    for number in range(2 * OVERRUNS):
        assert policy.heard(f"you idiot {number}", {}).findings == ("abuse",)
        told.append(policy.take_late())
    assert told == [[]] * (OVERRUNS - 1) + [["abuse"]] + [[]] * OVERRUNS
    assert policy.statistics()["abuse"].overruns == 2 * OVERRUNS
    clock.step_s = 0.0
    policy.heard("you idiot", {})
    assert not policy.statistics()["abuse"].late
    clock.step_s = 1.0
    for number in range(OVERRUNS):
        policy.heard(f"again {number}", {})
    assert policy.take_late() == ["abuse"]


# --- phrases ---


def test_phrases_are_spread_out() -> None:
    assert set(expand("(speak|talk to) [a|the] human")) == {
        ("speak", "human"),
        ("speak", "a", "human"),
        ("speak", "the", "human"),
        ("talk", "to", "human"),
        ("talk", "to", "a", "human"),
        ("talk", "to", "the", "human"),
    }
    assert expand("Don’t  shout!") == (("don't", "shout"),)


@pytest.mark.parametrize("written", ["", "a (b", "a) b", "(a|(b|c))", "[a]", "[a] [b|c]", "!", "(|a)", "(a|b) " * 12])
def test_phrases_that_make_no_sense_are_refused(written: str) -> None:
    with pytest.raises(ConfigError):
        expand(written)


def test_a_phrase_may_stand_for_many() -> None:
    assert len(expand("(a|b|c|d|e|f|g) " * 3 + "[x|y]")) == 7**3 * 3 < MAX_PHRASES


vocabulary = st.sampled_from("a b c d".split())
texts = st.lists(vocabulary, max_size=12)


@given(st.lists(st.lists(vocabulary, min_size=1, max_size=4), max_size=6), texts)
def test_the_tree_finds_what_a_plain_search_finds(phrases: list[list[str]], text: list[str]) -> None:
    found = PhraseTree(tuple(phrase) for phrase in phrases).found(tokens_of(" ".join(text)))
    assert found == any(text[place : place + len(phrase)] == phrase for phrase in phrases for place in range(len(text)))
