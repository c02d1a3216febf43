"""Calls of a whole stack outlive the death of its processes: nothing of them is lost, repeated or cut.

And when the stack itself is killed, nothing of it is left.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from stack_kit import END_WITHIN_S, Up, launched

from cluster import statefile
from cluster.commands.call import target_of
from loadtest.chaos import SETS, run_chaos
from loadtest.chaos_report import ChaosReport
from loadtest.chaos_stack import GATEWAY, POSTGRES, QDRANT, StackView
from loadtest.place import place_call
from loadtest.qdrant_stand_in import QdrantStandIn
from loadtest.sampler import CALL_ACTOR, GCS
from loadtest.script import AgentSilent, CallerScript, HangUp
from loadtest.stack_process import RunningStack
from storage.embedded import EmbeddedPostgres
from voice_agent.errors import EngineUnavailableError

pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.audio, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantStandIn]:
    with QdrantStandIn(tmp_path_factory.mktemp("qdrant")) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, qdrant: QdrantStandIn) -> Iterator[Up]:
    sets = SETS | {"calls.max_calls": "4", "tools.replicas": "1", "kb.qdrant_url": qdrant.url}
    with launched(
        tmp_path_factory.mktemp("stack"), **{key.replace(".", "__"): value for key, value in sets.items()}
    ) as up:
        yield up


@pytest.fixture(scope="module")
def stack(up: Up) -> RunningStack:
    ready = up.ready()
    state = statefile.require(up.data_dir)
    return RunningStack(ready, target_of(state), state.secret_api_key)


async def chaos(
    stack: RunningStack, folder: Path, *planned: tuple[str, str], qdrant: QdrantStandIn | None = None
) -> ChaosReport:
    try:
        report = await run_chaos(stack, folder, planned, calls=2, say=lambda text: None, qdrant=qdrant)
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    assert [(strike.kind, strike.moment) for strike in report.strikes] == list(planned)
    assert not any(kind.never for kind in report.kinds), report.markdown()
    lost = {name: report.totals[name] for name in ("lost", "caller_ms_lost", "repeated", "cut", "skipped")}
    assert not any(lost.values()), report.markdown()
    assert report.totals["records_missing"] == 0, report.markdown()
    return report


async def test_call_actors_die_while_they_listen_think_and_speak(stack: RunningStack, tmp_path: Path) -> None:
    moments = ("listening", "thinking", "speaking")
    report = await chaos(stack, tmp_path, *((CALL_ACTOR, moment) for moment in moments))
    assert report.totals["excused"] == 0
    assert report.totals["answered"] == report.totals["asked"] > 0


async def test_what_calls_do_not_live_in_may_die_as_well_and_so_may_a_gateway(
    stack: RunningStack, qdrant: QdrantStandIn, tmp_path: Path
) -> None:
    others = ((GCS, ""), ("dispatcher", ""), (POSTGRES, ""), ("journal", ""), (QDRANT, ""))
    report = await chaos(stack, tmp_path, *others, (GATEWAY, ""), (CALL_ACTOR, "listening"), qdrant=qdrant)
    assert report.totals["excused"] > 0
    assert report.totals["answered"] == report.totals["asked"] - report.totals["excused"] > 0


async def test_a_call_that_comes_while_there_is_no_http_proxy_is_answered_late(
    stack: RunningStack, tmp_path: Path
) -> None:
    script = CallerScript("late", (HangUp(AgentSilent(600)),), max_call_ms=60_000)
    async with httpx.AsyncClient(trust_env=False) as http:
        view = StackView(stack, http)
        (proxy,), (controller,) = view.processes("proxy_actor"), view.processes("serve_controller")
    controller.suspend()  # who would start another
    try:
        proxy.kill()
        proxy.wait()
        calling = asyncio.create_task(place_call(stack.target, script, tmp_path))
        await asyncio.sleep(1.0)
        assert not calling.done()
    finally:
        controller.resume()
    try:
        outcome = await calling
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    assert (outcome.ok, outcome.streams, outcome.said) == (True, 1, ()), outcome


def test_a_killed_stack_leaves_nothing(up: Up, stack: RunningStack) -> None:
    up.process.send_signal(signal.SIGKILL)
    up.process.wait()
    assert up.left() == []
    psutil.wait_procs([psutil.Process(pid) for pid in stack.pids["guard"] if psutil.pid_exists(pid)], END_WITHIN_S)
    assert not any(psutil.pid_exists(pid) for pid in stack.pids["guard"])
    assert EmbeddedPostgres(up.data_dir).pid is None
    assert not statefile.state_path(up.data_dir).exists()
    assert not Path(stack.ready["ray_token_path"]).parent.exists()
