"""Flow, policies and the language model in one call, on the integer clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from test_dialog_call import ANSWERS, World

from configs.flows import found, read_flow
from configs.policies import Defaults, load
from voice_agent.call_director import CallDirector
from voice_agent.dialog import commands as c
from voice_agent.dialog import events as e
from voice_agent.dialog.machine import DialogMachine
from voice_agent.dialog.policy import AgentPhrases
from voice_agent.dialog.state import State
from voice_agent.flow.runner import FlowRunner
from voice_agent.plan import CallerInput, Memory, Outcome
from voice_agent.policy.engine import PolicyEngine
from voice_agent.policy.rules import Disclosure, PolicySet

ORDERS = {
    "1001": {"order_number": "1001", "item": "city bike", "status": "on its way", "expected": "tomorrow"},
    "1002": {"order_number": "1002", "item": "helmet", "status": "delivered", "expected": ""},
}
PHRASES = AgentPhrases(greeting="Hello, this is the shop.")
POLICIES = load([Path("default")], Defaults("+15550111", 2), probe=False).rules
TOLD = "Your order one zero zero one, the city bike, is on its way. You will have it tomorrow."


def director(flow: str = "order_status", policies: PolicySet = POLICIES) -> CallDirector:
    runner = FlowRunner(read_flow(found(Path(flow)), probe=False)) if flow else None
    return CallDirector(PHRASES, PolicyEngine(policies), runner, ("staff",))


@dataclass
class FlowWorld(World):
    """A world whose agent follows a flow and has tools."""

    flow: str = "order_status"
    policies: PolicySet = POLICIES
    tool_ms: int = 150
    messages: list[dict[str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.machine = DialogMachine(self.policy, PHRASES, "CA1", director(self.flow, self.policies))
        self.utterance = 0
        self.at(0, e.CallStarted("CA1"))
        self.run(20_000)

    def execute(self, command: c.Command) -> None:
        super().execute(command)
        if isinstance(command, c.RunTool):
            self.result(
                "tool", self.tool_ms, e.ToolFinished(command.turn, command.index, self.tool(command)), command.turn
            )

    def tool(self, command: c.RunTool) -> Outcome:
        if command.name == "take_message":
            self.messages.append(dict(command.arguments))
            return Outcome(command.name, True)
        order = ORDERS.get(str(command.arguments["order_number"]))
        return Outcome(command.name, order is not None, order or {}, code="" if order else "not_found")

    def caller(self, text: str, *, wait: int = 25_000) -> str:
        """The caller says ``text``; what the agent says by the time it is over."""
        heard = len(self.records)
        self.utterance += 1
        self.run(self.say(self.now, self.utterance, text) + wait)
        return self.told(heard)

    def keys(self, digits: str, *, wait: int = 25_000) -> str:
        heard = len(self.records)
        for place, digit in enumerate(digits):
            self.at(self.now + 200 * place, e.DtmfReceived(digit))
        self.run(self.now + wait)
        return self.told(heard)

    def told(self, since: int = 0) -> str:
        return " ".join(r.heard_text_pii for r in self.records[since:] if r.kind != "reprompt")

    @property
    def node(self) -> str:
        position = self.machine._s.memory.position
        assert position is not None
        return position.node


@pytest.fixture
def world() -> FlowWorld:
    world = FlowWorld(policy=World().policy.__class__(reprompt_after_ms=60_000))
    assert world.machine.state is State.LISTENING
    return world


def test_the_flow_says_hello(world: FlowWorld) -> None:
    assert world.told().startswith("Hello, this is Harbor Street Bicycles. For the status of an order")
    assert world.node == "menu"


def test_an_order_by_voice(world: FlowWorld) -> None:
    assert world.caller("i want to know my order status").startswith("What is your four digit order number?")
    told = world.caller("one oh oh one")
    assert told == f"One moment. {TOLD} Is there anything else I can do for you?"
    assert world.records[-1].tool_calls == ("look_up_order",)
    assert world.caller("no thank you") == "Thank you for calling Harbor Street Bicycles. Goodbye."
    assert world.end is not None
    assert world.end.end_reason == "goodbye"
    assert not world.machine._s.jobs


def test_an_order_by_keys_that_interrupt(world: FlowWorld) -> None:
    """A key stops the agent at once, and the last digit of a slot needs no pause and no hash."""
    world.keys("1", wait=2_000)
    assert world.machine.state is State.SPEAKING
    start = world.now
    told = world.keys("1001")
    interrupted = world.records[-2]
    assert interrupted.outcome == "interrupted"
    asked = next(at for at, command in world.commands(c.RunTool))
    assert asked - (start + 600) < world.policy.keys_pause_ms
    assert TOLD in told


def test_a_question_goes_to_the_model_and_an_order_comes_back(world: FlowWorld) -> None:
    assert world.caller("when do you open") == ANSWERS["when do you open"]
    assert world.node == "questions"
    assert world.caller("do you rent bicycles") == ANSWERS["do you rent bicycles"]
    assert world.caller("fine where is my order").startswith("What is your four digit")
    assert world.node == "ask_order"


def test_an_unknown_order_has_a_way_of_its_own(world: FlowWorld) -> None:
    world.keys("1")
    assert "cannot find an order with the number nine nine nine nine" in world.keys("9999")
    assert world.caller("yes please").startswith("What is your four digit")


def test_a_message_is_taken_with_what_the_caller_said(world: FlowWorld) -> None:
    world.caller("please leave a message")
    world.caller("my chain fell off call me")
    told = world.keys("5558675309#")
    assert world.messages == [{"text": "my chain fell off call me", "phone": "5558675309"}]
    assert told.startswith("Thank you. I have noted your message.")
    assert "5558675309" not in " ".join(r.caller_text_pii.replace(" ", "") for r in world.records)


def test_a_wish_for_a_human_is_granted_by_the_flow_or_by_the_policies(world: FlowWorld) -> None:
    world.keys("0")
    assert world.end is not None
    assert world.end.end_reason == "transfer:staff"
    other = FlowWorld()
    other.caller("i want to talk to a human")
    assert other.end is not None
    assert other.end.end_reason == "transfer:+15550111"


def test_a_flow_that_puts_through_beats_a_rule_that_has_nobody() -> None:
    nobody = load([Path("default")], Defaults("", 0), probe=False).rules
    plan = director(policies=nobody).answer(director().opening().memory, CallerInput("let me speak to a person"))
    assert plan.end_reason == "transfer:staff"


def test_rebukes_leave_the_question_open_and_end_the_call_at_last(world: FlowWorld) -> None:
    world.caller("order status please")
    told = world.caller("you stupid machine")
    assert told.startswith("I would like to help you.")
    assert "four digit order number" in told
    assert world.node == "ask_order"
    world.caller("you stupid machine")
    world.caller("you stupid machine")
    assert world.end is not None
    assert world.end.end_reason == "policy"


def test_speculation_does_not_move_the_flow(world: FlowWorld) -> None:
    """Digits with pauses are one answer: nothing that was prepared meanwhile leaves a trace."""
    world.caller("order status please")
    world.words[99] = "one oh"
    start = world.now
    world.at(start + 64, e.SpeechStarted(99, start))
    world.at(start + 700, e.SpeechPaused(99, start + 600))
    world.run(start + 1500)
    assert world.machine.state is State.PAUSED
    assert world.node == "ask_order"
    world.words[99] = "one oh oh one"
    world.at(start + 1560, e.SpeechResumed(99, start + 1500))
    world.at(start + 2200, e.SpeechPaused(99, start + 2100))
    world.run(start + 25_000)
    assert world.records[-1].caller_text_pii == "one oh oh one"
    assert TOLD in world.records[-1].heard_text_pii


def test_a_caller_who_goes_on_after_the_turn_was_answered_has_not_moved_the_flow(world: FlowWorld) -> None:
    """The reply was released but not heard: it is dropped, and its words are answered again with what follows."""
    world.tts_ms = 900
    end = world.say(world.now, 50, "leave a message")
    world.run(end + world.policy.endpoint_short_ms + 1)
    assert world.machine.state is State.THINKING
    assert world.node == "ask_message"
    end = world.say(world.now, 51, "for the manager")
    world.run(end + 25_000)
    assert world.records[-1].caller_text_pii == "leave a message for the manager"
    assert world.node == "ask_message"
    assert (
        world.machine._s.memory.position
        == director()._flow.on_caller(director().opening().memory.position, "leave a message", "").position
    )  # type: ignore[union-attr, arg-type]


def test_a_tool_that_has_begun_is_not_begun_again_by_a_caller_who_speaks(world: FlowWorld) -> None:
    world.tool_ms = 3_000
    world.caller("leave a message")
    world.caller("my chain fell off")
    start = world.now
    end = world.say(start, 60, "five five five eight six seven five three oh nine")
    world.run(end + 1_000)
    assert world.commands(c.RunTool)
    world.say(world.now, 61, "are you there")
    world.run(world.now + 40_000)
    assert len(world.commands(c.RunTool)) == 1
    assert len(world.messages) == 1
    assert "I have noted your message." in world.told()


def test_silence_repeats_the_open_question() -> None:
    world = FlowWorld()
    world.caller("order status please", wait=4_500)
    world.run(world.now + 16_000)
    assert [r.heard_text_pii for r in world.records if r.kind == "reprompt"][-1].startswith("What is your four digit")


def test_a_call_taken_over_goes_on_where_its_flow_was(world: FlowWorld) -> None:
    world.caller("order status please")
    data = world.machine.snapshot()
    world.machine = DialogMachine.restore(data, world.policy, PHRASES, director())
    world.machine.reopen()
    assert TOLD in world.caller("one oh oh one")


def test_disclosures_come_first_with_and_without_a_flow() -> None:
    policies = PolicySet((Disclosure("d", "This call is recorded."),))
    assert director("", policies).opening().say == f"This call is recorded. {PHRASES.greeting}"
    assert director("order_status", policies).opening().say.startswith("This call is recorded. Hello,")


def test_after_failures_in_a_row_a_human() -> None:
    free = director("")
    plan = free.model_done(Memory(), "gated")
    assert plan.end_reason == ""
    assert free.model_done(plan.memory, "stop").memory.counts["failures"] == 0
    assert free.model_done(plan.memory, "gated").end_reason == "transfer:+15550111"


def test_keyed_cards_are_masked_for_the_model() -> None:
    plan = director("").answer(Memory(), CallerInput(digits="4111111111111111"))
    assert plan.model_text == "[card]"


def test_the_appointment_flow_books_what_was_said() -> None:
    world = FlowWorld(flow="appointment")
    world.caller("on sunday")
    world.caller("then friday please")
    world.caller("in the morning")
    told = world.caller("five five five eight six seven five three oh nine")
    assert told.startswith("So you come on Friday in the morning, and your number is [phone].")
    said = " ".join(command.text for _, command in world.commands(c.Synthesise))
    assert "your number is five five five, eight six seven, five three zero nine." in said
    told = world.caller("yes that's right")
    assert world.messages == [{"text": "Service appointment on friday in the morning", "phone": "5558675309"}]
    assert "on Friday is noted" in told
    assert world.end is not None
    assert world.end.end_reason == "goodbye"
