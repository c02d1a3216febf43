import asyncio
import json
import os
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from fake_stack import FakeStack, tone

from loadtest import bench
from loadtest.bench_report import BenchResult, LoadResult, PlanResult, print_tables
from loadtest.measure import Percentiles
from loadtest.sampler import CALL_ACTOR, StackSampler, Usage, kind_of
from loadtest.script import AgentSilent, CallerScript, HangUp, Say, load_script
from loadtest.stack_process import RunningStack, StackFailedError, running_stack
from voice_agent.twilio import messages


def load_result(**changes):
    fields = {
        "calls": 10,
        "rounds": 1,
        "ok": 10,
        "failures": (),
        "unanswered": 0,
        "v2v_ms": Percentiles.of([300, 400]),
        "barge_in_ms": Percentiles(),
        "greeting_ms": Percentiles(),
        "starved_holes": 0,
        "starved_ms": 0,
        "pauses_ms": Percentiles(),
        "call_seconds": 500.0,
        "wall_s": 60.0,
        "cpu_s_by_kind": {"gateway": 4.0, "call_actor": 3.0},
        "generator_cpu_s": 2.5,
        "generator_late_p95_ms": 1.0,
        "generator_late_max_ms": 9.0,
        "active_pss_mb": 900.0,
        "active_pss_by_kind": {"gateway": 100.0},
        "recordings": (),
    }
    return LoadResult(**{**fields, **changes})


def test_cost_of_a_call_second_with_and_without_the_idle_stack():
    result = load_result().over_idle(idle_cores=0.05, idle_pss_mb=800.0)
    assert result.cpu_ms_per_call_s == pytest.approx(14.0)
    assert result.net_cpu_ms_per_call_s == pytest.approx((7.0 - 0.05 * 60) * 1000 / 500)
    assert result.active_call_mb == pytest.approx(10.0)
    assert result.generator_ms_per_call_s == pytest.approx(5.0)


def test_a_load_that_failed_has_no_figures_and_no_crash():
    result = load_result(ok=0, call_seconds=0.0, active_pss_mb=0.0, v2v_ms=Percentiles()).over_idle(0.1, 800.0)
    assert (result.cpu_ms_per_call_s, result.active_call_mb, result.generator_ms_per_call_s) == (0.0, 0.0, 0.0)


def test_memory_of_a_warm_call_is_its_share_of_an_actor():
    idle = Usage({}, {CALL_ACTOR: 120.0, "gateway": 50.0}, {CALL_ACTOR: 2, "gateway": 1})
    assert bench.idle_call_mb(idle, calls_per_actor=10) == pytest.approx(6.0)
    assert bench.idle_call_mb(Usage({}, {}, {}), calls_per_actor=1) == 0.0


def test_concurrent_callers_ask_in_another_order_at_the_same_moments():
    script = load_script(bench.SCRIPT)
    first, second = bench.varied(script, 0), bench.varied(script, 1)
    assert first.steps == script.steps
    assert [type(step) for step in first.steps] == [type(step) for step in second.steps]
    assert [step.when for step in first.steps] == [step.when for step in second.steps]
    asked = [[step.text for step in s.steps if isinstance(step, Say)] for s in (first, second)]
    assert sorted(asked[0]) == sorted(asked[1])
    assert asked[0] != asked[1]


def test_tables_and_json_hold_every_plan(capsys):
    plan = PlanResult(
        name="dense",
        profile="simulated",
        simulated=True,
        calls_per_actor=10,
        max_calls=10,
        start_s=9.0,
        idle_cores=0.05,
        idle_cores_by_kind={"gateway": 0.01},
        idle_pss_mb=800.0,
        idle_pss_by_kind={"gateway": 90.0},
        processes={"gateway": 1},
        idle_call_mb=6.0,
        unreadable_processes=0,
        loads=(load_result(failures=("carrier: it broke",)).over_idle(0.05, 800.0),),
    )
    result = BenchResult("2026-01-01T00:00:00+00:00", "2 CPUs", (plan,))
    print_tables(result)
    shown = capsys.readouterr().out
    assert "simulated" in shown
    assert "it broke" in shown
    written = json.loads(json.dumps(result.as_dict()))
    assert written["plans"][0]["loads"][0]["v2v_ms"]["p95"] == 400


