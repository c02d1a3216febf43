"""Which handles the Serve plane uses: sticky ones for the recogniser where there may be several replicas, and tools."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("ray")

from actors.call.serve_plane import STAGES, ServePlane
from voice_agent.plan import Outcome
from voice_agent.ports import Capabilities, TranscribeRequest, TranscribeResponse
from voice_agent.tools import ToolRequest, ToolSpec

SPECS = [ToolSpec("look_up_order", "sql"), ToolSpec("end_call", "end_call")]


class FakeResponse:
    """What a handle gives: awaitable, with an id."""

    request_id = "r1"

    def __init__(self, answer):
        self._answer = answer

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self._answer


class FakeHandle:
    """A handle whose every method answers from a table and notes the options it was called with."""

    def __init__(self, app, calls, method="", options=None):
        self._app, self._calls, self._method, self._options = app, calls, method, options or {}

    def options(self, **options):
        method = options.pop("method_name", self._method)
        return FakeHandle(self._app, self._calls, method, {**self._options, **options})

    def __getattr__(self, name):
        return FakeHandle(self._app, self._calls, name, self._options)

    def remote(self, *arguments):
        self._calls.append((self._app, self._method, self._options, arguments))
        answers = {
            "capabilities": Capabilities("simulated", "1"),
            "specs": SPECS,
            "run": Outcome("look_up_order", True),
            "transcribe": TranscribeResponse(text="hi"),
        }
        return FakeResponse(answers[self._method])


async def plane_of(monkeypatch, **options):
    calls = []
    monkeypatch.setattr(
        "actors.call.serve_plane.serve.get_deployment_handle", lambda deployment, app: FakeHandle(app, calls)
    )
    plane = ServePlane(**options)
    await plane.warm()
    assert {app for app, *_ in calls} == set(STAGES)
    calls.clear()
    return plane, calls


@pytest.mark.parametrize(("sticky", "options"), [(True, {"session_id": "CA1"}), (False, {})])
async def test_requests_of_a_call_go_to_one_recogniser(monkeypatch, sticky, options):
    plane, calls = await plane_of(monkeypatch, sticky=sticky)
    assert (await plane.transcribe(TranscribeRequest("CA1", 1, 0, b""))).text == "hi"
    assert [(app, method, seen) for app, method, seen, _ in calls] == [("stt", "transcribe", options)]


async def test_tools_are_known_once_warm_and_run_by_their_app(monkeypatch):
    plane, calls = await plane_of(monkeypatch)
    assert list(plane.tool_specs) == ["look_up_order", "end_call"]
    request = ToolRequest("CA1", 2, 0, "look_up_order", {}, "CA1/2/0")
    assert (await plane.run_tool(request)).ok
    assert calls == [("tools", "run", {}, (request,))]
    assert plane.open_requests == 0
