from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from storage.calls import CallFilter, CallRepository, CarrierEvent
from storage.database import Database, RecordRefusedError
from voice_agent.dialog.records import CallRecord, StageTimes, TurnRecord
from voice_agent.errors import ProtocolError

pytestmark = pytest.mark.postgres


@pytest.fixture
def calls(database: Database) -> CallRepository:
    return CallRepository(database)


def turn(number: int = 1, *, call_id: str = "CA1", text: str = "Where are you?") -> TurnRecord:
    return TurnRecord(
        call_id=call_id,
        turn=number,
        kind="reply",
        times=StageTimes(speech_end_ms=1000, playout_started_ms=1400),
        caller_text_pii=text,
        caller_confidence=0.75,
        agent_text_pii="In Ghent, near the port.",
        heard_text_pii="In Ghent,",
        sources=("visit.md",),
        outcome="interrupted",
        speculations=2,
        tool_calls=("lookup", "book"),
    )


def ended(call_id: str = "CA1") -> CallRecord:
    return CallRecord(call_id, duration_ms=2500, turns=1, barge_ins=1, end_reason="goodbye", counters={"resets": 2})


async def test_a_call_comes_back_with_everything_that_was_kept(calls: CallRepository) -> None:
    await calls.start_call("CA1", "+3225550100", "+3225550199", 1_700_000_000.5)
    await calls.save_turn(turn())
    await calls.end_call(ended())
    call = await calls.get_call("CA1")
    assert call is not None
    assert call["caller_pii"] == "+3225550100"
    assert call["started_at"] == datetime.fromtimestamp(1_700_000_000.5, UTC)
    assert (call["ended_at"] - call["started_at"]).total_seconds() == 2.5
    assert call["counters"] == {"resets": 2}
    (record,) = call["turn_records"]
    assert record["caller_text_pii"] == "Where are you?"
    assert record["heard_text_pii"] == "In Ghent,"
    assert record["times_ms"] == {"speech_end_ms": 1000, "playout_started_ms": 1400}
    assert record["v2v_self_ms"] == 400
    assert record["sources"] == ["visit.md"]
    assert record["tool_calls"] == ["lookup", "book"]


async def test_replay_in_any_order_leaves_the_same_state(calls: CallRepository) -> None:
    async def play() -> object:
        await calls.start_call("CA1", "+32", "+33", 1_700_000_000)
        await calls.save_turn(turn(1))
        await calls.save_turn(turn(2))
        await calls.end_call(ended())
        return await calls.get_call("CA1")

    first = await play()
    assert await play() == first
    await calls._database.execute("DELETE FROM calls")
    await calls.end_call(ended())
    await calls.save_turn(turn(2))
    await calls.save_turn(turn(1))
    await calls.start_call("CA1", "+32", "+33", 1_700_000_000)
    assert await calls.get_call("CA1") == first


async def test_a_newer_record_of_a_turn_replaces_the_older(calls: CallRepository) -> None:
    await calls.save_turn(turn(text="Where"))
    newer = turn(text="Where are you open?")
    newer.tool_calls = ("book",)
    await calls.save_turn(newer)
    call = await calls.get_call("CA1")
    assert call is not None
    assert [(t["caller_text_pii"], t["tool_calls"]) for t in call["turn_records"]] == [
        ("Where are you open?", ["book"])
    ]


async def test_text_postgres_cannot_hold_is_cleaned_not_lost(calls: CallRepository) -> None:
    await calls.save_turn(turn(text="nul\x00 and half \ud83d pair"))
    call = await calls.get_call("CA1")
    assert call is not None
    assert call["turn_records"][0]["caller_text_pii"] == "nul and half ? pair"


async def test_a_record_no_retry_can_save_is_told_apart_and_quotes_nobody(calls: CallRepository) -> None:
    bad = turn(text="my card is 4929")
    bad.turn = 2**40
    with pytest.raises(RecordRefusedError) as caught:
        await calls.save_turn(bad)
    assert not caught.value.retryable
    assert "4929" not in str(caught.value)
    assert await calls.get_call("CA1") is None  # nothing of it was kept


