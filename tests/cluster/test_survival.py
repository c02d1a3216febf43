"""Calls of a whole stack outlive the death of its processes: nothing of them is lost, repeated or cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stack_kit import launched

from cluster import statefile
from cluster.commands.call import target_of
from loadtest.chaos import SETS, run_chaos
from loadtest.chaos_report import ChaosReport
from loadtest.chaos_stack import GATEWAY, POSTGRES
from loadtest.sampler import CALL_ACTOR
from loadtest.stack_process import RunningStack
from voice_agent.errors import EngineUnavailableError

pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.audio, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("stack")
    sets = SETS | {"calls.max_calls": "4", "tools.replicas": "1"}
    with launched(folder, **{key.replace(".", "__"): value for key, value in sets.items()}) as up:
        ready = up.ready()
        state = statefile.require(up.data_dir)
        yield RunningStack(ready, target_of(state), state.secret_api_key)


async def chaos(stack: RunningStack, folder: Path, *planned: tuple[str, str]) -> ChaosReport:
    try:
        report = await run_chaos(stack, folder, planned, calls=2, say=lambda text: None)
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


async def test_what_calls_do_not_live_in_may_die_as_well(stack: RunningStack, tmp_path: Path) -> None:
    report = await chaos(stack, tmp_path, ("dispatcher", ""), (POSTGRES, ""), ("journal", ""))
    assert report.totals["answered"] == report.totals["asked"] > 0


async def test_a_gateway_dies_and_its_calls_come_back_by_the_other(stack: RunningStack, tmp_path: Path) -> None:
    report = await chaos(stack, tmp_path, (GATEWAY, ""), (CALL_ACTOR, "listening"))
    assert report.totals["excused"] > 0
    assert report.totals["answered"] > 0
