"""One Media Streams socket as the carrier holds it, and the 20 ms clock that drives a call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from loadtest.caller import ScriptedCaller
from loadtest.playout import FRAME_BYTES, FRAME_MS, PlayoutBuffer
from voice_agent.audio.g711 import SILENCE
from voice_agent.errors import ProtocolError
from voice_agent.twilio import messages

_SILENT_FRAME = SILENCE * FRAME_BYTES
_WRITE_BUFFER_BYTES = 16_384
"""A server that lets this much pile up reads too slowly: audio to it is dropped (Twilio warning 31930)."""


@dataclass(frozen=True, slots=True)
class StreamIds:
    """Who a stream belongs to."""

    stream_sid: str
    call_sid: str
    account_sid: str


class MediaLeg:
    """One stream: numbers what it sends, queues what it receives. Owned by the call's tasks."""

    def __init__(self, socket: ClientConnection, ids: StreamIds) -> None:
        self._socket = socket
        self._ids = ids
        self._sequence = 0
        self._chunk = 0
        self.playout = PlayoutBuffer()
        self.opened_at_s = time.monotonic()
        self.first_audio_at_s: float | None = None
        self.dropped_frames = 0
        self.protocol_error = ""
        self.stopped = False

    async def open(self, parameters: Mapping[str, str]) -> None:
        """Send ``connected`` and ``start``."""
        await self._socket.send(messages.build_connected())
        ids = self._ids
        await self._send(
            messages.build_start(
                self._number(),
                ids.stream_sid,
                call_sid=ids.call_sid,
                account_sid=ids.account_sid,
                parameters=parameters,
            )
        )

    async def receive(self) -> None:
        """Take what the server sends until the socket closes, or the server breaks the protocol."""
        try:
            async for text in self._socket:
                await self._take(messages.parse_outbound(text))
        except ProtocolError as error:
            self.protocol_error = f"Twilio error 31924: {error}"
            await self._socket.close(1002)
        except ConnectionClosed:
            pass  # killed instead of closed: the carrier treats both alike

    async def tick(self, frame: bytes) -> bytes:
        """Send one frame of the caller, play one of the agent; returns the one that sounds from now on."""
        heard, marks = self.playout.tick()
        for name in marks:
            await self._echo(name)
        self._chunk += 1
        if self._socket.transport.get_write_buffer_size() > _WRITE_BUFFER_BYTES:
            self.dropped_frames += 1
            self._number()
            return heard
        timestamp_ms = (self._chunk - 1) * FRAME_MS
        await self._send(
            messages.build_media(
                self._number(), self._ids.stream_sid, chunk=self._chunk, timestamp_ms=timestamp_ms, payload=frame
            )
        )
        return heard

    async def press(self, digit: str) -> None:
        """Send ``dtmf``."""
        await self._send(messages.build_dtmf(self._number(), self._ids.stream_sid, digit))

    async def stop(self) -> None:
        """The caller is gone: ``stop``, then close."""
        self.stopped = True
        ids = self._ids
        await self._send(
            messages.build_stop(self._number(), ids.stream_sid, call_sid=ids.call_sid, account_sid=ids.account_sid)
        )
        await self._socket.close()

    async def _take(self, message: messages.Outbound) -> None:
        if message.stream_sid != self._ids.stream_sid:
            raise ProtocolError("streamSid is not this stream's")
        if isinstance(message, messages.OutMedia):
            if self.first_audio_at_s is None:
                self.first_audio_at_s = time.monotonic()
            self.playout.media(message.payload)
        elif isinstance(message, messages.OutMark):
            for name in self.playout.mark(message.name):
                await self._echo(name)
        else:
            for name in self.playout.clear():
                await self._echo(name)

    async def _echo(self, name: str) -> None:
        await self._send(messages.build_mark(self._number(), self._ids.stream_sid, name))

    def _number(self) -> int:
        self._sequence += 1
        return self._sequence

    async def _send(self, text: str) -> None:
        with suppress(ConnectionClosed):  # ``receive`` sees the same and ends the stream
            await self._socket.send(text)


@dataclass(slots=True)
class LineAudio:
    """What was said and heard, mu-law 8 kHz, sample by sample on the call's clock.

    Attributes:
        caller: at the caller's mouth; a frame is sent when it is complete, 20 ms after its first sample.
        agent: at the caller's ear.
        lateness_ms: how late each tick of the generator was.
    """

    caller: bytearray = field(default_factory=bytearray)
    agent: bytearray = field(default_factory=bytearray)
    lateness_ms: list[float] = field(default_factory=list)


class Line:
    """The caller's telephone: ticks every 20 ms from answer to end, whether a stream is there or not."""

    def __init__(self, caller: ScriptedCaller, hung_up: Callable[[str], None]) -> None:
        """``hung_up`` is told once, with the caller's reason."""
        self._caller = caller
        self._hung_up = hung_up
        self.audio = LineAudio()
        self.leg: MediaLeg | None = None
        self.over = False

    async def run(self) -> None:
        """Tick on absolute deadlines until cancelled or the caller hangs up.

        Tick k plays the agent's frame k and sends the caller's frame k - 1, which the caller has just finished
        speaking. A late tick is followed at once by the next: the clock never drifts.
        """
        begin_s = time.monotonic()
        spoken, heard, tick = _SILENT_FRAME, _SILENT_FRAME, 0
        while not self.over:
            deadline_s = begin_s + tick * FRAME_MS / 1000
            # Sleeping even when late lets the receiver run between two ticks.
            await asyncio.sleep(max(0.0, deadline_s - time.monotonic()))
            self.audio.lateness_ms.append((time.monotonic() - deadline_s) * 1000)
            action = self._caller.tick(heard)
            leg = self.leg
            heard = await leg.tick(spoken) if leg is not None else _SILENT_FRAME
            spoken = action.frame
            self.audio.caller += spoken
            self.audio.agent += heard
            if action.digit and leg is not None:
                await leg.press(action.digit)
            if action.hang_up:
                self.over = True
                self._hung_up(action.hang_up)
                if leg is not None:
                    await leg.stop()
            tick += 1
