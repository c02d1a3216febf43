"""One Media Streams socket as the carrier holds it, and the telephone at the caller's end of it."""

from __future__ import annotations

import binascii
import re
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from loadtest.caller import ScriptedCaller
from loadtest.media_client import Wire
from loadtest.network import Network, Uplink
from loadtest.playout import FRAME_BYTES, FRAME_MS, PlayoutBuffer
from voice_agent.audio.g711 import SILENCE
from voice_agent.errors import ProtocolError
from voice_agent.twilio import messages

_SILENT_FRAME = SILENCE * FRAME_BYTES
_WRITE_BUFFER_BYTES = 16_384
"""A server that lets this much pile up reads too slowly: audio to it is dropped (Twilio warning 31930)."""

_MEDIA = re.compile(rb'\{"event": ?"media", ?"streamSid": ?"(\w+)", ?"media": ?\{"payload": ?"([A-Za-z0-9+/=]*)"\}\}')
"""A media message as servers write it. What does not match goes the long way, and comes out the same."""


@dataclass(frozen=True, slots=True)
class StreamIds:
    """Who a stream belongs to."""

    stream_sid: str
    call_sid: str
    account_sid: str


class MediaLeg:
    """One stream: numbers what it sends, queues what it receives. ``take`` gets what the socket reads."""

    def __init__(self, ids: StreamIds, uplink: Uplink | None = None) -> None:
        self._ids = ids
        self._uplink = uplink
        self._wire: Wire | None = None
        self._sid = ids.stream_sid.encode()
        self._sequence = 0
        self._frames = 0
        self.playout = PlayoutBuffer()
        self.first_audio_at_s: float | None = None
        self.dropped_frames = 0
        self.protocol_error = ""

    def open(self, wire: Wire, parameters: Mapping[str, str]) -> None:
        """Send ``connected`` and ``start``."""
        self._wire = wire
        wire.send(messages.build_connected().encode())
        ids = self._ids
        self._send(
            messages.build_start(
                self._number(),
                ids.stream_sid,
                call_sid=ids.call_sid,
                account_sid=ids.account_sid,
                parameters=parameters,
            )
        )

    def take(self, text: bytes) -> None:
        """A message of the server. One that breaks the protocol closes the socket."""
        found = _MEDIA.fullmatch(text)
        if found is not None and found[1] == self._sid:
            try:
                payload = binascii.a2b_base64(found[2], strict_mode=True)
            except binascii.Error:
                self._broken("field payload is not base64")
            else:
                self._media(payload)
            return
        try:
            self._take(messages.parse_outbound(text.decode()))
        except UnicodeDecodeError:
            self._broken("message is not UTF-8")
        except ProtocolError as error:
            self._broken(str(error))

    def tick(self, frame: bytes) -> bytes:
        """Send one frame of the caller, play one of the agent; returns the one that sounds from now on."""
        heard, marks = self.playout.tick()
        for name in marks:
            self._echo(name)
        if self._uplink is None:
            self._send_frame(self._frames, frame)
        else:
            for number, arrived in self._uplink.pass_on(frame):
                self._send_frame(number, arrived)
        self._frames += 1
        return heard

    def press(self, digit: str) -> None:
        """Send ``dtmf``."""
        self._send(messages.build_dtmf(self._number(), self._ids.stream_sid, digit))

    def stop(self) -> None:
        """The caller is gone: ``stop``, then close."""
        ids = self._ids
        self._send(
            messages.build_stop(self._number(), ids.stream_sid, call_sid=ids.call_sid, account_sid=ids.account_sid)
        )
        if self._wire is not None:
            self._wire.close(1000)

    def cut(self) -> None:
        """The network breaks: neither ``stop`` nor a closing handshake."""
        if self._wire is not None:
            self._wire.abort()

    def _send_frame(self, number: int, frame: bytes) -> None:
        """The bytes of ``messages.build_media``, made at a fifth of its cost."""
        wire = self._wire
        if wire is None:
            return
        sequence = self._number()
        if wire.waiting_bytes > _WRITE_BUFFER_BYTES:
            self.dropped_frames += 1
            return
        wire.send(
            b'{"event": "media", "sequenceNumber": "%d", "streamSid": "%b", "media": {"track": "inbound", '
            b'"chunk": "%d", "timestamp": "%d", "payload": "%b"}}'
            % (sequence, self._sid, number + 1, number * FRAME_MS, binascii.b2a_base64(frame, newline=False))
        )

    def _take(self, message: messages.Outbound) -> None:
        if message.stream_sid != self._ids.stream_sid:
            raise ProtocolError("streamSid is not this stream's")
        if isinstance(message, messages.OutMedia):
            self._media(message.payload)
        elif isinstance(message, messages.OutMark):
            for name in self.playout.mark(message.name):
                self._echo(name)
        else:
            for name in self.playout.clear():
                self._echo(name)

    def _media(self, payload: bytes) -> None:
        if self.first_audio_at_s is None:
            self.first_audio_at_s = time.monotonic()
        self.playout.media(payload)

    def _broken(self, reason: str) -> None:
        self.protocol_error = f"Twilio error 31924: {reason}"
        if self._wire is not None:
            self._wire.close(1002)

    def _echo(self, name: str) -> None:
        self._send(messages.build_mark(self._number(), self._ids.stream_sid, name))

    def _number(self) -> int:
        self._sequence += 1
        return self._sequence

    def _send(self, text: str) -> None:
        if self._wire is not None:
            self._wire.send(text.encode())


