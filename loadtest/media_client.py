"""WebSocket client of a media stream: the ``websockets`` protocol core driven by callbacks, cheap enough for a swarm.

A carrier sends 50 messages a second for each call. Text frames are made and cut out here, in a few lines; handshake,
control frames, fragments and closing are ``websockets.client.ClientProtocol``. Frames are masked with the key zero,
which leaves the bytes as they are: RFC 6455 section 5.3 wants a key that nobody can guess against caches in the network
that misread what a browser sends, and there is neither here. The server unmasks all the same.
"""

from __future__ import annotations

import asyncio
import socket as sockets
import ssl
from collections.abc import Callable, Mapping
from typing import Protocol, cast

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.uri import WebSocketURI, parse_uri

LARGEST_MESSAGE_BYTES = 1 << 20
_CLOSE_WITHIN_S = 5.0
_TEXT_FIN = 0x80 | Opcode.TEXT
_MASKED = 0x80
_ZERO_KEY = bytes(4)


class Wire(Protocol):
    """What a leg needs of its socket. Nothing blocks; sending to a socket that is gone does nothing."""

    @property
    def waiting_bytes(self) -> int:
        """What the peer has not read."""

    def send(self, text: bytes) -> None:
        """Send a text message, in UTF-8."""

    def close(self, code: int) -> None:
        """Start the closing handshake; idempotent."""

    def abort(self) -> None:
        """Cut the connection."""


class MediaClient(asyncio.Protocol):
    """One connection. ``on_text`` gets each text message as it is read, in UTF-8."""

    def __init__(self, uri: WebSocketURI, headers: Mapping[str, str], on_text: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._on_text = on_text
        self._headers = headers
        self._protocol = ClientProtocol(uri, max_size=LARGEST_MESSAGE_BYTES)
        self._transport: asyncio.Transport | None = None
        self._open = False
        self._fragments: list[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting_bytes(self) -> int:
        """What the peer has not read."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def send(self, text: bytes) -> None:
        """Send a text message, in UTF-8."""
        if not self._open or self._transport is None:
            return
        size = len(text)
        if size < 126:
            head = bytes((_TEXT_FIN, _MASKED | size))
        elif size < 65536:
            head = bytes((_TEXT_FIN, _MASKED | 126, size >> 8, size & 0xFF))
        else:
            head = bytes((_TEXT_FIN, _MASKED | 127)) + size.to_bytes(8)
        self._transport.write(head + _ZERO_KEY + text)

    def close(self, code: int) -> None:
        """Start the closing handshake; the connection is cut when the server does not finish it. Idempotent."""
        if self._open:
            self._open = False
            self._protocol.send_close(code)
            self._flush()

    def abort(self) -> None:
        """Cut the connection without a word, as a broken network does."""
        self._open = False
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        # Not checked: uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (sockets.AF_INET, sockets.AF_INET6):
            raw.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        request = self._protocol.connect()
        for name, value in self._headers.items():
            request.headers[name] = value
        self._protocol.send_request(request)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._open and not self._protocol.reader.buffer and self._fragments is None:
            data = self._cut_text_frames(data)
        if data:
            self._protocol.receive_data(data)
            for event in self._protocol.events_received():
                self._take(event)
            self._flush()

    def eof_received(self) -> None:
        """Called by the event loop; returning nothing closes the transport."""
        self._protocol.receive_eof()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError("the server closed the connection"))
        if not self.closed.done():
            self.closed.set_result(None)

    # --- inside ---

    def _cut_text_frames(self, data: bytes) -> bytes:
        """Hand over whole, unfragmented text frames under 64 KiB (RFC 6455 section 5.2); give the rest back."""
        at, end_of_data = 0, len(data)
        while end_of_data - at >= 4 and data[at] == _TEXT_FIN and self._open:
            size, body = data[at + 1], at + 2
            if size == 126:
                size, body = data[at + 2] << 8 | data[at + 3], at + 4
            end = body + size
            if data[at + 1] > 126 or end > end_of_data:
                break
            self._on_text(data[body:end])
            at = end
        return data[at:] if at else data

    def _take(self, event: object) -> None:
        if isinstance(event, Response):
            if self._protocol.handshake_exc is not None:
                self.opened.set_exception(self._protocol.handshake_exc)
            else:
                self._open = True
                self.opened.set_result(None)
        elif isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._fragments = [*(self._fragments or ()), bytes(event.data)]
            if event.fin:
                message, self._fragments = b"".join(self._fragments), None
                if self._open:
                    self._on_text(message)

    def _flush(self) -> None:
        """Write what the protocol has to say; an empty piece means end of stream."""
        if self._transport is None:
            return
        for piece in self._protocol.data_to_send():
            if piece:
                self._transport.write(piece)
            else:
                self._transport.close()
        if self._open and self._protocol.state is not OPEN:
            self._open = False
        if self._timer is None and self._protocol.close_expected():
            self._timer = self._loop.call_later(_CLOSE_WITHIN_S, self._transport.abort)


async def open_client(
    url: str, headers: Mapping[str, str], on_text: Callable[[bytes], None], timeout_s: float
) -> MediaClient:
    """Connect and upgrade.

    Raises:
        OSError: the server cannot be reached, or does not answer in time.
        InvalidHandshake: it refuses the upgrade.
    """
    uri = parse_uri(url)
    client = MediaClient(uri, headers, on_text)
    secure = ssl.create_default_context() if uri.secure else None
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().create_connection(lambda: client, uri.host, uri.port, ssl=secure)
            await client.opened
    except BaseException:
        client.abort()
        raise
    return client
