from __future__ import annotations

import dataclasses
import logging
import xml.etree.ElementTree as ElementTree

import httpx
import pytest
from ingress_fakes import AUTH_TOKEN, NOW_S, PUBLIC, Stack, context, no_postgres, unreachable

from configs.settings import PolicySettings, ToolSettings
from serve_apps.webhooks import MAX_RECONNECTS
from voice_agent.errors import AuthError
from voice_agent.twilio import tokens


def verbs(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/xml")
    return [verb.tag for verb in ElementTree.fromstring(answer.text)]


def spoken(answer: httpx.Response) -> str:
    assert verbs(answer) == ["Say", "Hangup"]
    return ElementTree.fromstring(answer.text).findtext("Say") or ""


def stream(answer: httpx.Response) -> tuple[dict[str, str], dict[str, str], str]:
    """Attributes of Connect and Stream, and the token; who calls whom stands beside it."""
    assert verbs(answer) == ["Connect"]
    connect = ElementTree.fromstring(answer.text)[0]
    (found,) = connect
    parameters = {parameter.get("name"): parameter.get("value") or "" for parameter in found}
    assert set(parameters) - {"stream"} == {"token", "caller", "called"}
    # Each stream of a call is numbered, so that what was said of an earlier one is known to be older.
    assert parameters.get("stream", "") == (connect.get("action") or "").partition("?attempt=")[2]
    assert (parameters["caller"], parameters["called"]) == ("+3225550100", "+3225550199")
    return dict(connect.attrib), dict(found.attrib), parameters["token"]


async def test_a_call_is_connected_to_the_gateway_it_was_admitted_to() -> None:
    stack = Stack()
    connect, found, token = stream(await stack.post("/twilio/voice"))
    assert stack.dispatcher.admitted == [("CA1", "+3225550100", "+3225550199")]
    assert connect == {"action": f"{PUBLIC}/twilio/stream-ended"}
    assert found == {"url": "wss://voice.example.com/media", "statusCallback": f"{PUBLIC}/twilio/stream-status"}
    claims = {"call_id": "CA1", "audience": "gateway-1"}
    assert tokens.verify("stream-secret", token, now_s=NOW_S + 59, **claims) == "nonce"
    with pytest.raises(AuthError, match="expired"):
        tokens.verify("stream-secret", token, now_s=NOW_S + 60, **claims)
    assert len(token) < 450


@pytest.mark.parametrize("path", ["voice", "stream-ended", "status", "stream-status"])
async def test_no_webhook_is_believed_unsigned(path: str) -> None:
    stack = Stack()
    for answer in (
        await stack.post(f"/twilio/{path}", sign=False),
        await stack.post(f"/twilio/{path}", token="another token"),
    ):
        assert answer.status_code == 403
        assert answer.json()["code"] == "auth"
    assert (stack.dispatcher.admitted, stack.journal.kept, stack.calls.kept) == ([], [], [])


async def test_every_parameter_is_under_the_signature() -> None:
    stack = Stack()
    async with stack.client() as client:
        signed = await stack.post("/twilio/voice")
        request = signed.request
        for body in (
            request.content.replace(b"CA1", b"CA2"),
            request.content + b"&Extra=1",
            request.content.replace(b"&AccountSid=AC1", b""),
        ):
            headers = dict(request.headers) | {"content-length": str(len(body))}
            assert (await client.post("/twilio/voice", content=body, headers=headers)).status_code == 403
        headers = dict(request.headers)
        assert (await client.post("/twilio/voice?x=1", content=request.content, headers=headers)).status_code == 403
        assert (await client.post("/twilio/voice", content=request.content, headers=headers)).status_code == 200


async def test_without_an_auth_token_nothing_is_believed() -> None:
    answer = await Stack(context(auth_token="")).post("/twilio/voice", token="")
    assert answer.status_code == 403
    assert "not verifiable" in answer.json()["message"]


async def test_a_closed_bench_may_turn_signatures_off() -> None:
    stack = Stack(context(verify_signatures=False))
    assert verbs(await stack.post("/twilio/voice", sign=False)) == ["Connect"]


async def test_only_the_configured_account_is_served() -> None:
    stack = Stack(context(account_sid="AC1"))
    assert verbs(await stack.post("/twilio/voice")) == ["Connect"]
    assert (await stack.post("/twilio/voice", AccountSid="AC2")).status_code == 403


@pytest.mark.parametrize(("asked", "told"), [(0, True), (1, False), (2, False), (3, True)])
async def test_a_caller_who_waits_is_told_now_and_then_and_asks_again(asked: int, told: bool) -> None:
    stack = Stack()
    stack.dispatcher.refuse, stack.dispatcher.wait_s, stack.dispatcher.asked = "queue", 3, asked
    answer = await stack.post("/twilio/voice")
    assert verbs(answer) == ["Say"] * told + ["Pause", "Redirect"]
    assert (stack.context.settings.agent.queue in answer.text) == told
    assert 'length="3"' in answer.text
    assert f"{PUBLIC}/twilio/voice<" in answer.text
    stack.dispatcher.refuse = ""
    assert verbs(await stack.post("/twilio/voice")) == ["Connect"]


async def test_a_caller_who_hangs_up_in_the_line_leaves_it() -> None:
    stack = Stack()
    stack.dispatcher.states = ["queued"]
    await stack.post("/twilio/status", CallStatus="completed")
    assert stack.dispatcher.released == [("CA1", "caller_hung_up")]


@pytest.mark.parametrize("reason", ["full", "overloaded", "draining", "no_gateway", "not_ready"])
async def test_a_full_house_is_said_not_silence(reason: str) -> None:
    stack = Stack()
    stack.dispatcher.refuse = reason
    assert spoken(await stack.post("/twilio/voice")) == stack.context.settings.agent.full_house


@pytest.mark.parametrize("error", [unreachable(), RuntimeError("a bug")])
@pytest.mark.parametrize("path", ["/twilio/voice", "/twilio/stream-ended"])
async def test_a_dispatcher_out_of_reach_is_said_not_a_dead_line(error: Exception, path: str) -> None:
    stack = Stack()
    stack.dispatcher.error = error
    assert spoken(await stack.post(path)) == stack.context.settings.agent.out_of_service


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"CallSid", "application/x-www-form-urlencoded"),
        (b"a=%ff%fe", "application/x-www-form-urlencoded"),
        (b"a=\xff", "application/x-www-form-urlencoded"),
        (b"&".join(b"p%d=1" % number for number in range(500)), "application/x-www-form-urlencoded"),
        (b'{"CallSid": "CA1"}', "application/json"),
        (b"CallSid=CA1", ""),
    ],
)
async def test_what_is_no_form_is_refused(body: bytes, kind: str) -> None:
    async with Stack().client() as client:
        answer = await client.post("/twilio/voice", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert answer.json()["code"] == "protocol"


@pytest.mark.parametrize("sid", ["", "CA 1", "x" * 65, "../etc", "CA1\n"])
async def test_a_call_without_a_sane_id_is_refused(sid: str) -> None:
    stack = Stack()
    assert (await stack.post("/twilio/voice", CallSid=sid)).status_code == 400
    assert stack.dispatcher.admitted == []


async def test_an_empty_body_is_no_crash() -> None:
    async with Stack().client() as client:
        answer = await client.post(
            "/twilio/voice", content=b"", headers={"content-type": "application/x-www-form-urlencoded"}
        )
    assert answer.status_code == 403


async def test_a_body_over_the_limit_is_refused_declared_or_not() -> None:
    async def endless() -> object:
        for _ in range(1000):
            yield b"a" * 1000

    async with Stack().client() as client:
        for content in (b"a" * 70_000, endless()):
            answer = await client.post("/twilio/voice", content=content)  # type: ignore[arg-type]
            assert answer.status_code == 413
            assert answer.json()["code"] == "too_large"


@pytest.mark.parametrize("state", ["ended:goodbye", "ended:caller_hung_up", "ended:silence"])
async def test_a_call_that_is_over_is_hung_up(state: str) -> None:
    stack = Stack()
    stack.dispatcher.states = [state]
    assert verbs(await stack.post("/twilio/stream-ended", CallStatus="in-progress")) == ["Hangup"]
    assert stack.dispatcher.admitted == []


async def test_a_call_that_failed_ends_in_words() -> None:
    stack = Stack()
    stack.dispatcher.states = ["ended:failed"]
    answer = await stack.post("/twilio/stream-ended", CallStatus="in-progress")
    assert spoken(answer) == stack.context.settings.agent.out_of_service
    assert stack.dispatcher.admitted == []
    assert verbs(await stack.post("/twilio/stream-ended", CallStatus="completed")) == ["Hangup"]


@pytest.mark.parametrize(
    ("state", "released"),
    [("lost", [("CA1", "caller_hung_up")]), ("ended:stream_lost", []), ("live", [])],
)
async def test_a_caller_who_is_gone_gets_no_new_stream(state: str, released: list[tuple[str, str]]) -> None:
    stack = Stack()
    stack.dispatcher.states = [state]
    assert verbs(await stack.post("/twilio/stream-ended", CallStatus="completed")) == ["Hangup"]
    assert stack.dispatcher.admitted == []
    assert stack.dispatcher.released == released


@pytest.mark.parametrize(
    "state", ["lost", "live", "reserved", "unknown", "ended:lost", "ended:expired", "ended:stream_lost"]
)
async def test_a_lost_stream_is_replaced_a_bounded_number_of_times(state: str) -> None:
    stack = Stack()
    stack.dispatcher.states = [state]
    path = "/twilio/stream-ended"
    seen = set()
    for _ in range(MAX_RECONNECTS):
        connect, _, token = stream(await stack.post(path, CallStatus="in-progress"))
        assert connect["action"].startswith(f"{PUBLIC}/twilio/stream-ended?attempt=")
        path = connect["action"].removeprefix(PUBLIC)
        seen.add(path)
        assert tokens.verify("stream-secret", token, call_id="CA1", audience="gateway-1", now_s=NOW_S) == "nonce"
    assert len(seen) == MAX_RECONNECTS
    answer = await stack.post(path, CallStatus="in-progress")
    assert spoken(answer) == stack.context.settings.agent.out_of_service
    assert len(stack.dispatcher.admitted) == MAX_RECONNECTS


async def test_the_attempt_count_is_under_the_signature() -> None:
    stack = Stack()
    stack.dispatcher.states = ["lost"]
    request = (await stack.post(f"/twilio/stream-ended?attempt={MAX_RECONNECTS}")).request
    async with stack.client() as client:
        answer = await client.post("/twilio/stream-ended", content=request.content, headers=dict(request.headers))
    assert answer.status_code == 403


@pytest.mark.parametrize("attempt", ["x", "-1", "²", "99999999999"])
async def test_a_count_we_did_not_write_ends_the_call(attempt: str) -> None:
    stack = Stack(context(verify_signatures=False))
    stack.dispatcher.states = ["lost"]
    assert "Say" in verbs(await stack.post(f"/twilio/stream-ended?attempt={attempt}", sign=False))


async def test_the_end_of_a_call_may_reach_the_dispatcher_after_the_carrier_asks() -> None:
    stack = Stack(settle_s=5.0)
    stack.dispatcher.states = ["live", "live", "ended:goodbye"]
    assert verbs(await stack.post("/twilio/stream-ended", CallStatus="in-progress")) == ["Hangup"]


async def test_stream_errors_are_kept_in_the_journal_and_in_postgres() -> None:
    stack = Stack()
    answer = await stack.post(
        "/twilio/stream-status",
        StreamSid="MZ1",
        StreamEvent="stream-error",
        StreamError="31901 - connection timeout",
        Timestamp="2026-01-01T00:00:00Z",
    )
    assert answer.status_code == 204
    ((call_id, entry),) = stack.journal.kept
    assert (call_id, entry["event"], entry["error"]) == ("CA1", "stream-error", "31901 - connection timeout")
    (event,) = stack.calls.kept
    assert (event.call_id, event.kind, event.error) == ("CA1", "stream", "31901 - connection timeout")
    assert event.details is not None
    assert event.details["StreamSid"] == "MZ1"
    assert "+3225550100" not in repr(event)  # callers' numbers are not details


async def test_the_same_callback_has_the_same_key() -> None:
    stack = Stack()
    for status in ("ringing", "ringing", "in-progress"):
        await stack.post("/twilio/status", CallStatus=status, SequenceNumber="1", Timestamp="t")
    keys = [event.key for event in stack.calls.kept]
    assert keys[0] == keys[1] != keys[2]


async def test_a_callback_is_lost_only_when_nobody_could_keep_it() -> None:
    stack = Stack()
    stack.calls.error = no_postgres()
    assert (await stack.post("/twilio/status", CallStatus="ringing")).status_code == 204
    stack.journal.error = unreachable()
    answer = await stack.post("/twilio/status", CallStatus="ringing")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


@pytest.mark.parametrize(
    ("status", "state", "released"),
    [
        ("completed", "reserved", [("CA1", "caller_hung_up")]),
        ("no-answer", "reserved", [("CA1", "caller_hung_up")]),
        ("completed", "lost", [("CA1", "caller_hung_up")]),
        ("completed", "live", []),
        ("ringing", "reserved", []),
    ],
)
async def test_a_caller_who_hangs_up_before_the_stream_frees_the_slot(
    status: str, state: str, released: list[tuple[str, str]]
) -> None:
    stack = Stack()
    stack.dispatcher.states = [state]
    assert (await stack.post("/twilio/status", CallStatus=status)).status_code == 204
    assert stack.dispatcher.released == released


async def test_no_number_of_a_person_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    stack = Stack()
    await stack.post("/twilio/voice")
    stack.dispatcher.refuse = "full"
    await stack.post("/twilio/voice")
    await stack.post("/twilio/voice", token="wrong")
    stack.dispatcher.error = RuntimeError("a bug")
    await stack.post("/twilio/voice")
    await stack.post("/twilio/status", CallStatus="completed")
    text = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records if record.name != "httpx")
    assert "call refused" in text
    assert "25550100" not in text
    assert AUTH_TOKEN not in text


