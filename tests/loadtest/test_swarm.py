import asyncio

import pytest
from fake_stack import FakeStack, tone

from loadtest.carrier import CallTarget
from loadtest.network import Network, Uplink
from loadtest.script import After, AgentSilent, AgentSpeaking, AwaitHangUp, CallerScript, HangUp, Press, Say
from loadtest.swarm import pipe
from loadtest.swarm.plan import LOADS, CallerKind, LoadPlan, draw, load_plan, parse_plan
from loadtest.swarm.swarm import GeneratorFailedError, Swarm, refuse_foreign
from voice_agent.errors import ConfigError
from voice_agent.twilio import messages

HANG_UP = "<Response><Hangup/></Response>"


def asks(*texts, **fields):
    return CallerScript("asks", (*(Say(text, AgentSilent(100)) for text in texts), HangUp(AgentSilent(100))), **fields)


def plan_of(script, **fields):
    return LoadPlan(**{"name": "test", "calls": 3, "callers": (CallerKind(script),), "rate_per_s": 20.0, **fields})


def stack_of(agent):
    return FakeStack(agent, {"/twilio/voice": FakeStack.connect, "/twilio/stream-ended": HANG_UP})


async def greets(peer):
    await peer.play(tone(300))
    await peer.mark("greeting")
    await peer.wait_for(messages.Stop)


async def run(stack, plan, tmp_path, prepare=None):
    async with asyncio.timeout(60), Swarm(stack.target, plan, tmp_path) as swarm:
        if prepare is not None:
            prepare(swarm)
        return await swarm.run()


async def test_every_call_once_from_two_processes(tmp_path):
    async with stack_of(greets) as stack:
        result = await run(stack, plan_of(asks(), processes=2, sample_audio=1, calls=4), tmp_path)
    assert [call.number for call in result.calls] == [0, 1, 2, 3]
    assert all(call.outcome.ok and call.outcome.measures.greeting_ms is not None for call in result.calls)
    assert len(stack.posts("/twilio/voice")) == 4
    assert [path.name for path in tmp_path.glob("*.wav")] == ["call-00000.wav"]
    assert len({cost.pid for cost in result.generators}) == 2
    assert all(cost.cpu_s > 0 and sum(cost.late.values()) > 20 for cost in result.generators)


async def test_calls_that_end_are_replaced_and_all_leave_at_the_end(tmp_path):
    short = CallerScript("short", (HangUp(After(200)),))
    patient = CallerScript("patient", (AwaitHangUp(60_000),))
    plan = plan_of(short, callers=(CallerKind(short, 5.0), CallerKind(patient)), calls=3, steady_s=3.0, seed=4)
    seen = []
    async with stack_of(greets) as stack:
        result = await run(stack, plan, tmp_path, lambda swarm: swarm.observe(lambda message: seen.append(swarm.up)))
    assert len(result.calls) > 5
    assert max(seen) <= 3
    assert {call.outcome.reason for call in result.calls if call.outcome.script == "patient"} == {"left"}
    assert all(call.outcome.ok for call in result.calls)


async def test_a_call_that_is_placed_while_all_leave_leaves_too(tmp_path):
    class Hurried(Swarm):
        async def _place_next(self):
            await super()._place_next()
            self.leave()

    plan = plan_of(CallerScript("patient", (AwaitHangUp(60_000),)))
    async with stack_of(greets) as stack, asyncio.timeout(60), Hurried(stack.target, plan, tmp_path) as swarm:
        result = await swarm.run()
    assert [call.outcome.reason for call in result.calls] == ["left"]


async def test_the_total_of_calls_is_bounded(tmp_path):
    plan = plan_of(CallerScript("short", (HangUp(After(100)),)), steady_s=2.0, most_calls=4)
    async with stack_of(greets) as stack:
        result = await run(stack, plan, tmp_path)
    assert len(result.calls) == 4


async def test_hooks_run_at_their_time_and_can_cut_sockets(tmp_path):
    async def cut(swarm):
        swarm.cut(0)

    returned = {"/twilio/stream-ended": FakeStack.connect}
    async with FakeStack(greets, {"/twilio/voice": FakeStack.connect, **returned}) as stack:
        plan = plan_of(CallerScript("stays", (HangUp(After(2500)),)), calls=2)
        result = await run(stack, plan, tmp_path, lambda swarm: swarm.at(1.0, cut))
    assert [(call.outcome.streams, call.outcome.cuts) for call in result.calls] == [(2, 1), (1, 0)]
    assert all(call.outcome.ok for call in result.calls)


async def test_an_error_of_a_hook_ends_the_run(tmp_path):
    async def breaks(swarm):
        raise GeneratorFailedError("on purpose")

    async with stack_of(greets) as stack:
        with pytest.raises(ExceptionGroup) as caught:
            await run(stack, plan_of(asks()), tmp_path, lambda swarm: swarm.at(0.1, breaks))
    assert caught.group_contains(GeneratorFailedError, match="on purpose")


async def test_a_generator_that_dies_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("loadtest.swarm.swarm.GENERATOR", ("false",))
    with pytest.raises(GeneratorFailedError, match="did not start"):
        async with Swarm(CallTarget("http://127.0.0.1:9", "t"), plan_of(asks()), tmp_path):
            pass


