"""A replica of a whole stack is stopped, not killed, in the middle of what it says: the calls go round it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from stack_kit import launched

from cluster import statefile
from cluster.commands.call import target_of
from loadtest.chaos_stack import StackView
from loadtest.dead_air import script_for, settings_of, turns_of
from loadtest.place import CallProgress, place_call
from loadtest.stack_process import RunningStack

pytestmark = [pytest.mark.ray, pytest.mark.audio, pytest.mark.timeout(300)]

WITHIN_S = 60.0
LENGTH_S = 45.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("stops")
    more = ["stt.replicas=1", "llm.replicas=1", "deadlines.faults=1", "deadlines.cool_down_s=2"]
    sets = settings_of(folder, fallback=False, more=more)
    with launched(folder, **{key.replace(".", "__"): value for key, value in sets.items()}) as up:
        ready = up.ready()
        state = statefile.require(up.data_dir)
        yield RunningStack(ready, target_of(state), state.secret_api_key)
        assert up.process.stdin is not None
        up.process.stdin.close()
        assert up.process.wait(timeout=60.0) == 0


async def replicas_avoided(view: StackView) -> dict[str, str]:
    """Breakers of the voice's replicas that are not closed, as the call actors have them."""
    found: dict[str, str] = {}
    hosts: dict[str, Any] = (await view.status())["dispatcher"]["hosts"]
    for host in hosts.values():
        found |= host["stages"].get("tts", {}).get("replicas", {})
    return found


async def until(view: StackView, *, avoided: bool) -> bool:
    give_up_at_s = time.monotonic() + WITHIN_S
    while time.monotonic() < give_up_at_s:
        if bool(await replicas_avoided(view)) is avoided:
            return True
        await asyncio.sleep(0.2)
    return False


async def test_a_voice_that_is_stopped_in_a_clause_is_gone_round_and_comes_back(
    stack: RunningStack, tmp_path: Path
) -> None:
    speaking = asyncio.Event()

    def note(happened: CallProgress) -> None:
        if happened.kind == "agent_speaks":
            speaking.set()

    async with httpx.AsyncClient(trust_env=False) as http, asyncio.TaskGroup() as tasks:
        view = StackView(stack, http)
        assert len(view.processes("tts")) == 2
        placing = tasks.create_task(place_call(stack.target, script_for(LENGTH_S, 0), tmp_path, note))
        await speaking.wait()
        victim = view.one_of("tts")
        assert victim is not None
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            opened = await until(view, avoided=True)
        finally:
            os.kill(victim.pid, signal.SIGCONT)
        closed = await until(view, avoided=False)
        pids = [process.pid for process in view.processes("tts")]
    assert opened
    assert closed
    assert victim.pid in pids, "it was replaced instead"
    outcome = placing.result()
    assert outcome.ok, outcome
    turns = turns_of(outcome)[:-1]
    assert turns
    assert all(turn.finished for turn in turns), turns