@pytest.mark.parametrize(
    ("target", "document"),
    [
        ("+15550100", "<Dial>+15550100</Dial>"),
        ("sip:desk@example.com", "<Dial><Sip>sip:desk@example.com</Sip></Dial>"),
        ("queue:sales", "<Enqueue>sales</Enqueue>"),
    ],
)
async def test_a_transferred_call_is_dialled_and_over(target: str, document: str) -> None:
    stack = Stack()
    tools = ToolSettings(transfer_targets={"sales": target})
    settings = stack.context.settings.model_copy(update={"tools": tools})
    stack.context = dataclasses.replace(stack.context, settings=settings)
    stack.dispatcher.states = ["live", "ended:transfer:sales"]
    stack.settle_s = 5.0
    answer = await stack.post("/twilio/stream-ended", CallStatus="in-progress")
    assert answer.text.endswith(f"<Response>{document}</Response>")
    assert stack.dispatcher.admitted == []
    assert verbs(await stack.post("/twilio/stream-ended", CallStatus="completed")) == ["Hangup"]


@pytest.mark.parametrize("name", ["support", "+4912345", ""])
async def test_nobody_is_dialled_who_is_not_listed(name: str) -> None:
    stack = Stack()
    stack.dispatcher.states = [f"ended:transfer:{name}"]
    answer = await stack.post("/twilio/stream-ended", CallStatus="in-progress")
    assert spoken(answer) == stack.context.settings.agent.out_of_service


async def test_whom_a_rule_puts_through_to_is_dialled() -> None:
    stack = Stack()
    policy = PolicySettings(escalate_to="+15550123")
    settings = stack.context.settings.model_copy(update={"policy": policy})
    stack.context = dataclasses.replace(stack.context, settings=settings)
    stack.dispatcher.states = ["ended:transfer:+15550123"]
    answer = await stack.post("/twilio/stream-ended", CallStatus="in-progress")
    assert "<Dial>+15550123</Dial>" in answer.text


async def test_a_number_too_long_for_a_parameter_is_left_out() -> None:
    stack = Stack()
    answer = await stack.post("/twilio/voice", From="sip:" + "x" * 600 + "@example.com")
    names = [parameter.get("name") for parameter in ElementTree.fromstring(answer.text).iter("Parameter")]
    assert names == ["token", "called"]
