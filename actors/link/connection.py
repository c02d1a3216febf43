"""The media link: one TCP connection between a gateway and a call actor, length-prefixed msgpack frames.

A frame is a 4-byte big-endian length and a msgpack body (``codec``). The first frame each way is ``Hello`` with
the cluster's link secret; the listening side answers only after it has checked the caller's. A frame of length 0 is a
heartbeat.

Sending never waits. The write buffer is bounded, and its policy is *fail*: a peer that does not read is as good as
dead, so the connection is closed with reason ``overflow`` and the calls on it are taken over, which loses nothing,
whereas a dropped message would. The read queue is bounded too; its policy is *block*: reading from the socket stops
until the owner has caught up.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import cast

from actors.link.codec import Message, decode, encode
from actors.link.messages import PROTOCOL_VERSION, Hello
from voice_agent.errors import AuthError, ProtocolError, VoiceAgentError

logger = logging.getLogger(__name__)

_PREFIX_BYTES = 4
_HEARTBEAT = bytes(_PREFIX_BYTES)


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Sizes and times of a connection.

    Attributes:
        frame_bytes: largest body accepted or sent.
        write_bytes: unsent bytes at which the connection is given up.
        read_messages: received messages waiting for their owner at which the socket is no longer read.
        heartbeat_s: how often this end looks at the link; where nothing else was sent since, an empty frame is.
        silent_beats: a peer not heard of for so many looks is dead (a frozen process or a lost machine). Looks, not
            seconds: an end that was held up itself has looked once in that time, and blames nobody.
        hello_s: time for the handshake.
    """

    frame_bytes: int = 4 * 1024 * 1024
    write_bytes: int = 16 * 1024 * 1024
    read_messages: int = 4096
    heartbeat_s: float = 0.25
    silent_beats: int = 4
    hello_s: float = 5.0

    def patient(self, silence_s: float) -> LinkLimits:
        """The same with ``silent_beats`` for so long a silence."""
        return replace(self, silent_beats=max(2, math.ceil(silence_s / self.heartbeat_s)))


@dataclass(slots=True)
class LinkStatistics:
    """Counters of a connection since it was opened. ``refused`` counts messages sent after it was closed."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    refused: int = 0
    read_pauses: int = 0


class LinkConnection(asyncio.Protocol):
    """One end of a link. ``send`` messages at any time; ``async for message in connection`` until it closes.

    Attributes:
        peer: name the other side gave in its Hello; empty before the handshake.
        close_reason: why it closed: ``peer_closed``, ``overflow``, ``silent``, ``protocol: ...`` or what was given to
            ``close``. Empty while open.
    """

    def __init__(self, limits: LinkLimits, on_open: Callable[[LinkConnection], None] | None = None) -> None:
        self.peer = ""
        self.close_reason = ""
        self.statistics = LinkStatistics()
        self._limits = limits
        self._on_open = on_open
        self._transport: asyncio.Transport | None = None
        self._incoming: deque[Message] = deque()
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._loop = asyncio.get_running_loop()
        self._lost = self._loop.create_future()
        self._heard = self._said = True
        self._silent = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def closed(self) -> bool:
        """True once closing began; nothing more is sent."""
        return bool(self.close_reason)

    def send(self, message: Message) -> bool:
        """Queue a message; never waits. False (and counted) when the connection is closed.

        Raises:
            ProtocolError: the message is larger than the frame limit or cannot be encoded.
        """
        if self._transport is None or self.closed:
            self.statistics.refused += 1
            return False
        body = encode(message)
        if len(body) > self._limits.frame_bytes:
            raise ProtocolError(f"{type(message).__name__} of {len(body)} bytes is over the link's frame limit")
        if not self._outgoing:
            # What is sent in one turn of the loop goes in one write, which costs more than the messages.
            self._loop.call_soon(self._flush)
        self._outgoing += (len(body).to_bytes(_PREFIX_BYTES, "big"), body)
        self._outgoing_bytes += len(body)
        self._said = True
        self.statistics.sent += 1
        self.statistics.sent_bytes += len(body)
        if self._outgoing_bytes + self._transport.get_write_buffer_size() > self._limits.write_bytes:
            self.abort("overflow")
            return False
        return True

    def close(self, reason: str) -> None:
        """Send what is queued, then close. Idempotent."""
        self._flush()
        self._end(reason)
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once and drop what is queued. Idempotent."""
        self._outgoing.clear()
        self._end(reason)
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Return when the socket is gone."""
        await asyncio.shield(self._lost)

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        while not self._incoming:
            if self.closed:
                raise StopAsyncIteration
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._incoming.popleft()
        if self._paused and len(self._incoming) <= self._limits.read_messages // 2:
            self._paused = False
            if self._transport is not None and not self.closed:
                self._transport.resume_reading()
        return message

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        # Not checked: uvloop's transports are no subclass of asyncio's.
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=self._limits.write_bytes)
        _tune(transport.get_extra_info("socket"))
        self._beat()
        if self._on_open is not None:
            self._on_open(self)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop: cut frames, decode, wake the owner."""
        self._heard = True
        if self.closed:
            return
        self._buffer += data
        try:
            self._cut()
        except ProtocolError as error:
            self.abort(f"protocol: {error}")
            return
        if len(self._incoming) >= self._limits.read_messages and not self._paused:
            self._paused = True
            self.statistics.read_pauses += 1
            assert self._transport is not None
            self._transport.pause_reading()
        if self._incoming:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._end("peer_closed")
        if not self._lost.done():
            self._lost.set_result(None)

    # --- inside ---

    def _flush(self) -> None:
        if self._outgoing and self._transport is not None:
            self._transport.writelines(self._outgoing)
        self._outgoing = []
        self._outgoing_bytes = 0

    def _cut(self) -> None:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= _PREFIX_BYTES:
            size = int.from_bytes(buffer[at : at + _PREFIX_BYTES], "big")
            if size > self._limits.frame_bytes:
                raise ProtocolError(f"a frame of {size} bytes is over the link's limit")
            end = at + _PREFIX_BYTES + size
            if len(buffer) < end:
                break
            if size:
                self._incoming.append(decode(bytes(buffer[at + _PREFIX_BYTES : end])))
                self.statistics.received += 1
                self.statistics.received_bytes += size
            at = end
        del buffer[:at]

    def _beat(self) -> None:
        if self.closed or self._transport is None:
            return
        # A peer whose messages wait here unread is not silent: reading is only paused on this side.
        self._silent = 0 if self._heard or self._paused else self._silent + 1
        if self._silent >= self._limits.silent_beats:
            self.abort("silent")
            return
        if not self._said:
            self._transport.write(_HEARTBEAT)
        self._heard = self._said = False
        self._timer = self._loop.call_later(self._limits.heartbeat_s, self._beat)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, reason: str) -> None:
        if not self.close_reason:
            self.close_reason = reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()


