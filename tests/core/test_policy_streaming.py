"""What a model streams is judged before it is spoken, wherever a chunk or a clause ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_call_director import FlowWorld
from test_policy_engine import CARD, SECRETS, words

from voice_agent.call_director import CallDirector
from voice_agent.dialog import commands as c
from voice_agent.dialog import events as e
from voice_agent.dialog.clauses import ClauseSplitter
from voice_agent.dialog.policy import AgentPhrases
from voice_agent.policy.engine import PolicyEngine
from voice_agent.policy.phrases import PhraseTree, expand
from voice_agent.policy.rules import Disclosure, ForbiddenSpeech, PolicySet
from voice_agent.policy.tokens import tokens_of

PROMISE = ForbiddenSpeech("promise", words("we guarantee a full refund", patterns=(r"trust me",)), "I cannot promise.")
DROPPED = ForbiddenSpeech("promise", PROMISE.match, stop=False)
FILL = st.lists(
    st.sampled_from(["Of course,", "for you and", "with pleasure.", "Well;", "in this shop", "We open at nine."]),
    max_size=8,
).map(" ".join)


def spoken(text: str, size: int, first_min_words: int, *rules: object) -> str:
    """What is said of a reply that streams in pieces of ``size``."""
    director = CallDirector(AgentPhrases(), PolicyEngine(PolicySet(tuple(rules))))  # type: ignore[arg-type]
    splitter, said = ClauseSplitter(first_min_words=first_min_words), list[str]()
    clauses = [clause for at in range(0, len(text), size) for clause in splitter.feed(text[at : at + size])]
    for clause in clauses + splitter.finish():
        checked = director.check(clause, " ".join(said))
        said += [checked.text] if checked.text else []
        if checked.stop:
            break
    return " ".join(said)


@given(FILL, FILL, st.integers(1, 60), st.integers(0, 3), st.sampled_from([PROMISE, DROPPED]))
@pytest.mark.parametrize("phrase", ["we guarantee, a full refund", "We guarantee. A full refund", "Trust me"])
def test_a_forbidden_phrase_is_never_spoken_whole(
    phrase: str, before: str, after: str, size: int, first_words: int, rule: ForbiddenSpeech
) -> None:
    said = spoken(f"{before} {phrase} {after}.", size, first_words, rule)
    assert not PhraseTree(expand("we guarantee a full refund")).found(tokens_of(said))
    assert "trust me" not in said.lower()


@given(FILL, st.integers(1, 60), st.integers(0, 3))
@pytest.mark.parametrize("written", [CARD, CARD.replace(" ", ", "), "four one one one, " + "one one one one, " * 3])
def test_a_card_number_is_never_spoken_whole(written: str, before: str, size: int, first_words: int) -> None:
    said = spoken(f"{before} Your card is {written} as you say.", size, first_words, SECRETS)
    assert PolicyEngine(PolicySet((SECRETS,))).redact(said) == said
    assert "a card number" in said


def test_a_number_that_is_read_in_groups_stays_in_one_clause() -> None:
    text = "Our number is five five five, eight six seven, five three zero nine, and we open at nine."
    splitter = ClauseSplitter()
    assert splitter.feed(text)[0] == "Our number is five five five, eight six seven, five three zero nine,"


def test_what_a_rule_gives_instead_does_not_forbid_all_that_follows() -> None:
    rule = ForbiddenSpeech("promise", words("promise"), "I cannot promise that.", stop=False)
    assert spoken("I promise. We open at nine.", 5, 0, rule) == "I cannot promise that. We open at nine."


DISCLOSED = PolicySet((Disclosure("recording", "This call is recorded."),))


def test_a_disclosure_is_heard_to_its_end_by_whoever_talks_over_it() -> None:
    world = Impatient(flow="", policies=DISCLOSED)
    assert world.records[0].heard_text_pii == "This call is recorded. Hello, this is the shop."
    assert (world.records[0].outcome, world.commands(c.HoldPlayout)) == ("completed", [])
    assert world.records[1].caller_text_pii == "when do you open"
    assert Impatient(flow="", policies=PolicySet()).commands(c.HoldPlayout)


def test_a_disclosure_is_begun_again_where_the_gateway_died_under_it() -> None:
    world = Impatient(flow="", policies=DISCLOSED, until=1_000)
    world.machine.reconnect()
    texts = [command.text for command in world.machine.take_commands() if isinstance(command, c.Synthesise)]
    assert texts == ["This call is recorded."]


def test_turns_without_an_answer_count_as_failures_whatever_failed() -> None:
    world = FlowWorld(flow="")
    world.failing = {"generate"}
    world.caller("when do you open")
    assert world.end is None
    world.caller("when do you open")
    assert world.end is not None
    assert world.end.end_reason == "transfer:+15550111"


class Impatient(FlowWorld):
    """A caller who speaks as soon as the agent does."""

    def __init__(self, *, until: int = 25_000, **changes: object) -> None:
        self.until = until
        super().__init__(**changes)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        whole, self.run = self.run, lambda _until: None  # type: ignore[method-assign]
        super().__post_init__()
        self.run = whole  # type: ignore[method-assign]
        self.words[1] = "when do you open"
        self.at(600, e.SpeechStarted(1, 536))
        self.at(1_836, e.SpeechPaused(1, 1_736))
        self.run(self.until)

    def hold(self) -> None:
        """The gateway plays on what may not be talked over."""
        if all(command.interruptible for _, command in self.commands(c.ReleaseTurn)):
            super().hold()
