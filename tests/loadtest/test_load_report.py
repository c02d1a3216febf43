import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.measure import BargeInMeasure, CallMeasures, Percentiles, TurnMeasure
from loadtest.place import CallOutcome
from loadtest.playout import Underrun
from loadtest.script import After, CallerScript, HangUp
from loadtest.swarm import folder, results, summary, tables
from loadtest.swarm.monitor import StackSample
from loadtest.swarm.plan import LOADS, CallerKind, LoadPlan, load_plan
from loadtest.swarm.run import LoadResult
from loadtest.swarm.swarm import GeneratorCost, SwarmCall, SwarmResult
from loadtest.swarm.thresholds import THRESHOLDS, Check, Threshold, check, figure, load_thresholds
from voice_agent.errors import ConfigError

BEGAN_S = 1_000_000.0


def call(number, *, v2v_ms=400, at_s=0.0, wav=None, **changes):
    measures = CallMeasures(
        turns=(TurnMeasure(2000, 4000, 4000 + v2v_ms), TurnMeasure(8000, 9000, 9000 + v2v_ms)),
        barge_ins=(BargeInMeasure(15_000, 15_080),),
        greeting_ms=200,
        starved=(),
        pauses=(),
        lateness_ms=Percentiles(),
        duration_ms=60_000,
    )
    fields = {
        "call_sid": f"CA{number}",
        "script": "asks",
        "ended_by": "caller",
        "reason": "script_done",
        "said": (),
        "stream_errors": (),
        "answer_ms": 30.0,
        "open_ms": 5.0,
        "streams": 1,
        "clears": 1,
        "dropped_frames": 0,
        "unanswered": 0,
        "measures": measures,
        "wav": wav,
        "caller_speech": "flite",
        "media_start_ms": 20,
        "rang_at_s": BEGAN_S + at_s,
        "audio_at_s": BEGAN_S + at_s + 0.03,
    }
    return SwarmCall(number, at_s, CallOutcome(**{**fields, **changes}))


def record(v2v_ms):
    times = {"speech_end_ms": 3990, "pause_ms": 4070, "endpoint_ms": 4290, "playout_started_ms": 3990 + v2v_ms}
    far = {"speech_end_ms": 30_000, "pause_ms": 30_080}
    turns = [{"turn": 1, "v2v_self_ms": v2v_ms, "times_ms": times}, {"turn": 2, "v2v_self_ms": None, "times_ms": far}]
    return {"turn_records": turns}


def sample(at_s, ended, *, pss=100.0):
    cpu_s = {"media_gateway": 0.1 * at_s, "call_actor": 0.2 * at_s}
    memory = {"media_gateway": pss, "call_actor": 300.0} if pss else {}
    return StackSample(at_s, 10, 10 + ended, ended, cpu_s, memory, {"media_gateway": 1, "call_actor": 1})


def load(calls, samples=(), records=None, late=None, **plan):
    wanted = LoadPlan("test", 10, (CallerKind(CallerScript("asks", (HangUp(After(1)),))),), **plan)
    costs = (GeneratorCost(7, "flite", 1.2, late or {1: 1000}, 0.2),)
    result = SwarmResult(wanted, tuple(calls), costs, BEGAN_S, 10.0, 50.0, 70.0)
    facts = summary.StackFacts("simulated", True, "2 CPUs")
    content = summary.summarise(result, facts, samples, records or {})
    return LoadResult(result, tuple(samples), records or {}, content)


def test_figures_of_a_load():
    calls = [call(number, v2v_ms=300 + 10 * number) for number in range(10)]
    found = load(calls, records={"CA0": record(250)}).content
    assert found["calls"]["ok"] == 10
    assert found["calls"]["call_seconds"] == 600.0
    assert found["ms"]["v2v_at_the_ear"]["count"] == 20
    assert found["ms"]["v2v_at_the_ear"]["p50"]["value"] == 340.0
    assert found["ms"]["v2v_self_reported"]["p50"]["value"] == 250.0
    assert found["ms"]["barge_in"]["p95"]["value"] == 80.0
    assert found["ms"]["accepted"]["p95"]["value"] == 35.0
    assert found["stages_ms"]["endpoint_ms"]["p50"]["value"] == 300.0
    assert found["stages_ms"]["first_token_ms"] is None
    assert found["generator"]["cpu_ms_per_call_s"] == 2.0
    assert "not of models" in found["engines"]
    assert any("simulated" in line for line in summary.lines(found))
    json.dumps(found)


