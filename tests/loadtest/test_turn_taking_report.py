import json
from dataclasses import replace

from loadtest.endpoint_curve import (
    FIXED_MS,
    SCALES,
    HeardLine,
    HeardPause,
    adaptive,
    curves,
    fixed,
    point,
    scaled,
    turns_of,
)
from loadtest.scenario import parse_scenario
from loadtest.turn_taking_report import barge_in, false_stops, goals, heard_error, live_point, merged, render
from voice_agent.dialog.listening import Pace
from voice_agent.dialog.policy import TurnPolicy

PLAIN = HeardLine("a", "when are you open", 1000, (HeardPause(1010, "when are you open"),))
HESITATING = HeardLine(
    "b",
    "how much is the [500] delivery",
    3000,
    (HeardPause(1000, "how much is the", 1600, 1500), HeardPause(3000, "how much is the delivery")),
)


def audio(**more):
    return {"turn": 2, "interrupted": False, "words": 9, "words_lost": 0, "words_repeated": 0, **more}


def run(theme, name, *, verdict="passed", reasons=(), turns=(), **figures):
    whole = {
        "v2v_ms": [400],
        "barge_in_ms": [],
        "cut_offs": 0,
        "lines": [],
        "interrupted": 0,
        "counters": {},
        "audio": [],
    }
    return {
        "theme": theme,
        "name": name,
        "run": 1,
        "verdict": verdict,
        "reasons": list(reasons),
        "turns": list(turns),
        "figures": whole | figures,
    }


RUNS = [
    run(
        "hesitation",
        "pauses",
        verdict="failed",
        reasons=["a | b"],
        cut_offs=1,
        lines=[{"over_agent": False}, {"over_agent": False}, {"over_agent": True}],
        turns=[{"times_ms": {"speech_end_ms": 1000, "endpoint_ms": 1400}}, {"times_ms": {"speech_end_ms": 5}}],
    ),
    run(
        "interruptions",
        "barge-in",
        barge_in_ms=[100, 140],
        audio=[audio(interrupted=True, words_recorded=3, words_played=4)],
    ),
    run("no-interruption", "mhm", counters={"holds": 1}, audio=[audio(words_lost=2)]),
    run("no-interruption", "echo at 20 dB", interrupted=2),
    run("no-interruption", "babble all along"),
    {"theme": "flows", "name": "x", "run": 1, "verdict": "skipped", "reasons": ["no"], "turns": [], "figures": None},
]
EVAL = {
    "at": "2026-01-02T03:04:05+00:00",
    "machine": "2 CPUs, x86_64, Python 3.11",
    "profile": "simulated",
    "simulated": True,
    "sets": {},
    "runs": RUNS,
}


def test_a_fixed_silence_cuts_who_pauses_longer_and_makes_everybody_wait():
    short, long = (point("x", fixed(ms), [PLAIN, HESITATING]) for ms in (300, 700))
    assert (short.turns, short.cut, short.mean_delay_ms) == (2, 1, 305)
    assert (long.turns, long.cut, long.mean_delay_ms) == (2, 0, 705)


def test_an_endpoint_before_the_speech_is_noticed_is_a_cut_even_behind_its_onset():
    assert point("x", fixed(600), [HESITATING]).cut == 1
    assert point("x", fixed(601), [HESITATING]).cut == 0


def test_adaptive_waits_where_the_words_are_not_done_and_only_there():
    policy = TurnPolicy()
    found = point("x", adaptive(policy), [PLAIN, HESITATING])
    assert found.cut == 0
    assert found.mean_delay_ms < policy.endpoint_long_ms / 2
    not_yet, done = HeardPause(0, "how much is the"), HeardPause(0, "when are you open today", complete=0.1)
    assert adaptive(policy)(not_yet, Pace()) > adaptive(policy)(done, Pace())
    assert adaptive(scaled(policy, 2.0))(not_yet, Pace()) == 2 * adaptive(policy)(not_yet, Pace())
    assert adaptive(policy, model=True)(done, Pace()) > adaptive(policy)(done, Pace())


