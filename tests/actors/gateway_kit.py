"""A gateway without Ray: a call host over the real link, a dispatcher in memory, a Twilio client on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from actors.gateway.gateway import MediaGateway
from actors.link.codec import Message
from actors.link.connection import LinkConnection, LinkServer
from actors.link.messages import Attach, CallerAudio, CallEvent, Detach
from configs.runtime import StackContext
from configs.settings import Settings
from voice_agent.admission import HostAddress
from voice_agent.audio.g711 import mulaw_encode
from voice_agent.dialog.events import Event
from voice_agent.errors import CapacityError, ProtocolError
from voice_agent.twilio import messages, signature, tokens

AUTH_TOKEN = "auth-token"
LINK_SECRET = "link-secret"
STREAM_SECRET = "stream-secret"
MEDIA_URL = "wss://voice.example.com/twilio/media"
GATEWAY = "gateway-test0001"
ACCOUNT = "AC" + "1" * 32
FRAME = 160
PATIENCE_S = 20.0

E = TypeVar("E")

_serial = itertools.count(1)


def new_call_id() -> str:
    return f"CA{next(_serial):032x}"


def make_context(tmp_path: Path, **sections: dict[str, Any]) -> StackContext:
    values: dict[str, Any] = {
        "server": {"media_port": 0},
        "twilio": {"auth_token": AUTH_TOKEN, "account_sid": ACCOUNT},
        # A short lead: the carrier of these tests echoes marks as they come, so a clause ends by the lead too early.
        "media": {"vad_engine": "energy", "lead_ms": 240, "chunk_ms": 100},
    }
    for name, changes in sections.items():
        values[name] = {**values.get(name, {}), **changes}
    return StackContext(
        settings=Settings(**values),
        run_id="test",
        run_dir=tmp_path,
        data_dir=tmp_path,
        dsn="",
        link_secret=LINK_SECRET,
        stream_token_secret=STREAM_SECRET,
        api_key="",
        webhook_url="https://voice.example.com",
        media_url=MEDIA_URL,
    )


async def until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110 - any condition, polled
            await asyncio.sleep(0.005)


class FakeHost:
    """A call actor that keeps what it is told."""

    def __init__(self, host_id: str) -> None:
        self.host_id = host_id
        self.received: list[Message] = []
        self.link: LinkConnection | None = None
        self.address: HostAddress | None = None
        self._server = LinkServer(self._serve, name=host_id, secret=LINK_SECRET)

    async def start(self) -> FakeHost:
        host, port = await self._server.start()
        self.address = HostAddress(self.host_id, host, port)
        return self

    async def die(self) -> None:
        """What the peer of a killed process sees."""
        for connection in self._server.connections:
            connection.abort("killed")
        await self._server.stop()

    async def _serve(self, connection: LinkConnection) -> None:
        self.link = connection
        async for message in connection:
            self.received.append(message)

    def send(self, message: Message) -> None:
        assert self.link is not None
        assert self.link.send(message)

    def of_call(self, call_id: str) -> list[Any]:
        return [m for m in self.received if getattr(m, "call_id", "") == call_id]

    def attach(self, call_id: str) -> Attach:
        return next(m for m in self.of_call(call_id) if isinstance(m, Attach))

    def events(self, call_id: str, kind: type[E] | None = None) -> list[E]:
        found: list[Any] = [m.event for m in self.of_call(call_id) if isinstance(m, CallEvent)]
        return [event for event in found if kind is None or isinstance(event, kind)]

    def audio(self, call_id: str) -> bytes:
        return b"".join(m.audio for m in self.of_call(call_id) if isinstance(m, CallerAudio))

    def detached(self, call_id: str) -> list[Detach]:
        return [m for m in self.of_call(call_id) if isinstance(m, Detach)]

    async def wait_event(self, call_id: str, kind: type[E], count: int = 1) -> E:
        await until(lambda: len(self.events(call_id, kind)) >= count)
        return self.events(call_id, kind)[count - 1]


@dataclass
class FakeDispatcher:
    """Gives the hosts it was told of, in order; a replaced host is gone."""

    hosts: list[FakeHost] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failed: set[str] = field(default_factory=set)
    live: set[str] = field(default_factory=set)
    take_overs: list[tuple[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def _place(self) -> HostAddress:
        for host in self.hosts:
            if host.host_id not in self.failed:
                assert host.address is not None
                return host.address
        raise CapacityError("no spare is free")

    async def claim(self, call_id: str) -> HostAddress:
        self.asked.append(("claim", call_id))
        self.live.add(call_id)
        await self.gate.wait()
        return self._place()

    async def replace(self, call_id: str, failed_host_id: str, reason: str = "") -> HostAddress:
        self.asked.append(("replace", call_id, failed_host_id))
        await self.gate.wait()
        if call_id not in self.live:
            raise ProtocolError("the call is not live")
        self.failed.add(failed_host_id)
        return self._place()

    async def release(self, call_id: str, reason: str) -> None:
        self.asked.append(("release", call_id, reason))
        self.live.discard(call_id)

    async def register_gateway(self, gateway_id: str, media_url: str) -> None:
        self.asked.append(("register_gateway", gateway_id, media_url))

    async def took_over(self, reason: str, took_s: float) -> None:
        self.take_overs.append((reason, took_s))

    def released(self, call_id: str) -> list[str]:
        return [entry[2] for entry in self.asked if entry[:2] == ("release", call_id)]


class Bench:
    """A running gateway with its surroundings."""

    def __init__(self, gateway: MediaGateway, dispatcher: FakeDispatcher, port: int) -> None:
        self.gateway = gateway
        self.dispatcher = dispatcher
        self.port = port
        self.callers: list[Caller] = []

    @property
    def host(self) -> FakeHost:
        return self.dispatcher.hosts[0]

    async def dial(self, **options: Any) -> Caller:
        caller = Caller(self.port, **options)
        self.callers.append(caller)
        await caller.dial()
        return caller

    async def call(self, **options: Any) -> Caller:
        """A call that is up and attached."""
        caller = await self.dial(**options)
        await caller.start()
        await until(
            lambda: any(isinstance(m, Attach) for host in self.dispatcher.hosts for m in host.of_call(caller.call_id))
        )
        return caller

    async def status(self) -> dict[str, Any]:
        return await self.gateway.status()

    async def until_empty(self) -> dict[str, Any]:
        """Wait until nothing of any call is left, and say what the gateway says."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                status = await self.status()
                if not (status["calls"] or status["tasks"] or status["sockets"] or status["attached"]):
                    return status
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(tmp_path: Path, *, hosts: int = 1, **sections: dict[str, Any]) -> AsyncIterator[Bench]:
    """Start everything, and at the end assert that no task is left."""
    before = asyncio.all_tasks()
    dispatcher = FakeDispatcher([await FakeHost(f"call-host-{n}").start() for n in range(hosts)])
    gateway = MediaGateway(make_context(tmp_path, **sections), GATEWAY, dispatcher)
    address = await gateway.start()
    bench = Bench(gateway, dispatcher, address["port"])
    try:
        yield bench
    finally:
        await gateway.stop()
        for caller in bench.callers:
            await caller.close()
        for host in dispatcher.hosts:
            await host.die()
        left = asyncio.all_tasks() - before
        async with asyncio.timeout(5):
            while left:
                await asyncio.sleep(0.01)
                left = asyncio.all_tasks() - before


