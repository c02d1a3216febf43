"""WebSocket server for media legs: the ``websockets`` protocol core driven by callbacks.

Legs send 50 messages a second each and must be answered in the same tick of the loop, so nothing here awaits: a message
is handed to the leg's handler as it is read, and sending writes to the transport at once. Once a socket is open its
transport is paused, and it is read at the beats of the gateway's pulse: no loop wakes up for one frame. Handshake,
control frames, fragments and closing are ``websockets.server.ServerProtocol``; whole small text frames, which is all a
carrier sends during a call, are cut out before they reach its general parser, which costs several times as much, and
are made without it.

Policies: a message over ``message_bytes`` closes with 1009; a peer that does not read closes with 1008 when
``write_bytes`` wait for it; more than ``sockets`` connections are closed at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket as sockets
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, cast

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from actors.gateway.pulse import Pulse

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

logger = logging.getLogger(__name__)

_TEXT_FIN: Final = 0x80 | Opcode.TEXT
_MASKED: Final = 0x80
_REASON_BYTES: Final = 123
_FIRST_READ_BYTES: Final = 1024
"""Read first: two frames of a carrier, more than a beat brings. Room for more would be allocated in vain."""
_READ_BYTES: Final = 16_384
"""Read at once where there is more: 40 frames."""
_READS: Final = 4
"""Reads of one socket in a beat, so that one with a backlog does not keep the others waiting."""


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Sizes and times of a socket. ``handshake_s`` is for the HTTP request, ``silence_s`` for a peer gone quiet."""

    message_bytes: int = 65536
    write_bytes: int = 1024 * 1024
    sockets: int = 512
    handshake_s: float = 5.0
    ping_s: float = 10.0
    silence_s: float = 25.0
    close_s: float = 2.0


class SocketHandler(Protocol):
    """The owner of one socket. No method may block; ``closed`` comes once, and last."""

    def check(self, socket: MediaSocket, path: str, headers: dict[str, str]) -> tuple[HTTPStatus, str] | None:
        """Judge the upgrade request (header names in lower case). A status refuses it with that body."""

    def opened(self) -> None:
        """The upgrade was accepted."""

    def text(self, message: bytes) -> None:
        """A text message, as UTF-8 (not checked)."""

    def binary(self) -> None:
        """A binary message."""

    def closed(self, code: int, reason: str) -> None:
        """The socket is gone. 1006 when it died without a closing handshake."""