def _tune(sock: socket.socket | None) -> None:
    """No Nagle: an event of 40 bytes must not wait for the next one."""
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _expect_hello(connection: LinkConnection, secret: str, limits: LinkLimits) -> None:
    try:
        async with asyncio.timeout(limits.hello_s):
            first = await anext(connection)
    except TimeoutError:
        raise ProtocolError("the peer on the media link sent no Hello in time") from None
    except StopAsyncIteration:
        raise ProtocolError(f"the media link closed before Hello: {connection.close_reason}") from None
    if not isinstance(first, Hello):
        raise ProtocolError(f"the media link began with {type(first).__name__} instead of Hello")
    if not hmac.compare_digest(first.token_secret.encode(), secret.encode()):
        raise AuthError("the peer on the media link does not know the link secret")
    if first.version != PROTOCOL_VERSION:
        raise ProtocolError(f"the peer speaks media link version {first.version}, this is {PROTOCOL_VERSION}")
    connection.peer = first.name


async def connect_link(
    host: str, port: int, *, name: str, secret: str, limits: LinkLimits | None = None
) -> LinkConnection:
    """Open a link to a call actor and shake hands.

    Args:
        host: address the actor listens on.
        port: its port.
        name: told to the actor, for its logs.
        secret: link secret of the cluster.
        limits: sizes and times; defaults fit a cluster's network.

    Raises:
        OSError: nothing listens there.
        TimeoutError: the connection was not made within ``limits.hello_s``.
        ProtocolError: no or a bad Hello, or another protocol version.
        AuthError: the peer does not know the secret.
    """
    limits = limits or LinkLimits()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(limits.hello_s):
        _, connection = await loop.create_connection(lambda: LinkConnection(limits), host, port)
    try:
        connection.send(Hello(name=name, token_secret=secret, version=PROTOCOL_VERSION))
        await _expect_hello(connection, secret, limits)
    except BaseException:
        connection.abort("handshake")
        raise
    return connection


LinkHandler = Callable[[LinkConnection], Awaitable[None]]


class LinkServer:
    """Listens for links. ``handler`` owns a connection that has shaken hands, until it returns.

    ``max_connections`` bounds sockets, those in the handshake included; one more is closed at once.
    """

    def __init__(
        self,
        handler: LinkHandler,
        *,
        name: str,
        secret: str,
        limits: LinkLimits | None = None,
        max_connections: int = 256,
    ) -> None:
        self._handler = handler
        self._name = name
        self._secret = secret
        self._limits = limits or LinkLimits()
        self._max_connections = max_connections
        self._connections: set[LinkConnection] = set()
        self._group: asyncio.TaskGroup | None = None
        self._main: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self.refused = 0

    @property
    def connections(self) -> tuple[LinkConnection, ...]:
        """Open connections, those in the handshake included."""
        return tuple(self._connections)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Bind and listen; returns the bound host and port (port 0 picks a free one).

        Raises:
            OSError: the address is taken or not ours.
        """
        loop = asyncio.get_running_loop()
        self._stop.clear()
        server = await loop.create_server(lambda: LinkConnection(self._limits, self._opened), host, port)
        bound: asyncio.Future[None] = loop.create_future()
        self._main = asyncio.create_task(self._run(server, bound), name="link-server")
        await bound
        address = server.sockets[0].getsockname()
        return host, int(address[1])

    async def stop(self) -> None:
        """Close every connection, wait for their handlers, and stop listening. Idempotent."""
        self._stop.set()
        if self._main is not None:
            await self._main
            self._main = None

    async def _run(self, server: asyncio.Server, bound: asyncio.Future[None]) -> None:
        """Own the listening socket and one task per connection."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                bound.set_result(None)
                await self._stop.wait()
                server.close()
                for connection in tuple(self._connections):
                    connection.close("server_stopped")
        finally:
            self._group = None
            server.close()

    def _opened(self, connection: LinkConnection) -> None:
        if self._group is None or self._stop.is_set() or len(self._connections) >= self._max_connections:
            self.refused += 1
            connection.abort("refused")
            return
        self._connections.add(connection)
        self._group.create_task(self._serve(connection), name="link-connection")

    async def _serve(self, connection: LinkConnection) -> None:
        try:
            await _expect_hello(connection, self._secret, self._limits)
            connection.send(Hello(name=self._name, token_secret=self._secret, version=PROTOCOL_VERSION))
            await self._handler(connection)
        except VoiceAgentError as error:
            self.refused += not connection.peer
            logger.warning("media link closed on an error", extra={"code": error.code, "reason": error.message})
            connection.abort(error.message)
        finally:
            connection.close("handler_done")
            self._connections.discard(connection)