def test_failures_are_counted_by_their_reason():
    lost = {"ended_by": "carrier", "reason": "webhook failed", "streams": 0}
    found = load([call(0), call(1, **lost), call(2, **lost), call(3, stream_errors=("refused",))]).content
    assert (found["calls"]["ok"], found["calls"]["failed"]) == (1, 3)
    assert found["failures"] == {"carrier: webhook failed": 2, "caller: script_done refused": 1}
    assert found["ms"]["accepted"]["count"] == 2, "a call that had no stream was not accepted in any time"


def test_cost_is_that_of_the_steady_state_for_each_second_of_a_call_in_it():
    calls = [call(number, at_s=0.0) for number in range(10)]
    samples = [sample(float(at), 0) for at in range(0, 70, 2)]
    found = load(calls, samples, steady_s=40.0).content["cost"]
    assert found["window_s"] == [10.0, 50.0]
    assert found["call_seconds"] == pytest.approx(400.0)
    assert found["cpu_ms_per_call_s"] == pytest.approx(1000 * 0.3 * 40 / 400)
    assert found["cpu_ms_per_call_s_by_kind"] == {"call_actor": 20.0, "media_gateway": 10.0}
    assert found["pss_mb_per_call"] == 40.0


def test_growth_of_memory_is_told_for_each_call_that_ended():
    flat = [sample(10.0 + at, at * 10, pss=100 + at % 3) for at in range(20)]
    grows = [sample(10.0 + at, at * 10, pss=100 + 0.5 * at) for at in range(20)]
    for samples, low, high in ((flat, -10, 10), (grows, 45, 55)):
        found = load([call(0)], samples, steady_s=40.0).content["cost"]["growth"]["all"]
        assert low <= found["value"] <= high
    assert load([call(0)], flat, steady_s=40.0).content["cost"]["growth"]["all"]["low"] <= 0


def test_what_fills_up_in_the_first_calls_is_no_growth_where_as_many_more_follow():
    fills = [sample(10.0 + at, at * 50, pss=100 + 10 * min(at, 6)) for at in range(20)]
    assert load([call(0)], fills, steady_s=40.0).content["cost"]["growth"]["all"]["value"] == 0
    short = load([call(0)], fills[:11], steady_s=40.0).content["cost"]["growth"]["all"]
    assert short["value"] > 100
    grows = [sample(10.0 + at, at * 50, pss=100 + 2.5 * at) for at in range(20)]
    assert load([call(0)], grows, steady_s=40.0).content["cost"]["growth"]["all"]["low"] > 45


def test_a_generator_that_was_late_makes_the_run_invalid_whatever_the_figures():
    late = load([call(0)], late={0: 900, 300: 100})
    assert len(late.content["invalid"]) == 2
    assert load([call(0)]).content["invalid"] == []


def test_gaps_are_those_of_the_platform_and_others_are_named():
    starved = replace(
        call(0).outcome.measures,
        starved=(Underrun(1, 60, True, False),),
        starved_late=(Underrun(2, 80, True, False),),
    )
    gaps = load([call(0, measures=starved), call(1)]).content["gaps"]
    assert (gaps["starved"], gaps["starved_ms"], gaps["calls_with_gaps"]) == (1, 60, 1)
    assert gaps["not_counted_generator_was_late"] == 1


# --- the folder -----------------------------------------------------------------------------------------------


def test_a_folder_has_page_summary_tables_and_verdict(tmp_path):
    samples = [sample(float(at), at) for at in range(0, 60, 2)]
    limits = (Threshold("calls.failed", most=0), Threshold("ms.v2v_at_the_ear.p95.value", most=350))
    wav = tmp_path / "audio" / "call-00000.wav"
    calls = [call(0, wav=wav), call(1, v2v_ms=300)]
    judged = folder.write(load(calls, samples, {"CA0": record(250)}, steady_s=40.0, thresholds=limits), tmp_path)
    assert (judged.verdict, judged.exit_status) == ("failed", 1)
    told = json.loads((tmp_path / "summary.json").read_text())
    assert [item["passed"] for item in told["thresholds"]] == [True, False]
    page = (tmp_path / "report.html").read_text()
    assert "figures of the platform, not of models" in page
    assert page.count("<svg") == 7
    assert 'href="audio/call-00000.wav"' in page
    for outside in ("http-equiv", "src=", "<script", "<link"):
        assert outside not in page, "the page stands alone"
    import polars

    turns = polars.read_parquet(tmp_path / "turns.parquet").to_dicts()
    assert [row["kind"] for row in turns].count("turn") == 4
    first = turns[0]
    assert (first["ear_ms"], first["self_ms"], first["endpoint_ms"]) == (400, 250, 300)
    assert turns[1]["self_ms"] is None, "no record is near this turn"
    assert len(polars.read_parquet(tmp_path / "calls.parquet")) == 2
    assert len(polars.read_parquet(tmp_path / "samples.parquet")) == 60


