"""The media link: codec round trips for every type, broken frames, handshake, buffers, close."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import types
import typing
from typing import Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.link.codec import WIRE_TYPES, Message, decode, encode
from actors.link.connection import LinkConnection, LinkLimits, LinkServer, connect_link
from actors.link.messages import PROTOCOL_VERSION, CallerAudio, CallEvent, Control, Hello, Play, Snapshot
from voice_agent.dialog.events import ReplyReceived, SpeechStarted
from voice_agent.errors import AuthError, ProtocolError
from voice_agent.ports import ReplyChunk, ToolCall

SECRET = "link-secret"

_SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=12),
    int: st.integers(-(2**40), 2**40),
    bool: st.booleans(),
    bytes: st.binary(max_size=40),
    float: st.floats(allow_nan=False),
    Any: st.none() | st.booleans() | st.text(max_size=4) | st.integers(0, 9),
}


def _values(hint: Any) -> st.SearchStrategy[Any]:
    """A strategy for a field, from its annotation alone: a new message type is covered without a line here."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    if hint is type(None):
        return st.none()
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return st.deferred(lambda: _instances(hint))
    origin = get_origin(hint)
    if origin is tuple:
        return st.lists(_values(get_args(hint)[0]), max_size=3).map(tuple)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([_values(arg) for arg in get_args(hint)])
    return st.dictionaries(st.text(max_size=4), _SCALARS[Any], max_size=3)


def _instances(cls: type) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: _values(hints[field.name]) for field in dataclasses.fields(cls)})


@given(st.one_of([_instances(cls) for cls in get_args(Message)]))
def test_every_message_survives_the_wire(message: Message) -> None:
    assert decode(encode(message)) == message


def test_wire_codes_are_stable() -> None:
    """A change here breaks running clusters during an upgrade: append, and raise PROTOCOL_VERSION."""
    assert PROTOCOL_VERSION == 4
    names = """
        Hello Attach CallEvent CallerAudio Detach Play Control Snapshot CallStarted SpeechStarted SpeechPaused
        SpeechResumed DtmfReceived PlayoutStarted ClausePlayed PlayoutHeld CarrierStopped TranscriptReady
        PassagesReady ReplyReceived SpeechSynthesised ToolFinished JobFailed HangUpRequested LoadChanged SpeechFaded
        SpeechRose Passage ReplyChunk ToolCall Outcome
    """
    assert [cls.__name__ for cls in WIRE_TYPES] == names.split()


def test_audio_travels_compactly() -> None:
    assert len(encode(CallerAudio("CA" + "0" * 32, 1, 0, bytes(800)))) < 800 + 48