@dataclass(slots=True)
class LineAudio:
    """What was said and heard, mu-law 8 kHz, sample by sample on the call's clock.

    Attributes:
        caller: at the caller's mouth; a frame is sent when it is complete, 20 ms after its first sample.
        agent: at the caller's ear.
        lateness_ms: how late each tick of the generator was.
        began_at_s: Unix time of the first sample.
    """

    caller: bytearray = field(default_factory=bytearray)
    agent: bytearray = field(default_factory=bytearray)
    lateness_ms: array[float] = field(default_factory=lambda: array("f"))
    began_at_s: float = 0.0


class Line:
    """The caller's telephone: ticks every 20 ms from answer to end, whether a stream is there or not.

    Tick k plays the agent's frame k and sends the caller's frame k - 1, which the caller has just finished speaking.
    """

    def __init__(
        self, caller: ScriptedCaller, hung_up: Callable[[str], None], network: Network | None = None, seed: int = 0
    ) -> None:
        """``hung_up`` is told once, with the caller's reason."""
        self._caller = caller
        self._hung_up = hung_up
        self._network = network or Network()
        self._cuts_ms = sorted(self._network.cuts_ms, reverse=True)
        self._seed = seed
        self._spoken = self._heard = _SILENT_FRAME
        self.audio = LineAudio()
        self.leg: MediaLeg | None = None
        self.cuts = 0
        self.over = False

    @property
    def now_ms(self) -> int:
        """The call's clock."""
        return len(self.audio.agent) // FRAME_BYTES * FRAME_MS

    def uplink(self, stream: int) -> Uplink | None:
        """The way of the ``stream``-th stream's frames; None where nothing happens to them."""
        return Uplink(self._network, self._seed * 100 + stream) if self._network.disturbs else None

    def tick(self, late_ms: float) -> None:
        """One frame each way."""
        if self.over:
            return
        audio, leg = self.audio, self.leg
        if not audio.lateness_ms:
            audio.began_at_s = time.time()
        audio.lateness_ms.append(late_ms)
        action = self._caller.tick(self._heard)
        self._heard = leg.tick(self._spoken) if leg is not None else _SILENT_FRAME
        self._spoken = action.frame
        audio.caller += action.frame
        audio.agent += self._heard
        if leg is not None and self._cuts_ms and self.now_ms >= self._cuts_ms[-1]:
            self._cuts_ms.pop()
            self.cuts += 1
            leg.cut()
        if action.digit and leg is not None:
            leg.press(action.digit)
        if action.hang_up:
            self.over = True
            self._hung_up(action.hang_up)
            if leg is not None:
                leg.stop()
