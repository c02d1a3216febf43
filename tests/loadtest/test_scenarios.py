import pytest

from loadtest.caller import SpokenLine
from loadtest.hearing import TurnAudio
from loadtest.measure import BargeInMeasure, CallMeasures, Percentiles, Stretch, TurnMeasure
from loadtest.scenario import Between, Expect, load_scenarios, parse_scenario, themes
from loadtest.verdict import Evidence, cut_offs, in_order, judge
from voice_agent.errors import ConfigError

SHIPPED = load_scenarios()


def turn(number, kind="reply", caller="when are you open", agent="We open at nine.", **more):
    return {
        "turn": number,
        "kind": kind,
        "outcome": "completed",
        "caller_text_pii": caller,
        "agent_text_pii": agent,
        "heard_text_pii": agent,
        "tool_calls": [],
        **more,
    }


def evidence(*turns, v2v=(), barge_ins=(), agent=(), lines=(), audio=(), **record):
    measures = CallMeasures(
        turns=tuple(TurnMeasure(0, 1000, 1000 + ms) for ms in v2v),
        barge_ins=tuple(BargeInMeasure(1000, 1000 + ms) for ms in barge_ins),
        greeting_ms=100,
        starved=(),
        pauses=(),
        lateness_ms=Percentiles(),
        duration_ms=10_000,
    )
    whole = {"turn_records": list(turns), "end_reason": "caller_hung_up", "counters": {"holds": 1}, **record}
    return Evidence(whole, measures, agent, lines, "caller", "", audio)


def audio(number=2, **more):
    return TurnAudio(
        **{
            "turn": number,
            "interrupted": False,
            "words": 10,
            "words_lost": 0,
            "words_repeated": 0,
            "words_recorded": 10,
            "words_played": 10,
            "found_share": 1.0,
            **more,
        }
    )


def test_at_least_thirty_scenarios_ship_and_each_expects_something():
    assert len(SHIPPED) >= 30
    assert len({scenario.name for scenario in SHIPPED}) == len(SHIPPED)
    assert all(scenario.expect != Expect() for scenario in SHIPPED)
    assert {"hesitation", "interruptions", "no-interruption", "silence-and-keys"} <= themes(SHIPPED)


def test_every_kind_of_disturbance_is_among_them():
    scripts = [scenario.script for scenario in SHIPPED]
    assert sorted({script.echo.level_db for script in scripts if script.echo}) == [-40, -30, -20]
    assert {script.noise_kind for script in scripts if script.noise_dbfs and script.noise_dbfs > -50} == {
        "white",
        "babble",
    }
    assert all(script.echo.delay_ms == 120 for script in scripts if script.echo)


def test_scenarios_are_chosen_by_theme_or_name():
    assert themes(load_scenarios(pattern="hesitation")) == {"hesitation"}
    assert [scenario.name for scenario in load_scenarios(pattern="mh*")] == ["mhm"]
    with pytest.raises(ConfigError, match=r"themes: .*hesitation"):
        load_scenarios(pattern="nothing-like-it")


def test_two_scenarios_of_one_name_are_refused(tmp_path):
    one = "{name: same, steps: [{hang_up: true}], expect: {turns: 0}}"
    (tmp_path / "a.yaml").write_text(f"scenarios: [{one}]")
    (tmp_path / "b.yaml").write_text(f"scenarios: [{one}]")
    with pytest.raises(ConfigError, match="two scenarios are called 'same'"):
        load_scenarios(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"expect": {"wurds": 1}}, "unknown key 'wurds'"),
        ({"expect": {"caller": ["("]}}, "is not a pattern"),
        ({"expect": {"turns": "many"}}, "must be a number"),
        ({"set": 3}, "set must be a mapping"),
        ({"echo": {"level_db": 3}}, "level_db must be below 1"),
        ({"noise": {"kind": "pink"}}, "white, babble"),
        ({"steps": [{"say": "hello [sneeze]"}]}, "cough"),
    ],
)
def test_a_mistake_names_the_place_and_what_is_allowed(change, told):
    with pytest.raises(ConfigError, match=told) as failed:
        parse_scenario({"name": "x", "steps": [{"hang_up": True}], **change}, "t", "f.yaml: x")
    assert "f.yaml: x" in failed.value.message


