"""One Twilio Media Streams socket: checks before anything is touched, then messages both ways.

Before a valid ``start`` the first thing wrong closes the socket (1008, binary 1003); after it, messages that break the
protocol are counted and tolerated up to a limit. Limits on rate are buckets: bursts after a network stall are fine,
lasting excess closes the socket.
"""

from __future__ import annotations

import asyncio
import binascii
import re
import time
from collections import Counter
from http import HTTPStatus
from typing import Final, Protocol

from actors.gateway.media_socket import MediaSocket
from configs.settings import TwilioSettings
from voice_agent.errors import AuthError, ProtocolError, VoiceAgentError
from voice_agent.metrics import STREAM_LOST
from voice_agent.twilio import messages
from voice_agent.twilio.messages import Connected, Dtmf, Mark, Media, SequenceTracker, Start, Stop

MEDIA_PATH: Final = "/twilio/media"
TOLERATED_ERRORS: Final = 10
"""Broken messages in one call before its socket is closed."""
BURST_S: Final = 5.0
"""How much a socket may be ahead of its rates, after a network stall."""
AUDIO_BYTES_PER_S: Final = 2 * 8000
"""Twice real time; more is no telephone."""

RATES_EVERY: Final = 32
"""Messages between two looks at the rates; far fewer than a burst."""
_MEDIA: Final = re.compile(
    rb'\{"event": ?"media", ?"sequenceNumber": ?"(\d{1,18})", ?(?:"streamSid": ?"(\w+)", ?)?'
    rb'"media": ?\{"track": ?"inbound", ?"chunk": ?"\d{1,18}", ?"timestamp": ?"\d{1,18}", ?'
    rb'"payload": ?"([A-Za-z0-9+/=]*)"\}(?:, ?"streamSid": ?"(\w+)")?\}'
)
"""A media message as Twilio writes it: 99 % of all messages, read at a fifth of the cost of a JSON parser. What does
not match goes the long way, and comes out the same."""

CALLER_HUNG_UP: Final = "caller_hung_up"
FAILED: Final = "failed"


class LegCall(Protocol):
    """The call a leg belongs to. No method may block."""

    def audio(self, payload: bytes) -> None:
        """Caller audio, mu-law 8 kHz, any length."""

    def dtmf(self, digit: str) -> None:
        """A key was pressed."""

    def mark(self, name: str) -> None:
        """A mark was echoed."""

    def gone(self, reason: str) -> None:
        """The leg is over: ``caller_hung_up``, ``stream_lost`` or ``failed``. Idempotent."""


class LegHost(Protocol):
    """What a leg asks of its gateway."""

    def check_upgrade(self, path: str, headers: dict[str, str]) -> tuple[HTTPStatus, str] | None:
        """Judge an upgrade request."""

    def begin(self, leg: TwilioLeg, start: Start) -> LegCall:
        """Authenticate a ``start`` and make its call.

        Raises:
            AuthError: its token or account is not right.
            ProtocolError: the call has a stream already, or the gateway is stopping.
        """

    def count_refused(self, reason: str) -> None:
        """A socket was refused before it had a call."""


class Bucket:
    """A rate with a burst: ``take`` is False when more than the burst is ahead of the rate."""

    __slots__ = ("_at_s", "_burst", "_left", "_rate")

    def __init__(self, rate: float, burst_s: float, now_s: float) -> None:
        self._rate = rate
        self._burst = rate * burst_s
        self._left = self._burst
        self._at_s = now_s

    def take(self, amount: int, now_s: float) -> bool:
        """Use up ``amount``."""
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._rate) - amount
        self._at_s = now_s
        return self._left >= 0