async def test_paging_is_complete_and_stable_while_calls_arrive(calls: CallRepository) -> None:
    for number in range(7):
        await calls.start_call(f"CA{number}", "", "", 1_700_000_000 + number // 2)  # pairs share a start time
    page = await calls.list_calls(limit=3)
    seen = [call["call_id"] for call in page.calls]
    await calls.start_call("CA-new", "", "", 1_800_000_000)
    while page.next_cursor:
        page = await calls.list_calls(limit=3, cursor=page.next_cursor)
        seen += [call["call_id"] for call in page.calls]
    assert seen == ["CA6", "CA5", "CA4", "CA3", "CA2", "CA1", "CA0"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (CallFilter(state="live"), {"CA2"}),
        (CallFilter(state="ended"), {"CA1", "CA3"}),
        (CallFilter(end_reason="silence"), {"CA3"}),
        (CallFilter(caller_pii="+1"), {"CA1"}),
        (CallFilter(called="+8", state="ended"), {"CA3"}),
        (CallFilter(since=datetime.fromtimestamp(2000, UTC)), {"CA2", "CA3"}),
        (CallFilter(until=datetime.fromtimestamp(2000, UTC)), {"CA1"}),
    ],
)
async def test_filters(calls: CallRepository, wanted: CallFilter, expected: set[str]) -> None:
    await calls.start_call("CA1", "+1", "+9", 1000)
    await calls.start_call("CA2", "+2", "+8", 2000)
    await calls.start_call("CA3", "+3", "+8", 3000)
    await calls.end_call(ended("CA1"))
    await calls.end_call(CallRecord("CA3", end_reason="silence"))
    assert {call["call_id"] for call in (await calls.list_calls(wanted)).calls} == expected


@pytest.mark.parametrize("cursor", ["x", "bm90IGpzb24=", "WzEsMl0=", "\udcff"])
async def test_a_foreign_cursor_is_refused(calls: CallRepository, cursor: str) -> None:
    with pytest.raises(ProtocolError, match="cursor"):
        await calls.list_calls(cursor=cursor)


async def test_a_status_callback_sent_twice_is_kept_once(calls: CallRepository) -> None:
    event = CarrierEvent("CA1", "stream-error:MZ1:t", "stream", "stream-error", "31901 timeout", {"StreamSid": "MZ1"})
    assert await calls.add_carrier_event(event)
    assert not await calls.add_carrier_event(event)
    (kept,) = await calls.carrier_events("CA1")
    assert (kept["event"], kept["error"], kept["details"]) == ("stream-error", "31901 timeout", {"StreamSid": "MZ1"})
    assert await calls.get_call("CA1") is None


async def test_columns_with_what_people_said_end_in_pii(database: Database) -> None:
    rows = await database.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    )
    texts = {f"{row['table_name']}.{row['column_name']}" for row in rows if "text" in row["column_name"]}
    assert {"turns.caller_text_pii", "turns.agent_text_pii", "turns.heard_text_pii"} <= texts
    assert [name for name in texts if not name.endswith("_pii")] == []


async def test_an_owner_that_was_replaced_overwrites_nothing(calls: CallRepository) -> None:
    """A process that was frozen wakes up and writes what it thinks became of its call."""
    await calls.start_call("CA1", "+1", "+2", 1_700_000_000.0)
    await calls.save_turn(replace(turn(1, text="first"), epoch=1, code="a"))
    await calls.move_call("CA1", 2)
    await calls.save_turn(replace(turn(2, text="second"), epoch=2, code="b"))
    await calls.save_turn(replace(turn(2, text="stale"), epoch=1, tool_calls=("ghost",)))
    await calls.end_call(replace(ended(), epoch=1, end_reason="gateway_lost"))
    call = await calls.get_call("CA1")
    assert call is not None
    assert call["end_reason"] == ""
    assert [record["caller_text_pii"] for record in call["turn_records"]] == ["first", "second"]
    assert [record["code"] for record in call["turn_records"]] == call["codes"] == ["a", "b"]
    assert call["turn_records"][1]["tool_calls"] == ["lookup", "book"]
    await calls.move_call("CA1", 1)
    await calls.end_call(replace(ended(), epoch=2))
    await calls.end_call(replace(ended(), epoch=1, end_reason="gateway_lost"))
    call = await calls.get_call("CA1")
    assert call is not None
    assert call["end_reason"] == "goodbye"
