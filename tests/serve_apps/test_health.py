from __future__ import annotations

import asyncio
from typing import Any

from ingress_fakes import Stack, no_postgres, unreachable

from serve_apps.backends import Backends
from serve_apps.health import readiness


def parts(**wrong: str) -> dict[str, dict[str, Any]]:
    names = ("dispatcher", "gateway", "journal", "stt", "llm", "tts", "retriever", "postgres")
    return {name: {"ok": name not in wrong, "why": wrong.get(name, "")} for name in names}


async def test_a_process_that_answers_is_alive_whatever_else_is_not() -> None:
    stack = Stack()
    stack.dispatcher.error = unreachable()
    assert (await stack.api("GET", "/healthz", key=None)).json() == {"status": "ok"}


async def test_ready_when_every_part_is() -> None:
    answer = await Stack().api("GET", "/readyz", key=None)
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "parts": parts()})


async def test_each_part_says_why_it_is_not() -> None:
    stack = Stack()
    stack.dispatcher.report = {"draining": True, "hosts": {"h": {}}, "gateways": {}}
    stack.stages.problems = stack.stages.problems | {"tts": "DEPLOYING"}
    stack.calls.error = no_postgres()
    answer = await stack.api("GET", "/readyz", key=None)
    assert answer.status_code == 503
    assert answer.json()["parts"] == parts(
        dispatcher="draining: no new calls are taken",
        gateway="no media gateway is registered",
        tts="DEPLOYING",
        postgres="Postgres failed: gone",
    )


async def test_no_call_actor_is_not_ready() -> None:
    stack = Stack()
    stack.dispatcher.report["hosts"] = {}
    assert (await stack.api("GET", "/readyz", key=None)).json()["parts"]["dispatcher"]["ok"] is False


async def test_a_part_that_hangs_is_told_and_does_not_hold_up_the_rest() -> None:
    stack = Stack()

    async def hang() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    stack.journal.status = hang  # type: ignore[method-assign]
    backends = Backends(stack.dispatcher, stack.journal, stack.gateways, stack.calls, stack.stages)
    found = await asyncio.wait_for(readiness(backends, 0.05), 10)
    assert found == parts(journal="no answer within 0.05 s")