class TwilioLeg:
    """Handler of one socket (``actors.gateway.media_socket.SocketHandler``)."""

    def __init__(self, host: LegHost, settings: TwilioSettings) -> None:
        self.stream_sid = ""
        self.sequence = SequenceTracker()
        self.errors: Counter[str] = Counter()
        self.frames = 0
        self._host = host
        self._settings = settings
        self._socket: MediaSocket | None = None
        self._call: LegCall | None = None
        self._reason = ""
        self._timer: asyncio.TimerHandle | None = None
        self._sid = b""
        self._media_frame = (b"", b"")
        self._unrated = 0
        self._unrated_bytes = 0
        now_s = time.monotonic()
        self._rate = Bucket(settings.max_messages_per_s, BURST_S, now_s)
        self._audio_rate = Bucket(AUDIO_BYTES_PER_S, BURST_S, now_s)

    # --- to the carrier ---

    def send_audio(self, audio: bytes) -> bool:
        """Queue agent audio at the carrier: mu-law 8 kHz."""
        if self._socket is None:
            return False
        before, behind = self._media_frame
        return self._socket.send_text(b"".join((before, binascii.b2a_base64(audio, newline=False), behind)))

    def send_mark(self, name: str) -> bool:
        """Ask for an echo when everything sent so far was played."""
        return self._socket is not None and self._socket.send_text(messages.mark(self.stream_sid, name).encode())

    def send_clear(self) -> bool:
        """Drop what the carrier has not played."""
        return self._socket is not None and self._socket.send_text(messages.clear(self.stream_sid).encode())

    def listen_closely(self, closely: bool) -> None:
        """Take each packet when it comes, not at the next beat."""
        if self._socket is not None:
            self._socket.read_at_once(closely)

    def close(self, code: int, reason: str) -> None:
        """End the leg; Twilio goes on with the call's ``action``."""
        if self._socket is not None:
            self._socket.close(code, reason)

    # --- SocketHandler ---

    def check(self, socket: MediaSocket, path: str, headers: dict[str, str]) -> tuple[HTTPStatus, str] | None:
        """Path and signature, before the socket is even a WebSocket."""
        self._socket = socket
        return self._host.check_upgrade(path, headers)

    def opened(self) -> None:
        """Wait for ``start``, but not long."""
        self._timer = asyncio.get_running_loop().call_later(self._settings.start_timeout_s, self._no_start)

    def text(self, message: bytes) -> None:
        """A message from the carrier."""
        self._unrated += 1
        if self._unrated >= RATES_EVERY and not self._within_rates():
            return
        found = _MEDIA.fullmatch(message)
        try:
            if found is not None:
                sequence, sid, payload, sid_behind = found.groups()
                if self._sid in (sid, sid_behind):
                    self._media(int(sequence), binascii.a2b_base64(payload, strict_mode=True))
                    return
            self._take(messages.parse(message.decode()))
        except UnicodeDecodeError:
            self._broken(1007, "message is not UTF-8")
        except binascii.Error:
            self._broken(1008, "field payload is not base64")
        except ProtocolError as error:
            self._broken(1008, error.message)

    def binary(self) -> None:
        """Media Streams never sends binary messages."""
        self._broken(1003, "message is binary; Media Streams messages are JSON text")

    def closed(self, code: int, reason: str) -> None:
        """The socket is gone."""
        self._disarm()
        if self._call is not None:
            # Without Twilio's ``stop`` only the socket is gone; whether the caller is, is known at the action URL.
            self._call.gone(self._reason or STREAM_LOST)

    # --- inside ---

    def _within_rates(self) -> bool:
        now_s = time.monotonic()
        slow = self._rate.take(self._unrated, now_s)
        real_time = self._audio_rate.take(self._unrated_bytes, now_s)
        self._unrated = self._unrated_bytes = 0
        if not slow:
            self._refuse(1008, "rate", "too many messages")
        elif not real_time:
            self._refuse(1008, "rate", "audio faster than speech")
        return slow and real_time

    def _take(self, message: messages.Inbound) -> None:
        if isinstance(message, Connected):
            return
        if isinstance(message, Start):
            self._start(message)
            return
        if self._call is None:
            raise ProtocolError("the stream must begin with start")
        if message.stream_sid != self.stream_sid:
            raise ProtocolError("message of another stream")
        if isinstance(message, Media):
            self._media(message.sequence, message.payload)
            return
        self.sequence.observe(message.sequence)
        if isinstance(message, Mark):
            self._call.mark(message.name)
        elif isinstance(message, Dtmf):
            self._call.dtmf(message.digit)
        elif isinstance(message, Stop):
            self._reason = CALLER_HUNG_UP
            self._call.gone(CALLER_HUNG_UP)
            self.close(1000, "stream stopped")

    def _media(self, sequence: int, payload: bytes) -> None:
        assert self._call is not None
        self.frames += 1
        self._unrated_bytes += len(payload)
        if not self.sequence.observe(sequence):
            # Audio that comes twice or after its successor would only garble the words.
            self.errors["out_of_order"] += 1
        elif payload:
            self._call.audio(payload)

    def _start(self, start: Start) -> None:
        if self._call is not None:
            raise ProtocolError("a second start in one stream")
        try:
            self._call = self._host.begin(self, start)
        except AuthError as error:
            self._refuse(1008, "auth", error.message)
        except VoiceAgentError as error:
            self._refuse(1008, error.code, error.message)
        else:
            self._disarm()
            self.stream_sid = start.stream_sid
            self._sid = start.stream_sid.encode()
            self._media_frame = messages.media_frame(start.stream_sid)
            self.sequence.observe(start.sequence)

    def _no_start(self) -> None:
        self._refuse(1008, "no_start", "no start in time")

    def _broken(self, code: int, reason: str) -> None:
        if self._call is None:
            self._refuse(code, "protocol", reason)
            return
        self.errors["malformed"] += 1
        if self.errors["malformed"] > TOLERATED_ERRORS:
            self._refuse(code, "protocol", f"too many broken messages, the last: {reason}")

    def _refuse(self, code: int, counted_as: str, reason: str) -> None:
        """Close the socket on an error of the peer."""
        self._disarm()
        self._host.count_refused(counted_as)
        self._reason = FAILED
        self.close(code, reason)
        if self._call is not None:
            self._call.gone(FAILED)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