def test_a_turn_model_has_a_curve_of_its_own_where_there_is_one():
    judged = HeardLine("d", "x", 1000, (HeardPause(1000, "when are you open", complete=0.9),))
    assert list(curves([PLAIN], TurnPolicy())) == ["fixed silence", "adaptive"]
    assert list(curves([judged], TurnPolicy())) == ["fixed silence", "adaptive", "adaptive with Smart Turn"]


def test_a_caller_is_learnt_within_a_call_and_forgotten_after_it():
    said = [HeardLine("c", "x", 3000, HESITATING.pauses) for _ in range(3)]
    assert lessons([*said, PLAIN]) == [(), ()], "everybody pauses where the words say that more is to come"
    surprising = tuple(replace(pause, text="when are you open") for pause in HESITATING.pauses)
    said = [HeardLine("c", "x", 3000, surprising) for _ in range(3)]
    assert lessons([*said, PLAIN]) == [(500, 500, 500), ()]


def lessons(lines):
    """What was learnt at the last pause of the last caller but one, and of the last caller."""
    silences = []

    def silence(pause, pace):
        silences.append(tuple(pace.pauses_ms))
        return 500

    point("x", silence, lines)
    return silences[-2:]


def test_turns_are_those_said_into_silence_with_pauses_at_several_lengths():
    scenario = parse_scenario(
        {
            "name": "s",
            "steps": [
                {"say": "I [500] think"},
                {"say": "mhm", "when": {"agent_speaking_ms": 500}},
                {"say": "[cough]"},
                {"say": "cut", "cut_ms": 100},
            ],
        },
        "t",
        "f",
    )
    assert [line for _, line in turns_of([scenario])] == ["I [300] think", "I [500] think", "I [700] think"]


def test_figures_of_live_calls():
    live = live_point(EVAL)
    assert (live.turns, live.cut, live.mean_delay_ms) == (2, 1, 400)
    assert barge_in(RUNS).p95 == 140
    assert heard_error(RUNS).largest == 1
    table = {row["sound"]: row for row in false_stops(RUNS)}
    assert (table["backchannel"]["runs"], table["backchannel"]["held"], table["backchannel"]["lost"]) == (1, 1, 2)
    assert table["echo, 20 dB below the agent"]["stopped"] == 1
    assert table["background noise, white or babble, 15 dB below speech"]["stopped"] == 0


def test_parts_of_one_evaluation_are_one_and_other_settings_are_not():
    parts = [EVAL | {"runs": RUNS[:2]}, EVAL | {"sets": {"turn.endpoint_ms": "800"}}, EVAL | {"runs": RUNS[2:]}]
    first, other = merged(parts)
    assert first["runs"] == RUNS
    assert (first["sets"], other["sets"], len(other["runs"])) == ({}, {"turn.endpoint_ms": "800"}, len(RUNS))


def test_what_fell_short_is_said():
    enough = {wanted.split(",")[0].split(":")[0]: reached for wanted, _, reached in goals(RUNS)}
    assert enough == {
        "barge-in": True,
        "no false stop on echo": False,
        "no word lost or repeated where the agent goes on": False,
        "heard words recorded as played": False,
        "every run as its scenario expects": False,
    }
    good = [
        run("interruptions", "x", barge_in_ms=[100], audio=[audio(interrupted=True, words_recorded=3, words_played=3)])
    ]
    assert all(reached for _, _, reached in goals(good))
    assert not any(reached for wanted, _, reached in goals([]) if "P50" in wanted), "nothing measured reaches nothing"


def test_the_page_has_the_curve_the_tables_and_says_what_is_simulated(tmp_path):
    page = render(tmp_path, [EVAL, EVAL | {"sets": {"turn.endpoint_ms": "800"}}], [PLAIN, HESITATING])
    text = page.read_text()
    assert "Engines were simulated" in text
    assert "2 cores" in text
    assert "| fixed silence, 600 ms | 2 | 1 (50.0 %) | 605 |" in text
    assert "live, turn.endpoint_ms=800" in text
    assert "time to silence P50 100 ms, P95 140 ms" in text
    assert "a / b" in text
    assert (tmp_path / "turn-taking-endpoint.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((tmp_path / "turn-taking.json").read_text())
    assert [len(points) for points in data["offline"].values()] == [len(FIXED_MS), len(SCALES)]