class Caller:
    """Twilio's end of a stream. Keeps what it is sent; echoes marks by itself unless told not to."""

    def __init__(
        self,
        port: int,
        *,
        call_id: str = "",
        path: str = "/twilio/media",
        signed: str | None = MEDIA_URL,
        echo_marks: bool = True,
    ) -> None:
        self.call_id = call_id or new_call_id()
        self.stream_sid = "MZ" + self.call_id[2:]
        self.url = f"ws://127.0.0.1:{port}{path}"
        self.signed = signed
        self.echo_marks = echo_marks
        self.sent: list[messages.Outbound] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self.sequence = itertools.count(1)
        self.frames = 0
        self.socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    async def dial(self) -> None:
        headers = {}
        if self.signed is not None:
            headers["x-twilio-signature"] = signature.compute(AUTH_TOKEN, self.signed, {})
        self.socket = await connect(self.url, additional_headers=headers, compression=None, close_timeout=1)
        self._reader = asyncio.create_task(self._read())
        await self.raw(messages.build_connected())

    async def raw(self, message: str | bytes) -> None:
        assert self.socket is not None
        with contextlib.suppress(ConnectionClosed):
            await self.socket.send(message)

    def token(self, **changes: Any) -> str:
        values = {
            "call_id": self.call_id,
            "audience": GATEWAY,
            "expires_at_s": time.time() + 60,
            "nonce": f"nonce-{next(_serial)}",
        } | changes
        return tokens.mint(changes.pop("secret", STREAM_SECRET), **{k: v for k, v in values.items() if k != "secret"})

    async def start(self, *, token: str | None = None, account_sid: str = ACCOUNT, **parameters: str) -> None:
        given = {"token": self.token() if token is None else token, **parameters}
        await self.raw(
            messages.build_start(
                next(self.sequence),
                self.stream_sid,
                call_sid=self.call_id,
                account_sid=account_sid,
                parameters=given,
            )
        )

    async def audio(self, audio: bytes, *, frame: int = FRAME, pace: float = 0.25) -> None:
        """Send caller audio in frames, ``pace`` of real time."""
        for at in range(0, len(audio), frame):
            self.frames += 1
            payload = audio[at : at + frame]
            await self.raw(
                messages.build_media(
                    next(self.sequence),
                    self.stream_sid,
                    chunk=self.frames,
                    timestamp_ms=self.frames * 20,
                    payload=payload,
                )
            )
            await asyncio.sleep(len(payload) / 8000 * pace)

    async def dtmf(self, digit: str) -> None:
        await self.raw(messages.build_dtmf(next(self.sequence), self.stream_sid, digit))

    async def stop(self) -> None:
        await self.raw(
            messages.build_stop(next(self.sequence), self.stream_sid, call_sid=self.call_id, account_sid=ACCOUNT)
        )

    async def echo(self, name: str) -> None:
        await self.raw(messages.build_mark(next(self.sequence), self.stream_sid, name))

    def die(self) -> None:
        """The network is gone: no closing handshake."""
        assert self.socket is not None
        self.socket.transport.abort()

    async def close(self) -> None:
        if self.socket is not None:
            await self.socket.close()
        if self._reader is not None:
            await self._reader

    async def closed(self) -> tuple[int | None, str]:
        await until(lambda: self.close_code is not None)
        return self.close_code, self.close_reason

    def heard(self) -> bytes:
        return b"".join(m.payload for m in self.sent if isinstance(m, messages.OutMedia))

    def of(self, kind: type[E]) -> list[E]:
        return [m for m in self.sent if isinstance(m, kind)]

    async def _read(self) -> None:
        assert self.socket is not None
        try:
            async for text in self.socket:
                message = messages.parse_outbound(text)
                assert message.stream_sid == self.stream_sid
                self.sent.append(message)
                if isinstance(message, messages.OutMark) and self.echo_marks:
                    await self.echo(message.name)
        except ConnectionClosed:
            pass
        self.close_code = self.socket.close_code
        self.close_reason = self.socket.close_reason or ""


def voice(ms: int, seed: int = 1) -> bytes:
    """Noise as loud as speech: what the energy detector takes for it."""
    random = np.random.default_rng(seed)
    return mulaw_encode((random.standard_normal(ms * 8) * 6000).clip(-32000, 32000).astype(np.int16))


def silence(ms: int) -> bytes:
    return b"\xff" * (ms * 8)


def agent_audio(ms: int, seed: int = 0) -> bytes:
    """Audio whose bytes differ by position, so that a repeat or a hole shows."""
    return b"".join((seed * 1_000_000 + n).to_bytes(4, "big") for n in range(ms * 2))


def of_kind(events: list[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]
