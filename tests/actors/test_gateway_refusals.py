"""What a gateway refuses, before any actor is touched, and what it puts up with during a call."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from gateway_kit import (
    ACCOUNT,
    GATEWAY,
    MEDIA_URL,
    PATIENCE_S,
    Bench,
    agent_audio,
    new_call_id,
    running,
    silence,
    until,
    voice,
)
from websockets.exceptions import InvalidStatus

from actors.gateway.gateway import NonceMemory
from actors.gateway.twilio_leg import Bucket
from actors.link.messages import Attach, Detach, Play
from voice_agent.dialog.events import ClausePlayed, SpeechPaused
from voice_agent.errors import AuthError, CapacityError
from voice_agent.twilio import messages


async def untouched(bench: Bench, reason: str) -> None:
    """No actor, no dispatcher, no task, no socket."""
    status = await bench.until_empty()
    assert status["refused"] == {reason: 1}
    assert [entry[0] for entry in bench.dispatcher.asked] == ["register_gateway"]
    assert bench.host.link is None


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        ({"path": "/"}, 404, "path"),
        ({"path": "/twilio/media/../x"}, 404, "path"),
        ({"signed": None}, 403, "signature"),
        ({"signed": "wss://evil.example.com/twilio/media"}, 403, "signature"),
    ],
)
async def test_upgrades_are_refused_by_status(
    tmp_path: Path, options: dict[str, Any], status: int, reason: str
) -> None:
    async with running(tmp_path) as bench:
        with pytest.raises(InvalidStatus) as refusal:
            await bench.dial(**options)
        assert refusal.value.response.status_code == status
        await untouched(bench, reason)


@pytest.mark.parametrize("signed", [MEDIA_URL, MEDIA_URL + "/", MEDIA_URL.replace("wss", "https")])
async def test_upgrades_signed_in_any_known_way_are_taken(tmp_path: Path, signed: str) -> None:
    async with running(tmp_path) as bench:
        await bench.call(signed=signed)


async def test_signatures_are_not_asked_for_on_a_test_bench(tmp_path: Path) -> None:
    async with running(tmp_path, twilio={"verify_signatures": False}) as bench:
        await bench.call(signed=None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"call_id": "CA" + "f" * 32}, "another call"),
        ({"audience": "gateway-other"}, "another gateway"),
        ({"expires_at_s": time.time() - 1}, "expired"),
        ({"secret": "guess"}, "wrong signature"),
    ],
)
async def test_tokens_that_are_not_for_this_call_close_the_socket(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.dial()
        await caller.start(token=caller.token(**change))
        code, reason = await caller.closed()
        assert code == 1008
        assert words in reason
        await untouched(bench, "auth")


@pytest.mark.parametrize("token", ["", "nonsense", "a.b", "é.é", "." * 2000])
async def test_tokens_that_are_none_close_the_socket(tmp_path: Path, token: str) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.dial()
        await caller.start(token=token)
        assert (await caller.closed())[0] == 1008
        await untouched(bench, "auth")


async def test_a_token_works_once(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        first = await bench.dial()
        token = first.token()
        await first.start(token=token)
        await until(lambda: bench.host.of_call(first.call_id))
        await first.stop()
        await bench.until_empty()
        second = await bench.dial(call_id=first.call_id)
        await second.start(token=token)
        assert await second.closed() == (1008, "stream token was used before")
        assert len(bench.dispatcher.asked) == 3  # register, claim, release


async def test_a_new_stream_of_a_live_call_takes_the_call_from_a_socket_not_seen_to_die(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        first = await bench.call()
        second = await bench.dial(call_id=first.call_id)
        await second.start()
        assert await first.closed() == (1001, "another stream has the call")
        await until(lambda: sum(isinstance(m, Attach) for m in bench.host.of_call(first.call_id)) == 2)
        kinds = [type(m) for m in bench.host.of_call(first.call_id) if isinstance(m, Attach | Detach)]
        assert kinds == [Attach, Detach, Attach]
        assert [detach.reason for detach in bench.host.detached(first.call_id)] == ["stream_lost"]
        bench.host.send(Play(first.call_id, 1, 1, 0, agent_audio(100), True, True))
        await bench.host.wait_event(first.call_id, ClausePlayed)
        assert second.heard() == agent_audio(100)
        assert bench.dispatcher.released(first.call_id) == []
        await second.stop()
        await bench.until_empty()
        assert bench.dispatcher.released(first.call_id) == ["caller_hung_up"]


async def test_another_account_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.dial()
        await caller.start(account_sid="AC" + "2" * 32)
        assert await caller.closed() == (1008, "the stream belongs to another account")
        await untouched(bench, "auth")


async def test_no_start_in_time_closes_the_socket(tmp_path: Path) -> None:
    async with running(tmp_path, twilio={"start_timeout_s": 0.2}) as bench:
        caller = await bench.dial()
        assert await caller.closed() == (1008, "no start in time")
        await untouched(bench, "no_start")


async def test_a_socket_that_says_nothing_at_all_is_closed(tmp_path: Path) -> None:
    async with running(tmp_path, twilio={"start_timeout_s": 0.2}) as bench:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await bench.until_empty()


@pytest.mark.parametrize("junk", [b"\x00" * 64, b"GET / HTTP/9\r\n\r\n", b"GET " + b"a" * 100_000, b"\r\n" * 10_000])
async def test_no_http_is_closed_without_a_traceback(
    tmp_path: Path, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as bench:
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.port)
        writer.write(junk)
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await bench.until_empty()
    assert "Traceback" not in caplog.text


BROKEN = [
    ("{", "not JSON"),
    ("[]", "not a JSON object"),
    ('{"event": "dance"}', "unknown event"),
    ('{"event": "start"}', "missing"),
    (json.dumps({"event": "stop"}), "missing"),
    (messages.build_media(2, "MZ1", chunk=1, timestamp_ms=0, payload=b"x"), "begin with start"),
]


@pytest.mark.parametrize(("message", "words"), BROKEN)
async def test_the_first_broken_message_before_start_closes(tmp_path: Path, message: str, words: str) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.dial()
        await caller.raw(message)
        code, reason = await caller.closed()
        assert code == 1008
        assert words in reason
        await untouched(bench, "protocol")


async def test_binary_and_bad_utf8_have_codes_of_their_own(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.dial()
        await caller.raw(b"\x00\x01")
        assert (await caller.closed())[0] == 1003
        caller = await bench.dial()
        assert caller.socket is not None
        await caller.socket.send(b"\xff\xfe", text=True)
        assert (await caller.closed())[0] == 1007


async def test_ten_megabytes_are_not_even_read(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        sending = asyncio.create_task(caller.raw("x" * 10_000_000))
        code, _ = await caller.closed()
        assert code in (1009, 1006)  # 1006 when the reset overtakes the close frame
        await sending
        await bench.until_empty()
        assert bench.dispatcher.released(caller.call_id)


def broken_media(caller: Any, **changes: Any) -> str:
    message = json.loads(
        messages.build_media(next(caller.sequence), caller.stream_sid, chunk=1, timestamp_ms=0, payload=b"\xff" * 160)
    )
    message["media"].update(changes)
    return json.dumps(message)


async def test_a_few_broken_messages_in_a_call_are_tolerated(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        for message in (
            "{",
            '{"event": "dance"}',
            broken_media(caller, payload="***"),
            broken_media(caller, payload="abc"),
            broken_media(caller, chunk=7),
            broken_media(caller, track="outbound"),
            messages.build_media(99, "MZother", chunk=1, timestamp_ms=0, payload=b"x"),
            messages.build_start(1, caller.stream_sid, call_sid=caller.call_id, account_sid=ACCOUNT, parameters={}),
        ):
            await caller.raw(message)
        await caller.audio(b"", frame=1)
        await caller.audio(silence(300) + voice(300) + silence(300))
        await bench.host.wait_event(caller.call_id, SpeechPaused)
        assert caller.close_code is None
        assert (await bench.status())["counters"]["malformed"] == 8


async def test_many_broken_messages_end_the_call(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        for _ in range(11):
            await caller.raw("{")
        code, reason = await caller.closed()
        assert code == 1008
        assert "too many broken messages" in reason
        status = await bench.until_empty()
        assert status["ended"] == {"failed": 1}


async def test_sequence_gaps_are_counted_and_repeats_not_heard_twice(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        spoken = silence(300) + voice(300) + silence(400)
        for at in range(0, len(spoken), 160):
            message = messages.build_media(
                10 + at // 80, caller.stream_sid, chunk=1, timestamp_ms=0, payload=spoken[at : at + 160]
            )
            await caller.raw(message)
            await caller.raw(message)
            await asyncio.sleep(0.005)
        await bench.host.wait_event(caller.call_id, SpeechPaused)
        assert voice(300) in bench.host.audio(caller.call_id)
        async with asyncio.timeout(PATIENCE_S):
            while (counters := (await bench.status())["counters"])["frames"] < 2 * len(spoken) // 160:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.01)
        assert counters["frames"] == 2 * len(spoken) // 160
        assert counters["out_of_order"] == len(spoken) // 160
        assert counters["missing"] >= len(spoken) // 160


async def test_a_flood_of_messages_closes_the_socket(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        for _ in range(1500):
            await caller.raw(broken_media(caller, payload=""))
        assert await caller.closed() == (1008, "too many messages")
        assert (await bench.until_empty())["refused"] == {"rate": 1}


async def test_audio_much_faster_than_speech_closes_the_socket(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        for _ in range(40):
            await caller.raw(broken_media(caller, payload="////" * 1000))
        assert await caller.closed() == (1008, "audio faster than speech")
        await bench.until_empty()


async def test_a_carrier_that_does_not_read_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path, media={"lead_ms": 2000, "chunk_ms": 500}) as bench:
        caller = await bench.call(echo_marks=False)
        assert caller.socket is not None
        caller.socket.transport.pause_reading()
        call = bench.gateway._calls[caller.call_id]
        for _ in range(3000):
            if not call._leg.send_audio(bytes(4000)):
                break
        await until(lambda: not bench.gateway._calls)
        caller.die()
        await bench.until_empty()


async def test_too_many_sockets_are_closed_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, calls={"max_calls": 1}) as bench:
        sockets = [await asyncio.open_connection("127.0.0.1", bench.port) for _ in range(2 + 64 + 3)]
        await asyncio.sleep(0.1)
        status = await bench.status()
        assert status["sockets"] == 66
        assert status["sockets_over_limit"] == 3
        for _, writer in sockets:
            writer.close()
        await bench.until_empty()


async def test_fragments_and_pings_are_understood(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.dial()
        assert caller.socket is not None
        start = messages.build_start(
            1, caller.stream_sid, call_sid=caller.call_id, account_sid=ACCOUNT, parameters={"token": caller.token()}
        )
        await caller.socket.send([start[:10], start[10:50], start[50:]])
        await until(lambda: bench.host.of_call(caller.call_id))
        await (await caller.socket.ping())


async def test_no_room_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.gateway.gateway_call.CLAIM_S", 0.3)
    async with running(tmp_path) as bench:
        bench.dispatcher.failed.add(bench.host.host_id)
        caller = await bench.dial()
        await caller.start()
        assert await caller.closed() == (1011, "no call actor")
        await bench.until_empty()
        assert bench.dispatcher.released(caller.call_id) == ["failed"]


def test_nonces_expire_and_are_bounded() -> None:
    memory = NonceMemory(10.0, most=2)
    memory.use("a", 0.0)
    with pytest.raises(AuthError):
        memory.use("a", 1.0)
    memory.use("b", 5.0)
    with pytest.raises(CapacityError):
        memory.use("c", 6.0)
    memory.use("c", 10.5)
    memory.use("a", 16.0)


def test_a_bucket_lets_bursts_through_but_no_lasting_excess() -> None:
    bucket = Bucket(50, 5.0, 0.0)
    assert all(bucket.take(1, 0.0) for _ in range(250))
    assert not bucket.take(1, 0.0)
    steady = Bucket(50, 5.0, 0.0)
    assert all(steady.take(1, n / 50) for n in range(5000))


def test_call_ids_differ() -> None:
    assert new_call_id() != new_call_id()
    assert GATEWAY.startswith("gateway-")