def test_passed_and_invalid_have_other_exit_states(tmp_path):
    assert folder.write(load([call(0)]), tmp_path).exit_status == 0
    assert folder.write(load([call(0)], late={300: 100}), tmp_path).exit_status == 2
    assert "invalid" in (tmp_path / "report.html").read_text()


def test_a_load_in_which_nothing_worked_still_has_a_report(tmp_path):
    lost = {"ended_by": "refused", "reason": "", "streams": 0, "audio_at_s": 0.0}
    none = CallMeasures((), (), None, (), (), Percentiles(), 0)
    limits = (Threshold("ms.v2v_at_the_ear.p95.value", most=350),)
    judged = folder.write(load([call(0, measures=none, **lost)], thresholds=limits), tmp_path)
    assert judged.verdict == "failed"
    assert "not there" in (tmp_path / "report.html").read_text()


def test_rows_of_samples_say_where_memory_was_not_read():
    rows = list(tables.sample_rows([sample(2.0, 0, pss=0.0)]))
    assert {row["pss_mb"] for row in rows} == {None}


# --- thresholds -----------------------------------------------------------------------------------------------


def test_a_figure_that_is_not_there_is_not_passed():
    assert not Check(Threshold("x", most=1), None).passed
    assert Check(Threshold("x", least=1, most=2), 2.0).passed
    assert not Check(Threshold("x", least=1, most=2), 0.5).passed


def test_a_threshold_may_count_only_for_loads_that_are_long_enough():
    limits = (Threshold("cost.growth", most=0, when={"plan.steady_s": 1200}),)
    assert check({"plan": {"steady_s": 300}}, limits) == []
    assert [item.passed for item in check({"plan": {"steady_s": 1800}, "cost": {"growth": 1}}, limits)] == [False]


@pytest.mark.parametrize("name", ["smoke", "soak"])
def test_shipped_thresholds_name_figures_that_a_summary_has(name):
    samples = [sample(float(at), at) for at in range(0, 60, 2)]
    content = load([call(0), call(1)], samples, steady_s=40.0).content
    limits = load_thresholds(THRESHOLDS / f"{name}.yaml")
    assert limits == load_plan(LOADS / f"{name}.yaml").thresholds
    missing = [item.figure for item in limits if figure(content, item.figure) is None]
    assert missing == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "must be a list"),
        ("- {most: 1}", "must be a mapping with a figure"),
        ("- {figure: a}", "must have most or least"),
        ("- {figure: a, most: yes}", "most must be a number"),
        ("- {figure: a, most: 1, ms: 2}", "unknown key 'ms'"),
    ],
)
def test_a_wrong_file_names_the_place(tmp_path, text, reason):
    path = Path(tmp_path) / "limits.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        load_thresholds(path)


def test_a_caller_who_left_while_it_rang_is_no_failure_and_one_without_a_stream_is():
    assert call(1, streams=0, reason="left").outcome.ok
    assert not call(1, streams=0).outcome.ok


def test_several_loads_stand_side_by_side_with_their_data(tmp_path):
    samples = [sample(float(at), 0) for at in range(10, 51, 5)]
    for calls in (1, 10):
        reports = tmp_path / str(calls)
        reports.mkdir()
        folder.write(load([call(number, v2v_ms=300 + calls) for number in range(calls)], samples), reports)
    told = [f"{calls} calls={tmp_path / str(calls)}" for calls in (1, 10)]
    page = results.write([results.read_report(one) for one in told], tmp_path / "out").read_text()
    assert "| calls that went through | 1 of 1 | 10 of 10 |" in page
    assert "| v2v at the ear P50 / P95, ms | 301 (" in page
    assert "| call_actor |" in page
    assert set(re.findall(r"\]\((\S+?)\)", page)) == {path.name for path in (tmp_path / "out").iterdir()} - {"load.md"}


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="LABEL=FOLDER"):
        results.read_report(f"ten={tmp_path}")