def test_nested_events_keep_their_types() -> None:
    chunk = ReplyChunk(text="hi", tool_call=ToolCall("find", {"q": [1, {"a": None}]}), sources=("a", "b"))
    message = CallEvent("CA1", ReplyReceived(turn=3, chunk=chunk))
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xc1", "not msgpack"),
        (b"", "not msgpack"),
        (msgspec.msgpack.encode({"a": 1}), "not an array"),
        (msgspec.msgpack.encode([]), "not an array"),
        (msgspec.msgpack.encode(["Play"]), "not an array"),
        (msgspec.msgpack.encode([250, 1]), "unknown"),
        (msgspec.msgpack.encode([9, 1, 2]), "unknown here"),  # an event is no message by itself
        (msgspec.msgpack.encode([0, "name"]), "expected 3"),
        (msgspec.msgpack.encode([0, "name", "token", "1"]), "Hello is str, expected int"),
        (msgspec.msgpack.encode([2, "CA1", [0, "n", "t", 1]]), "unknown here"),  # a message is no event
        (msgspec.msgpack.encode([2, "CA1", [9, 1, True]]), "bool, expected int"),
    ],
)
def test_broken_frames_are_refused_in_words(body: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        decode(body)


@given(st.binary(max_size=64))
def test_random_bytes_never_do_worse_than_a_protocol_error(body: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode(body)


class Peer:
    """A server that keeps what it receives."""

    def __init__(self, limits: LinkLimits | None = None) -> None:
        self.received: list[Message] = []
        self.connection: LinkConnection | None = None
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.server = LinkServer(self.handle, name="actor", secret=SECRET, limits=limits)

    async def handle(self, connection: LinkConnection) -> None:
        self.connection = connection
        self.arrived.set()
        await self.gate.wait()
        async for message in connection:
            self.received.append(message)


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - any condition, polled
            await asyncio.sleep(0.005)


async def test_messages_cross_in_order_both_ways() -> None:
    peer = Peer()
    host, port = await peer.server.start()
    link = await connect_link(host, port, name="gateway", secret=SECRET)
    sent = [Play("CA1", 1, 1, n, bytes(n % 900), False, True) for n in range(500)]
    for message in sent:
        assert link.send(message)
    await _until(lambda: len(peer.received) == 500)
    assert peer.received == sent
    assert link.peer == "actor"
    assert peer.connection is not None
    assert peer.connection.peer == "gateway"
    peer.connection.send(Control("CA1", 1, "hold"))
    assert await anext(link) == Control("CA1", 1, "hold")
    await peer.server.stop()
    with pytest.raises(StopAsyncIteration):
        await anext(link)
    assert link.close_reason == "peer_closed"
    assert not link.send(sent[0])
    assert link.statistics.refused == 1


class Wire(asyncio.Transport):
    """A transport that keeps each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.gone = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, parts: Any) -> None:
        self.writes.append(b"".join(parts))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.gone = True

    def abort(self) -> None:
        self.gone = True


async def test_what_is_sent_in_one_turn_of_the_loop_is_one_write() -> None:
    wire, link = Wire(), LinkConnection(LinkLimits())
    link.connection_made(wire)
    for number in range(3):
        assert link.send(Control("CA1", 1, "hold", number))
    assert not wire.writes
    await asyncio.sleep(0)
    assert len(wire.writes) == 1
    link.send(Control("CA1", 1, "resume"))
    link.close("done")
    assert len(wire.writes) == 2, "what was sent before the end leaves"
    await asyncio.sleep(0)
    assert len(wire.writes) == 2


async def test_what_an_aborted_link_still_had_is_dropped() -> None:
    wire, link = Wire(), LinkConnection(LinkLimits())
    link.connection_made(wire)
    link.send(Control("CA1", 1, "hold"))
    link.abort("overflow")
    await asyncio.sleep(0)
    assert wire.gone
    assert not wire.writes


async def test_a_wrong_secret_is_told_nothing() -> None:
    peer = Peer()
    host, port = await peer.server.start()
    with pytest.raises(ProtocolError, match="closed before Hello"):
        await connect_link(host, port, name="gateway", secret="guess")
    assert peer.server.refused == 1
    assert not peer.arrived.is_set()
    await peer.server.stop()


async def test_the_caller_checks_the_listener_too() -> None:
    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = encode(Hello("actor", "guess"))
        writer.write(len(body).to_bytes(4, "big") + body)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(impostor, "127.0.0.1", 0)
    with pytest.raises(AuthError):
        await connect_link("127.0.0.1", server.sockets[0].getsockname()[1], name="gateway", secret=SECRET)
    server.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\xc1",
        b"GET / HTTP/1.1\r\n\r\n",
        (lambda b: len(b).to_bytes(4, "big") + b)(encode(Hello("gateway", SECRET, version=99))),
        (lambda b: len(b).to_bytes(4, "big") + b)(encode(Snapshot("CA1", 1, b""))),
    ],
    ids=["oversize", "garbage", "http", "version", "no_hello"],
)
async def test_strangers_are_closed_without_an_answer(raw: bytes) -> None:
    peer = Peer()
    host, port = await peer.server.start()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(raw)
    received = await asyncio.wait_for(reader.read(), 10)
    assert received.strip(b"\x00") == b""  # heartbeats only
    assert not peer.arrived.is_set()
    writer.close()
    await peer.server.stop()


async def test_no_hello_in_time_closes_the_socket() -> None:
    peer = Peer(LinkLimits(hello_s=0.05))
    host, port = await peer.server.start()
    reader, writer = await asyncio.open_connection(host, port)
    await asyncio.wait_for(reader.read(), 10)
    await _until(lambda: not peer.server.connections)
    writer.close()
    await peer.server.stop()


async def test_a_peer_that_does_not_read_is_given_up_not_waited_for() -> None:
    limits = LinkLimits(write_bytes=200_000, read_messages=4)
    peer = Peer(limits)
    peer.gate.clear()
    host, port = await peer.server.start()
    link = await connect_link(host, port, name="gateway", secret=SECRET, limits=limits)
    for number in range(5000):
        if not link.send(Play("CA1", 1, 1, number, bytes(20_000), False, True)):
            break
        await asyncio.sleep(0)
    assert link.close_reason == "overflow"
    peer.gate.set()
    await peer.server.stop()


async def test_a_slow_reader_blocks_the_socket_and_loses_nothing() -> None:
    peer = Peer(LinkLimits(read_messages=8))
    peer.gate.clear()
    host, port = await peer.server.start()
    link = await connect_link(host, port, name="gateway", secret=SECRET)
    for number in range(400):
        link.send(Play("CA1", 1, 1, number, bytes(5000), False, True))
    await _until(lambda: peer.connection is not None and peer.connection.statistics.read_pauses > 0)
    peer.gate.set()
    await _until(lambda: len(peer.received) == 400)
    assert [typing.cast(Play, m).clause for m in peer.received] == list(range(400))
    await peer.server.stop()


async def test_heartbeats_keep_an_idle_link_and_silence_ends_it() -> None:
    limits = LinkLimits(heartbeat_s=0.02, silent_beats=10)
    peer = Peer(limits)
    host, port = await peer.server.start()
    link = await connect_link(host, port, name="gateway", secret=SECRET, limits=limits)
    await asyncio.sleep(0.5)
    assert not link.closed
    await peer.server.stop()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = encode(Hello("actor", SECRET))
        writer.write(len(body).to_bytes(4, "big") + body)
        await reader.read()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    link = await connect_link(
        "127.0.0.1", server.sockets[0].getsockname()[1], name="gateway", secret=SECRET, limits=limits
    )
    async with asyncio.timeout(10):
        async for _ in link:
            pass
    assert link.close_reason == "silent"
    server.close()


async def test_an_end_that_was_held_up_itself_blames_nobody() -> None:
    limits = LinkLimits(heartbeat_s=0.05, silent_beats=4)
    peer = Peer(LinkLimits(heartbeat_s=0.05, silent_beats=100))
    host, port = await peer.server.start()
    link = await connect_link(host, port, name="gateway", secret=SECRET, limits=limits)
    # Both ends live in this loop: while it sleeps, nothing is sent and nothing is read.
    time.sleep(1.0)  # noqa: ASYNC251 - the loop is to stand still
    await asyncio.sleep(0.5)
    assert not link.closed
    await peer.server.stop()


async def test_stopping_the_server_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    peer = Peer()
    host, port = await peer.server.start()
    links = [await connect_link(host, port, name=f"g{n}", secret=SECRET) for n in range(5)]
    await peer.server.stop()
    for link in links:
        await link.wait_closed()
    assert asyncio.all_tasks() == before
    assert peer.server.connections == ()


def test_speech_started_has_no_spare_bytes() -> None:
    assert len(encode(CallEvent("CA1", SpeechStarted(1, 2)))) == 10