async def test_the_caller_counts_how_long_it_waits(tmp_path):
    async def answers(peer):
        await peer.play(tone(300))
        quiet = seen = 0
        while quiet < 10:
            media = await peer.wait_for(messages.Media, seen + 1)
            seen = len(media)
            loud = len(set(media[-1].payload)) > 20
            quiet = 0 if loud else quiet + (seen > 50)
        await peer.play(tone(300))
        await peer.wait_for(messages.Stop)

    notes = []
    async with stack_of(answers) as stack:
        result = await run(
            stack, plan_of(asks("When is delivery free?"), calls=1), tmp_path, lambda s: s.observe(notes.append)
        )
    (turn,) = result.calls[0].outcome.measures.turns
    (waited,) = [m.waited_ms for m in notes if isinstance(m, pipe.Noted) and m.waited_ms is not None]
    assert abs(waited - turn.v2v_ms) <= 100


# --- what is drawn --------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_calls_and_another_does_not():
    plan = load_plan(LOADS / "soak.yaml")
    drawn = [draw(plan, number) for number in range(30)]
    assert drawn == [draw(plan, number) for number in range(30)]
    assert len({call.script.name for call in drawn}) == 5
    assert len({call.script.seed for call in drawn}) > 20
    other = [draw(load_plan(LOADS / "soak.yaml"), number + 1000) for number in range(30)]
    assert [call.script for call in drawn] != [call.script for call in other]


def test_a_long_call_says_its_lines_again_and_never_hangs_up_before_its_time():
    script = CallerScript(
        "long", (Say("a", AgentSilent(100)), Press("1", After(10)), Say("b", AgentSpeaking(10)), HangUp(After(1)))
    )
    plan = plan_of(script, callers=(CallerKind(script, 1.0, (100.0, 120.0)),))
    drawn = draw(plan, 5).script
    assert 100_000 <= drawn.hang_up_after_ms <= 120_000 < drawn.max_call_ms
    assert not any(isinstance(step, HangUp) for step in drawn.steps)
    assert len(drawn.steps) * 2_000 >= drawn.hang_up_after_ms - 6_000
    assert [type(step) for step in drawn.steps[:3]] == [Say, Press, Say]


def test_lines_change_places_only_with_lines_of_the_same_kind_of_moment():
    plan = load_plan(LOADS / "smoke.yaml")
    first, second = draw(plan, 0).script, draw(plan, 3).script
    assert [step.when for step in first.steps] == [step.when for step in second.steps]
    said = [[step.text for step in script.steps if isinstance(step, Say)] for script in (first, second)]
    assert said[0] != said[1]
    assert sorted(said[0]) == sorted(said[1])


def test_a_share_of_the_calls_is_cut_once():
    content = {
        "calls": 1,
        "callers": [{"script": {"steps": [{"hang_up": True}]}}],
        "network": {"cut_share": 0.5, "cut_s": [1, 2]},
    }
    plan = parse_plan(content, "test", LOADS)
    cuts = [draw(plan, number).network.cuts_ms for number in range(100)]
    assert 30 < sum(bool(item) for item in cuts) < 70
    assert all(1000 <= item[0] <= 2000 for item in cuts if item)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"calls": 0}, "calls must be at least 1"),
        ({"calls": 5000}, "calls must be at most 1000"),
        ({"caller": []}, "unknown key 'caller'"),
        ({"callers": []}, "callers must be a list"),
        ({"callers": [{"script": {"steps": [{"hang_up": True}]}, "call_s": [1, 2]}]}, "says something"),
        ({"callers": [{"script": {"steps": [{"hang_up": True}]}, "call_s": [3, 2]}]}, "call_s must be seconds"),
        ({"network": {"loss_share": 1.0}}, "loss_share must be at least 0 and below 1"),
        ({"network": {"lag": 1}}, "unknown key 'lag'"),
    ],
)
def test_a_wrong_plan_names_the_place(change, reason):
    content = {"calls": 1, "callers": [{"script": {"steps": [{"hang_up": True}]}}], **change}
    with pytest.raises(ConfigError, match="file.yaml.*" + reason):
        parse_plan(content, "file.yaml", LOADS)


def test_loads_are_for_this_machine():
    refuse_foreign(CallTarget("http://127.0.0.1:8080", "t", media_url="ws://localhost:1/x"))
    for target in (
        CallTarget("http://192.0.2.1", "t"),
        CallTarget("http://127.0.0.1", "t", media_url="ws://192.0.2.1/"),
    ):
        with pytest.raises(ConfigError, match="not on this machine"):
            refuse_foreign(target)


async def test_twiml_does_not_lead_a_load_to_another_machine(tmp_path):
    elsewhere = {"/twilio/voice": lambda stack: stack.connect(url="ws://192.0.2.1/media")}
    async with FakeStack(greets, {**elsewhere, "/twilio/stream-ended": HANG_UP}) as stack:
        result = await run(stack, plan_of(asks(), calls=1), tmp_path)
    (call,) = result.calls
    assert not call.outcome.ok
    assert "not on this machine" in call.outcome.stream_errors[0]


# --- network --------------------------------------------------------------------------------------------------


def test_jitter_delays_and_bunches_but_keeps_the_order():
    uplink = Uplink(Network(jitter_ms=100), seed=1)
    arrived = [uplink.pass_on(bytes([number])) for number in range(200)]
    numbers = [number for batch in arrived for number, _ in batch]
    assert numbers == sorted(numbers)
    assert all(tick - number <= 5 for tick, batch in enumerate(arrived) for number, _ in batch)
    assert any(len(batch) > 1 for batch in arrived)
    assert not all(arrived)


def test_loss_leaves_frames_out_and_time_goes_on():
    uplink = Uplink(Network(loss_share=0.2), seed=1)
    arrived = [uplink.pass_on(bytes([number])) for number in range(200)]
    assert 20 < uplink.lost < 60
    assert [number for batch in arrived for number, _ in batch] == [tick for tick, batch in enumerate(arrived) if batch]