class MediaSocket(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: MediaServer, handler: SocketHandler) -> None:
        self._server = server
        self._limits = server.limits
        self._handler = handler
        self._protocol = ServerProtocol(max_size=self._limits.message_bytes)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._fragments: list[bytes] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._descriptor = -1
        self._open = False
        self._gone = False

    @property
    def is_open(self) -> bool:
        """Messages can be sent."""
        return self._open

    def send_text(self, message: bytes) -> bool:
        """Send a message, UTF-8; False when the socket is closed or was closed because the peer does not read."""
        if not self._open or self._transport is None:
            return False
        self._transport.write(_text_frame(message))
        if self._transport.get_write_buffer_size() > self._limits.write_bytes:
            self.close(1008, "not reading")
            self._transport.abort()
            return False
        return True

    def close(self, code: int, reason: str) -> None:
        """Start the closing handshake; the socket is cut when the peer does not finish it. Idempotent."""
        if self._transport is None or self._gone:
            return
        if self._open:
            self._open = False
            try:
                self._protocol.send_close(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))
            except InvalidState:
                # The peer's close frame was answered in this very tick.
                self._transport.close()
            self._flush()
            self._arm(self._limits.close_s, self._transport.abort)
        elif self._protocol.state is not OPEN:
            self._transport.close()

    def read_at_once(self, at_once: bool) -> None:
        """Read what comes when it comes, or (as at the start) at the beats of the pulse. Idempotent."""
        if self._transport is None or not self._open:
            return
        self._server.pulse.leave(self._read)
        if at_once:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()
            self._server.pulse.join(self._read)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        # Not checked: uvloop's transports are no subclass of asyncio's.
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.family in (sockets.AF_INET, sockets.AF_INET6):
            raw.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        if self._server.admit(self):
            self._arm(self._limits.handshake_s, transport.abort)
        else:
            self._gone = True
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._heard_at = self._loop.time()
        if self._gone:
            return
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
        self._server.pulse.leave(self._read)
        if self._timer is not None:
            self._timer.cancel()
        if not self._gone:
            self._gone = True
            self._server.forget(self)
            code = self._protocol.close_code
            self._handler.closed(1006 if code is None else code, self._protocol.close_reason or "")

    # --- inside ---

    def _read(self) -> None:
        """Take what has come since the last beat, past the transport, whose reading is paused."""
        assert self._transport is not None
        size = _FIRST_READ_BYTES
        try:
            for _ in range(_READS):
                if self._transport.is_closing():
                    return
                data = os.read(self._descriptor, size)
                if not data:
                    self.eof_received()
                    self._transport.close()
                    return
                self.data_received(data)
                if len(data) < size:
                    return
                size = _READ_BYTES
        except BlockingIOError:
            pass  # nothing has come
        except OSError:
            self._transport.abort()
        except Exception:
            # The border of a socket: others are read in this beat. An event loop does the same with a protocol.
            logger.exception("media socket failed")
            self._transport.abort()

    def _cut_text_frames(self, data: bytes) -> bytes:
        """Hand over whole, unfragmented, masked text frames under 64 KiB (RFC 6455 section 5.2); give the rest back."""
        at, end_of_data, largest, take = 0, len(data), self._limits.message_bytes, self._handler.text
        while end_of_data - at >= 8 and data[at] == _TEXT_FIN and data[at + 1] & _MASKED and self._open:
            size, body = data[at + 1] & 0x7F, at + 6
            if size == 126:
                size, body = data[at + 2] << 8 | data[at + 3], at + 8
            end = body + size
            if size == 127 or end > end_of_data or size > largest:
                break
            take(apply_mask(data[body:end], data[body - 4 : body]))
            at = end
        return data[at:] if at else data

    def _take(self, event: object) -> None:
        if isinstance(event, Request):
            self._upgrade(event)
        elif isinstance(event, Frame) and self._open:
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._take_data(event)
            elif event.opcode is Opcode.CLOSE:
                self._open = False

    def _take_data(self, frame: Frame) -> None:
        """Join fragments; those of a binary message are not kept."""
        if frame.opcode is Opcode.BINARY:
            self._handler.binary()
            return
        if frame.opcode is Opcode.TEXT:
            self._fragments = []
        if self._fragments is None:
            return
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            message, self._fragments = b"".join(self._fragments), None
            self._handler.text(message)

    def _upgrade(self, request: Request) -> None:
        assert self._transport is not None
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        refusal = self._handler.check(self, request.path, headers)
        if refusal is not None:
            self._protocol.send_response(self._protocol.reject(refusal[0], refusal[1] + "\n"))
            return
        self._protocol.send_response(self._protocol.accept(request))
        if self._protocol.state is OPEN:
            self._open = True
            self._arm(self._limits.ping_s, self._keep_alive)
            self._handler.opened()
            self._descriptor = self._transport.get_extra_info("socket").fileno()
            self.read_at_once(False)

    def _keep_alive(self) -> None:
        assert self._transport is not None
        if self._loop.time() - self._heard_at > self._limits.silence_s:
            self._transport.abort()
        elif self._open:
            self._protocol.send_ping(b"")
            self._flush()
            self._arm(self._limits.ping_s, self._keep_alive)

    def _flush(self) -> None:
        """Write what the protocol has to say; an empty piece means end of stream."""
        assert self._transport is not None
        for piece in self._protocol.data_to_send():
            if piece:
                self._transport.write(piece)
            else:
                self._open = False
                self._transport.close()
        if self._open and self._protocol.state is not OPEN:
            self._open = False
            self._arm(self._limits.close_s, self._transport.abort)

    def _arm(self, delay_s: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, then)


def _text_frame(message: bytes) -> bytes:
    """A whole unmasked text message (RFC 6455 section 5.2)."""
    size = len(message)
    if size < 126:
        return bytes((_TEXT_FIN, size)) + message
    if size < 65536:
        return bytes((_TEXT_FIN, 126, size >> 8, size & 0xFF)) + message
    return bytes((_TEXT_FIN, 127)) + size.to_bytes(8, "big") + message


class MediaServer:
    """Listens; makes a handler per connection."""

    def __init__(self, make_handler: Callable[[], SocketHandler], limits: SocketLimits, pulse: Pulse) -> None:
        self.limits = limits
        self.pulse = pulse
        self.refused = 0
        self._make_handler = make_handler
        self._sockets: set[MediaSocket] = set()
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def open_sockets(self) -> int:
        """Connections, those in the handshake included."""
        return len(self._sockets)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the bound port.

        Raises:
            OSError: the address is taken or not ours.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: MediaSocket(self, self._make_handler()), host, port)
        return int(self._server.sockets[0].getsockname()[1])

    def stop_listening(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def stop(self, code: int = 1001, reason: str = "going away") -> None:
        """Close every socket and wait until the last is gone."""
        self.stop_listening()
        for socket in tuple(self._sockets):
            socket.close(code, reason)
        await self._empty.wait()

    def admit(self, socket: MediaSocket) -> bool:
        """Count a new connection in; False when there are too many."""
        if len(self._sockets) >= self.limits.sockets:
            self.refused += 1
            return False
        self._sockets.add(socket)
        self._empty.clear()
        return True

    def forget(self, socket: MediaSocket) -> None:
        """The connection is gone."""
        self._sockets.discard(socket)
        if not self._sockets:
            self._empty.set()
