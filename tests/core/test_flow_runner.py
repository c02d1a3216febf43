"""Walking a flow: every step by hand, then anything at all by chance."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_agent.errors import ConfigError
from voice_agent.flow.definition import (
    Ask,
    Branch,
    Case,
    Flow,
    HangUp,
    Menu,
    Model,
    Option,
    Say,
    SlotType,
    Tool,
    Transfer,
    Waiting,
)
from voice_agent.flow.runner import FlowRunner, holds
from voice_agent.plan import FlowPosition, Outcome

FLOW = Flow(
    name="shop",
    start="hello",
    anywhere=(
        Option("human", (("agent",),), "0"),
        Option("menu", (("start", "over"),), forget=True),
        Option(phrases=(("say", "again"),), repeat=True),
    ),
    states={
        "hello": Say("Hello.", "menu"),
        "menu": Menu(
            "Orders, or a question?",
            (Option("order", (("order", "status"), ("order",)), "1"), Option("bye", (("bye",),), "2", say="Sure.")),
            on_fail="human",
            otherwise="talk",
            tries=2,
        ),
        "talk": Model("What would you like to know?", options_of="menu", turns=2, next="more"),
        "more": Menu("Anything else?", (Option("bye", (("no",),)), Option("menu", (("yes",),))), on_fail="bye"),
        "order": Ask(
            "Your number?", "number", SlotType("digits", 6, 6), "find", "human", retry="Six digits, please.", tries=3
        ),
        "find": Tool("look_up", "found", "lost", "One moment.", {"order": "{number}"}),
        "found": Branch((Case("look_up.status", "equals", ("shipped",), "shipped"),), "other"),
        "shipped": Say("Order {number} comes in {look_up.days} days.", "more", interruptible=False),
        "other": Say("It is {look_up.status}.", "more"),
        "lost": Say("I cannot find it.", "order"),
        "human": Transfer("staff", "I will connect you."),
        "bye": HangUp("goodbye", "Goodbye."),
    },
)
RUNNER = FlowRunner(FLOW)


def at(node: str, tries: int = 0, **slots: str) -> FlowPosition:
    return FlowPosition(node, slots, tries)


def test_a_flow_begins_with_all_it_says_before_it_listens() -> None:
    step = RUNNER.begin()
    assert (step.say, step.action, step.position) == ("Hello. Orders, or a question?", "listen", at("menu"))


@pytest.mark.parametrize(("text", "digits"), [("what is my order status please", ""), ("", "1")])
def test_words_and_keys_take_the_same_way(text: str, digits: str) -> None:
    step = RUNNER.on_caller(at("menu"), text, digits)
    assert (step.say, step.position.node, step.position.tries) == ("Your number?", "order", 0)
    assert RUNNER.keys_wanted(at("menu")) == 1
    assert RUNNER.keys_wanted(step.position) == 6


def test_an_order_is_looked_up_and_told() -> None:
    step = RUNNER.on_caller(at("order"), "four one double two oh seven", "")
    assert step.action == "tool"
    assert step.say == "One moment."
    assert not step.interruptible
    assert step.tool is not None
    assert (step.tool.name, step.tool.arguments) == ("look_up", {"order": "412207"})
    step = RUNNER.on_tool(step.position, Outcome("look_up", True, {"status": "Shipped", "days": 3}))
    assert step.say == "Order four one two two zero seven comes in 3 days. Anything else?"
    assert (step.action, step.position.node) == ("listen", "more")
    assert not step.interruptible


def test_a_tool_that_fails_has_a_way_of_its_own() -> None:
    step = RUNNER.on_tool(at("find", number="412207"), Outcome("look_up", False, code="not_found"))
    assert (step.say, step.position.node) == ("I cannot find it. Your number?", "order")
    assert step.position.results["look_up"]["code"] == "not_found"


def test_what_does_not_fit_is_asked_again_and_then_given_up() -> None:
    position = at("order")
    for tries in (1, 2):
        step = RUNNER.on_caller(position, "I do not have it", "")
        assert (step.say, step.position.tries) == ("Six digits, please.", tries)
        position = step.position
    step = RUNNER.on_caller(position, "four one", "")
    assert (step.action, step.target, step.say) == ("transfer", "staff", "I will connect you.")


def test_what_no_option_means_goes_to_the_model_and_options_bring_it_back() -> None:
    step = RUNNER.on_caller(at("menu"), "when do you open", "")
    assert (step.action, step.say, step.position) == ("model", "", at("talk", 1))
    again = RUNNER.on_caller(step.position, "and on sunday", "")
    assert (again.action, again.position.tries) == ("model", 2)
    assert RUNNER.on_caller(again.position, "and on monday", "").position.node == "more"
    back = RUNNER.on_caller(step.position, "fine, my order status", "")
    assert (back.action, back.say, back.position.node) == ("listen", "Your number?", "order")


def test_keys_that_mean_nothing_are_no_question() -> None:
    assert RUNNER.on_caller(at("talk", 1), "", "7").action == "listen"
    assert RUNNER.on_caller(at("menu"), "", "7").say == "Orders, or a question?"


def test_ways_on_that_are_everywhere() -> None:
    assert RUNNER.on_caller(at("order"), "an agent please", "").action == "transfer"
    assert RUNNER.on_caller(at("order"), "", "0").action == "transfer"
    assert RUNNER.on_caller(at("order", 1), "please say again", "") == replace(
        RUNNER.on_caller(at("order", 1), "say again", ""), say="Your number?"
    )
    step = RUNNER.on_caller(at("more", number="412207"), "start over", "")
    assert step.position == at("menu")


def test_a_value_is_no_way_on_and_a_message_may_hold_its_words() -> None:
    text = Ask("Message?", "message", SlotType("text"), "bye", "bye")
    runner = FlowRunner(Flow("m", "ask", {"ask": text, "bye": HangUp()}, (Option("bye", (("agent",),)),)))
    step = runner.on_caller(at("ask"), "tell the agent that I am late", "")
    assert step.position.slots == {"message": "tell the agent that I am late"}
    assert runner.on_caller(at("ask"), "agent please", "").position.slots == {}


def test_a_caller_who_speaks_while_a_tool_runs_does_not_start_it_for_ever() -> None:
    step = RUNNER.on_caller(at("find", number="412207"), "hello", "")
    assert step.action == "tool"
    assert RUNNER.on_caller(step.position, "hello", "").position.node == "order"


def test_prompt_and_finished() -> None:
    assert RUNNER.prompt(at("order")) == "Your number?"
    assert RUNNER.prompt(at("human")) == ""
    assert RUNNER.finished(at("order"), "four one two") is False
    assert RUNNER.finished(at("order"), "four one two two oh seven") is True
    assert RUNNER.finished(at("order"), "agent") is True
    assert RUNNER.finished(at("menu"), "order status") is True
    assert RUNNER.finished(at("menu"), "when do you") is None


def test_a_position_of_another_version_of_the_flow_begins_anew() -> None:
    assert RUNNER.on_caller(at("gone"), "hello", "") == RUNNER.begin()
    assert RUNNER.on_tool(at("gone"), Outcome("look_up", True)) == RUNNER.begin()
    assert (RUNNER.prompt(at("gone")), RUNNER.keys_wanted(at("gone"))) == ("", 0)


@pytest.mark.parametrize(
    ("test", "operands", "value", "true"),
    [
        ("equals", ("shipped",), "Shipped ", True),
        ("equals", ("yes",), "no", False),
        ("in", ("a", "b"), "b", True),
        ("present", ("yes",), "x", True),
        ("present", ("no",), "", True),
        ("matches", (r"9\d{5}",), "912345", True),
        ("matches", (r"9\d{5}",), "x912345", False),
        ("less", ("10",), "9", True),
        ("greater", ("10",), "9", False),
        ("less", ("10",), "many", False),
    ],
    ids=str,
)
def test_conditions(test: str, operands: tuple[str, ...], value: str, true: bool) -> None:
    case = Case("t.f", test, operands, "x")  # type: ignore[arg-type]
    assert holds(case, FlowPosition("x", {}, 0, {"t": {"f": value}})) is true


@pytest.mark.parametrize(
    ("states", "wanted"),
    [
        ({"a": Say("x", "b"), "b": Say("y", "a")}, "loop"),
        ({"a": Tool("t", "a", "b"), "b": HangUp()}, "loop"),
        ({"a": Say("x", "nowhere"), "b": HangUp()}, "one of a, b is wanted"),
        ({"a": HangUp(), "b": HangUp()}, "no state does"),
        ({"a": Say("{number}", "b"), "b": HangUp()}, "a slot or a tool's field"),
        (
            {"a": Tool("t", "b", "b", arguments={"x": "{s}"}), "b": Ask("?", "s", SlotType(), "c", "c"), "c": HangUp()},
            "not filled on every way",
        ),
        (
            {"a": Menu("?", (Option("b", (("x",),)), Option("b", (("x",),))), on_fail="b"), "b": HangUp()},
            "taken already",
        ),
        ({"a": Menu("?", (Option("b", (("x",),)),)), "b": HangUp()}, "on_fail or otherwise"),
        ({"a": Model("?", turns=2), "b": HangUp()}, "turns and next"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_flow_that_cannot_be_walked_is_refused(states: dict[str, object], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        FlowRunner(Flow("f", "a", states))  # type: ignore[arg-type]


WORDS = st.sampled_from(
    "order status bye agent start over say again yes no four one two oh seven double um 412207 hello when".split()
)
INPUTS = st.one_of(
    st.tuples(st.just("words"), st.lists(WORDS, max_size=8).map(" ".join)),
    st.tuples(st.just("words"), st.text(max_size=30)),
    st.tuples(st.just("keys"), st.text("0123456789*", max_size=8)),
    st.tuples(st.just("tool"), st.sampled_from(["shipped", "lost", ""])),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(INPUTS, max_size=25))
def test_nothing_leads_out_of_the_graph(inputs: list[tuple[str, str]]) -> None:
    """Every step is pure, stays in the graph, and asks at most ``tries`` times."""
    position = RUNNER.begin().position
    for kind, given_ in inputs:
        before = deepcopy(position)

        def take(kind: str = kind, given_: str = given_, at: FlowPosition = position) -> object:
            if kind == "tool":
                return RUNNER.on_tool(at, Outcome("look_up", bool(given_), {"status": given_}))
            return RUNNER.on_caller(at, given_ if kind == "words" else "", given_ if kind == "keys" else "")

        step = take()
        assert step == take()
        assert position == before
        assert step.position is not position  # type: ignore[attr-defined]
        position = step.position  # type: ignore[attr-defined]
        state = FLOW.states[position.node]
        action = step.action  # type: ignore[attr-defined]
        kinds = {"listen": (Waiting, Tool), "model": Model, "tool": Tool, "transfer": Transfer, "hang_up": HangUp}
        assert isinstance(state, kinds[action])  # type: ignore[arg-type]
        assert step.say or action in ("model", "listen", "tool")  # type: ignore[attr-defined]
        if isinstance(state, Ask | Menu):
            assert position.tries < state.tries
        if isinstance(state, Model):
            assert position.tries <= state.turns
        if isinstance(state, Transfer | HangUp):
            return