def test_sampler_counts_children_and_what_has_ended():
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\ninput()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        sampler = StackSampler.of_ready_line({"gateway": [child.pid]})
        used = {}
        deadline_s = time.monotonic() + 20
        while psutil.Process(child.pid).children() or sum(used.values()) < 0.1:
            assert time.monotonic() < deadline_s
            used = sampler.cpu()
            time.sleep(0.02)
        usage = sampler.usage()
        assert usage.processes["gateway"] == 1
        assert usage.pss_mb["gateway"] > 1
        assert sum(sampler.cpu().values()) >= 0.1, "the ended child stays counted"
    finally:
        child.communicate(b"\n")
    after = sampler.usage()
    assert after.total_pss_mb == 0
    assert after.total_cpu_s >= 0.1


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("ray::ServeReplica:stt:SpeechToText", "stt"),
        ("ray::CallActor.start", "call_actor"),
        ("ray::MediaGateway", "media_gateway"),
        ("ray::IDLE", "ray_idle_worker"),
        ("/somewhere/ray/core/src/ray/gcs/gcs_server --log_dir=/x", "ray_gcs"),
        ("postgres: checkpointer", "postgres"),
        ("/usr/bin/something --x", "other"),
    ],
)
def test_kinds_by_process_title(title, kind):
    class Process:
        def cmdline(self):
            return [title]

    assert kind_of(Process()) == kind


FAKE_UP = textwrap.dedent(
    """
    import json, os, sys
    sys.stderr.write("starting " + " ".join(sys.argv[1:]) + chr(10))
    if "break" in sys.argv[-1]:
        sys.exit("no Postgres here")
    ready = {"webhook_url": "http://127.0.0.1:1/twilio/voice", "pids": {"cli": [os.getpid()]}}
    ready |= {"token_set": bool(os.environ["TWILIO_AUTH_TOKEN"]), "public": os.environ.get("PUBLIC_URL")}
    print(json.dumps(ready), flush=True)
    sys.stdin.read()
    """
)


async def test_a_stack_of_its_own_ends_with_the_block(tmp_path, monkeypatch):
    monkeypatch.setenv("PUBLIC_URL", "https://somewhere.example")
    up = (sys.executable, "-c", FAKE_UP)
    async with running_stack("simulated", {"calls.max_calls": "3"}, tmp_path, tmp_path / "up.log", up) as stack:
        assert stack.target.webhook_url == "http://127.0.0.1:1"
        assert stack.target.auth_token
        assert stack.ready["token_set"]
        assert stack.ready["public"] is None, "a public address of another stack is not used"
        (pid,) = stack.pids["cli"]
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)
    assert "--profile simulated" in (tmp_path / "up.log").read_text()
    assert "--set calls.max_calls=3" in (tmp_path / "up.log").read_text()


async def test_a_stack_that_does_not_start_says_why(tmp_path):
    up = (sys.executable, "-c", FAKE_UP)
    with pytest.raises(StackFailedError, match="no Postgres here"):
        async with running_stack("simulated", {"x": "break"}, tmp_path, tmp_path / "up.log", up):
            pass


async def test_a_stack_is_measured_idle_and_under_load(tmp_path, monkeypatch):
    for name in ("_SETTLE_S", "_IDLE_S", "_MEMORY_AFTER_S"):
        monkeypatch.setattr(bench, name, 0.05)

    async def agent(peer):
        await peer.play(tone(700))
        await peer.wait_for(messages.Stop)

    script = CallerScript("t", (Say("When are you open?", AgentSilent(100)), HangUp(AgentSilent(100, patience_ms=200))))
    plan = bench.Plan("tiny", "simulated", 1, 2, (bench.Load(2, rounds=2),))
    connect = {"/twilio/voice": FakeStack.connect, "/twilio/stream-ended": "<Response><Hangup/></Response>"}
    async with FakeStack(agent, connect) as fake:
        stack = RunningStack({"pids": {"call_actor": [os.getpid()]}, "start_s": {"total": 1.5}}, fake.target)
        result = await asyncio.wait_for(bench.measure_stack(stack, plan, script, tmp_path, print), 60)
    (load,) = result.loads
    assert (load.ok, load.failures) == (4, ())
    assert load.cpu_s_by_kind["call_actor"] > 0
    assert load.active_pss_mb > 0
    assert load.call_seconds > 1
    assert load.generator_cpu_s > 0
    assert result.idle_call_mb > 0
    assert result.start_s == 1.5
    assert len({*load.recordings}) == 4


def test_command_line_names_what_is_allowed(capsys):
    with pytest.raises(SystemExit):
        bench.main(["nonsense"])
    assert "embedded, dense, one-to-one" in capsys.readouterr().err
