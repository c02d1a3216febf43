from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from ingress_fakes import Stack, context, no_postgres, unreachable

from storage.calls import CallFilter
from voice_agent.errors import EngineFailedError

CALL: dict[str, Any] = {
    "call_id": "CA1",
    "caller_pii": "+32",
    "called": "+33",
    "started_at": datetime(2026, 1, 1, tzinfo=UTC),
    "ended_at": None,
    "duration_ms": 0,
    "turns": 1,
    "barge_ins": 0,
    "end_reason": "",
    "counters": {},
}
TURN: dict[str, Any] = {
    "turn": 1,
    "kind": "reply",
    "outcome": "completed",
    "caller_text_pii": "hello",
    "caller_confidence": 0.5,
    "agent_text_pii": "hi",
    "heard_text_pii": "hi",
    "sources": [],
    "tool_calls": [],
    "failed_stages": [],
    "speculations": 1,
    "times_ms": {"endpoint_ms": 5},
    "v2v_self_ms": None,
    "engines": {},
    "fillers": 0,
    "code": "",
}

ROUTES = [
    ("GET", "/api/calls"),
    ("GET", "/api/calls/CA1"),
    ("GET", "/api/calls/CA1/events"),
    ("GET", "/api/kb/documents"),
    ("DELETE", "/api/kb/documents?source=a.md"),
    ("POST", "/api/kb/ingest"),
    ("POST", "/api/kb/ask"),
    ("GET", "/api/status"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("key", [None, "", "the-ke", "the-key2", "thé-key"])
async def test_every_route_needs_the_key(method: str, path: str, key: str | None) -> None:
    if key == "thé-key":
        key = key.encode("latin-1")  # type: ignore[assignment]
    answer = await Stack().api(method, path, key=key)
    assert answer.status_code == 401
    assert answer.json()["code"] == "auth"


async def test_a_route_that_is_forgotten_here_fails() -> None:
    schema = (await Stack().api("GET", "/openapi.json")).json()
    documented = {
        (method.upper(), path.replace("{call_id}", "CA1"))
        for path, methods in schema["paths"].items()
        for method in methods
        if path.startswith("/api")
    }
    assert documented == {(method, path.partition("?")[0]) for method, path in ROUTES}


async def test_a_stack_without_a_key_lets_nobody_in() -> None:
    import dataclasses

    stack = Stack(dataclasses.replace(context(), api_key=""))
    assert (await stack.api("GET", "/api/calls", key="")).status_code == 401


async def test_calls_are_listed_with_filters_and_paging() -> None:
    stack = Stack()
    stack.calls.calls["CA1"] = CALL
    answer = await stack.api(
        "GET", "/api/calls?state=ended&end_reason=silence&called=%2B33&since=2026-01-01&limit=2&cursor=c"
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["next_cursor"] == "more"
    assert answer.json()["calls"][0]["started_at"] == "2026-01-01T00:00:00Z"
    wanted = CallFilter("ended", "silence", "", "+33", datetime(2026, 1, 1, tzinfo=UTC), None)
    assert stack.calls.asked == [(wanted, 2, "c")]


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "state=half", "since=yesterday"])
async def test_wrong_filters_are_told(query: str) -> None:
    answer = await Stack().api("GET", f"/api/calls?{query}")
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"
    assert query.partition("=")[0] in answer.json()["message"]


async def test_a_call_comes_with_its_turns() -> None:
    stack = Stack()
    stack.calls.calls["CA1"] = CALL | {"turn_records": [TURN], "carrier_events": []}
    assert (await stack.api("GET", "/api/calls/CA1")).json()["turn_records"] == [TURN]
    answer = await stack.api("GET", "/api/calls/CA2")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_the_live_tail_goes_on_where_it_was() -> None:
    stack = Stack()
    first = (await stack.api("GET", "/api/calls/CA1/events")).json()
    assert ([event["seq"] for event in first["events"]], first["next"]) == ([1, 2, 3], 3)
    assert (await stack.api("GET", "/api/calls/CA1/events?after=2")).json()["next"] == 3
    assert (await stack.api("GET", "/api/calls/CA1/events?after=9")).json() == {"events": [], "next": 9}


async def test_an_ingest_reloads_the_recognisers() -> None:
    stack = Stack()
    answer = await stack.api("POST", "/api/kb/ingest", json={"paths": ["/kb"]})
    assert answer.json() == {"added": ["/kb"], "failed": {}, "recognisers_reloaded": 2, "reload_error": ""}
    answer = await stack.api("DELETE", "/api/kb/documents?source=a.md")
    assert answer.json()["removed"] == ["a.md"]
    assert stack.stages.reloads == 2


async def test_an_ingest_is_not_lost_when_a_recogniser_does_not_reload() -> None:
    stack = Stack()
    stack.stages.reload_error = EngineFailedError("no vocabulary")
    answer = await stack.api("POST", "/api/kb/ingest", json={"paths": ["/kb"]})
    assert answer.status_code == 200
    assert answer.json()["reload_error"] == "no vocabulary"


@pytest.mark.parametrize("body", [{}, {"paths": []}, {"paths": "x"}, {"paths": [""]}, {"paths": ["a"], "x": 1}, []])
async def test_wrong_bodies_are_told(body: object) -> None:
    answer = await Stack().api("POST", "/api/kb/ingest", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_a_document_that_is_not_there_is_404() -> None:
    answer = await Stack().api("DELETE", "/api/kb/documents?source=b.md")
    assert (answer.status_code, answer.json()["code"]) == (404, "document")


async def test_a_question_is_answered_as_on_the_phone() -> None:
    stack = Stack()
    answer = (await stack.api("POST", "/api/kb/ask", json={"question": "When?", "top_k": 1})).json()
    assert (answer["answer"], answer["sources"]) == ("We open at nine.", ["a.md"])
    assert (answer["finish_reason"], answer["kb_version"], len(answer["passages"])) == ("stop", "v1", 1)
    (request,) = stack.stages.asked
    assert request.messages[-1].content == "When?"
    assert len(request.passages) == 1


async def test_a_question_is_not_repeated_in_an_error() -> None:
    answer = await Stack().api("POST", "/api/kb/ask", json={"question": {"my card": "4929"}})
    assert answer.status_code == 422
    assert "4929" not in answer.text


async def test_postgres_away_is_503_with_a_hint_to_retry() -> None:
    stack = Stack()
    stack.calls.error = no_postgres()
    answer = await stack.api("GET", "/api/calls")
    assert (answer.status_code, answer.json()["code"]) == (503, "storage")
    assert answer.headers["retry-after"]


async def test_an_unexpected_failure_tells_nothing_of_the_inside() -> None:
    stack = Stack()
    stack.calls.calls["CA1"] = {"call_id": "CA1"}  # does not fit the response
    answer = await stack.api("GET", "/api/calls/CA1")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "turn_records" not in answer.text


async def test_status_says_which_part_does_not_answer() -> None:
    stack = Stack()
    stack.dispatcher.error = unreachable()
    report = (await stack.api("GET", "/api/status")).json()
    assert report["dispatcher"]["error"] == "unreachable"
    assert report["journal"] == {"pending": 0}
    assert report["gateways"] == {}
    stack.dispatcher.error = None
    assert (await stack.api("GET", "/api/status")).json()["gateways"]["g"]["sockets"] == 0
    assert (report["run_id"], report["profile"]) == ("run-1", "embedded")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/twilio/voice", 405)])
async def test_other_errors_have_the_same_form(method: str, path: str, status: int) -> None:
    answer = await Stack().api(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"code", "message"}