@pytest.mark.parametrize(
    ("expect", "wrong"),
    [
        (Expect(caller=("delivery",)), "'delivery' was not recognised"),
        (Expect(agent=("nine", "never said")), "'never said' was not said"),
        (Expect(heard=("ten",)), "was not heard"),
        (Expect(never=("we open",)), "must not be said"),
        (Expect(not_kept=("WHEN are",)), "was kept"),
        (Expect(kinds=("reply", "greeting")), "turns were greeting, reply"),
        (Expect(tools=("look_up_order",)), "tools called were none"),
        (Expect(turns=Between(2, 2)), "replies to the caller: 1, must be 2"),
        (Expect(interrupted=Between(1, None)), "interrupted turns: 0, must be at least 1"),
        (Expect(counters=(("holds", Between(0, 0)),)), "holds: 1, must be 0"),
        (Expect(ended_by="agent"), "ended by caller, not agent"),
        (Expect(end="silence"), "end reason caller_hung_up, not silence"),
        (Expect(v2v_ms=500), "voice-to-voice 900 ms, at most 500"),
        (Expect(barge_in_ms=200), "barge-in could not be measured"),
        (Expect(whole=True), "no turn's audio could be compared"),
    ],
)
def test_each_expectation_fails_when_it_should(expect, wrong):
    call = evidence(turn(1, "greeting", ""), turn(2), v2v=(300, 900))
    assert len(judge(expect, call)) == 1
    assert wrong in judge(expect, call)[0]


def test_a_call_as_expected_passes():
    call = evidence(
        turn(1, "greeting", "", "Hello."),
        turn(2, tool_calls=["look_up"]),
        v2v=(300,),
        barge_ins=(120,),
        audio=(audio(),),
    )
    expect = Expect(
        caller=("open",),
        agent=("hello", "nine"),
        heard=("nine",),
        never=("ten",),
        not_kept=("4111",),
        kinds=("greeting", "reply"),
        tools=("look_up",),
        turns=Between(1, 1),
        interrupted=Between(0, 0),
        counters=(("holds", Between(1, None)), ("barge_ins", Between(0, 0))),
        ended_by="caller|agent",
        end="hung_up",
        v2v_ms=300,
        barge_in_ms=120,
        whole=True,
        heard_error_words=0,
    )
    assert judge(expect, call) == []


def test_a_call_that_failed_has_one_reason():
    call = evidence(turn(1))
    failed = Evidence(call.record, call.measures, failure="refused: no room")
    assert judge(Expect(turns=Between(5, 5)), failed) == ["the call failed: refused: no room"]


def test_words_lost_and_words_wrongly_recorded_are_told_by_turn():
    lost = evidence(turn(2), audio=(audio(words_lost=2), audio(3, words_repeated=1)))
    assert judge(Expect(whole=True), lost) == ["turn 2: 2 words lost, 0 repeated", "turn 3: 0 words lost, 1 repeated"]
    off = evidence(turn(2), audio=(audio(interrupted=True, words_recorded=3, words_played=5),))
    assert judge(Expect(heard_error_words=2), off) == []
    assert judge(Expect(heard_error_words=1), off) == ["turn 2: heard words recorded 3, played 5"]


def test_the_agent_cuts_in_only_where_it_was_silent_before():
    said = SpokenLine("a [500] b", 1000, 3000, over_agent=False)
    over = SpokenLine("mhm", 5000, 5400, over_agent=True)
    call = evidence(turn(2), lines=(said, over), agent=(Stretch(1500, 2500), Stretch(3000, 5100), Stretch(5300, 6000)))
    assert cut_offs(call) == [said]
    assert "lines cut off (a [500] b): 1, must be 0" in judge(Expect(), call)
    assert cut_offs(evidence(lines=(said,), agent=(Stretch(0, 1000), Stretch(3000, 4000)))) == []


def test_patterns_are_found_in_order():
    assert in_order(("a", "b"), ("xa", "xb")) == ""
    assert in_order(("b", "a"), ("xa", "xb")) == "a"
    assert in_order(("A", "a"), ("a",)) == ""
