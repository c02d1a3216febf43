"""Twilio Media Streams messages, both ways, for both ends of the socket.

``parse`` and ``media``, ``mark``, ``clear`` are the server's side; ``parse_outbound`` and the ``build_*`` functions are
the carrier's side, used by the emulator. Parsing is strict where Twilio is: numbers arrive as strings of digits (but
for ``mediaFormat``), the only audio format is mu-law 8 kHz mono. It does not care how long a media payload is, for no
contract fixes that. Fields that are not listed are ignored: Twilio adds new ones without notice.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from voice_agent.errors import ProtocolError

DTMF_DIGITS = "0123456789*#ABCD"
_LONGEST_NUMBER = 18
_T = TypeVar("_T")
_Parser = Callable[[dict[str, Any]], _T]


@dataclass(frozen=True, slots=True)
class Connected:
    """Twilio ``connected``: the socket is open."""

    protocol: str = "Call"
    version: str = "1.0.0"


@dataclass(frozen=True, slots=True)
class Start:
    """Twilio ``start``: what this stream is. ``parameters`` are the ``<Parameter>`` elements of the TwiML."""

    sequence: int
    stream_sid: str
    call_sid: str
    account_sid: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Media:
    """Twilio ``media``: caller audio, mu-law mono 8 kHz, any length. ``timestamp_ms`` counts from stream start."""

    sequence: int
    stream_sid: str
    chunk: int
    timestamp_ms: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Dtmf:
    """Twilio ``dtmf``: a key was pressed."""

    sequence: int
    stream_sid: str
    digit: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Twilio ``mark``: everything queued before the mark was played or cleared."""

    sequence: int
    stream_sid: str
    name: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Twilio ``stop``: the stream is over."""

    sequence: int
    stream_sid: str
    call_sid: str
    account_sid: str


Inbound = Connected | Start | Media | Dtmf | Mark | Stop


@dataclass(frozen=True, slots=True)
class OutMedia:
    """Agent audio to be queued for playing: mu-law mono 8 kHz, any length."""

    stream_sid: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class OutMark:
    """A mark to be echoed when everything queued before it was played."""

    stream_sid: str
    name: str


@dataclass(frozen=True, slots=True)
class OutClear:
    """Empty the queue and echo all its marks."""

    stream_sid: str


Outbound = OutMedia | OutMark | OutClear


# --- the server's side ----------------------------------------------------------------------------------------


def parse(text: str | bytes) -> Inbound:
    """Read a message from Twilio.

    Raises:
        ProtocolError: not JSON, unknown event, a field missing, of the wrong type or with a wrong value; the text says
            which.
    """
    message = _load(text)
    return _lookup(_PARSERS, message)(message)


def media(stream_sid: str, payload: bytes) -> str:
    """Audio to Twilio: raw mu-law 8 kHz, no WAV header, any length."""
    return json.dumps({"event": "media", "streamSid": stream_sid, "media": {"payload": _b64(payload)}})


def media_frame(stream_sid: str) -> tuple[bytes, bytes]:
    """What ``media`` writes before and behind the base64 of the audio, for a sender of many pieces."""
    before, _, behind = media(stream_sid, b"").rpartition('""')
    return f'{before}"'.encode(), f'"{behind}'.encode()


def mark(stream_sid: str, name: str) -> str:
    """A mark to Twilio, which echoes it when everything before it was played, or at ``clear``."""
    return json.dumps({"event": "mark", "streamSid": stream_sid, "mark": {"name": name}})


def clear(stream_sid: str) -> str:
    """Tell Twilio to drop all audio it has queued."""
    return json.dumps({"event": "clear", "streamSid": stream_sid})


# --- the carrier's side ---------------------------------------------------------------------------------------


def build_connected() -> str:
    """Twilio ``connected``."""
    return json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"})


def build_start(
    sequence: int, stream_sid: str, *, call_sid: str, account_sid: str, parameters: Mapping[str, str]
) -> str:
    """Twilio ``start``."""
    start = {
        "streamSid": stream_sid,
        "accountSid": account_sid,
        "callSid": call_sid,
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": dict(parameters),
    }
    return _build("start", sequence, stream_sid, start)


def build_media(sequence: int, stream_sid: str, *, chunk: int, timestamp_ms: int, payload: bytes) -> str:
    """Twilio ``media`` with caller audio."""
    body = {"track": "inbound", "chunk": str(chunk), "timestamp": str(timestamp_ms), "payload": _b64(payload)}
    return _build("media", sequence, stream_sid, body)


def build_dtmf(sequence: int, stream_sid: str, digit: str) -> str:
    """Twilio ``dtmf``."""
    return _build("dtmf", sequence, stream_sid, {"track": "inbound_track", "digit": digit})


def build_mark(sequence: int, stream_sid: str, name: str) -> str:
    """Twilio ``mark``, the echo."""
    return _build("mark", sequence, stream_sid, {"name": name})


def build_stop(sequence: int, stream_sid: str, *, call_sid: str, account_sid: str) -> str:
    """Twilio ``stop``."""
    return _build("stop", sequence, stream_sid, {"accountSid": account_sid, "callSid": call_sid})


def parse_outbound(text: str | bytes) -> Outbound:
    """Read a message to Twilio, as the carrier does.

    Raises:
        ProtocolError: what Twilio answers with error 31924.
    """
    message = _load(text)
    return _lookup(_OUTBOUND_PARSERS, message)(message)


# --- order ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class SequenceTracker:
    """Counts what went wrong with the order of messages. Sequence numbers rise by one from ``start``'s.

    Attributes:
        missing: numbers skipped and not seen since.
        late: numbers that came after a higher one.
        repeated: numbers seen before (or skipped so long ago that they are forgotten).
    """

    missing: int = 0
    late: int = 0
    repeated: int = 0
    _next: int | None = None
    _skipped: dict[int, None] = field(default_factory=dict)

    REMEMBERED: ClassVar[int] = 1000

    def observe(self, sequence: int) -> bool:
        """Take the next message's number. True when the message is in order (a gap before it counts as in order)."""
        if sequence == self._next:
            self._next = sequence + 1
            return True
        expected = sequence if self._next is None else self._next
        if sequence >= expected:
            self.missing += sequence - expected
            newest_skipped = range(max(expected, sequence - self.REMEMBERED), sequence)
            self._skipped.update(dict.fromkeys(newest_skipped))
            while len(self._skipped) > self.REMEMBERED:
                del self._skipped[next(iter(self._skipped))]
            self._next = sequence + 1
            return True
        if sequence in self._skipped:
            del self._skipped[sequence]
            self.missing -= 1
            self.late += 1
        else:
            self.repeated += 1
        return False


# --- pieces ---------------------------------------------------------------------------------------------------


def _b64(payload: bytes) -> str:
    return base64.b64encode(payload).decode("ascii")


def _build(event: str, sequence: int, stream_sid: str, body: Mapping[str, Any]) -> str:
    return json.dumps({"event": event, "sequenceNumber": str(sequence), "streamSid": stream_sid, event: body})


def _load(text: str | bytes) -> dict[str, Any]:
    if isinstance(text, bytes):
        raise ProtocolError("message is binary; Media Streams messages are JSON text")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("message is not JSON") from error
    if not isinstance(message, dict):
        raise ProtocolError("message is not a JSON object")
    return message


def _lookup(table: Mapping[str, _Parser[_T]], message: dict[str, Any]) -> _Parser[_T]:
    event = _string(message, "event")
    parser = table.get(event)
    if parser is None:
        raise ProtocolError(f"unknown event {event[:40]!r}; known: {', '.join(table)}")
    return parser


def _object(message: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = _field(message, key)
    if not isinstance(value, dict):
        raise ProtocolError(f"field {key} must be an object")
    return value


def _string(message: Mapping[str, Any], key: str) -> str:
    value = _field(message, key)
    if not isinstance(value, str):
        raise ProtocolError(f"field {key} must be a string")
    return value


def _named(message: Mapping[str, Any], key: str) -> str:
    value = _string(message, key)
    if not value:
        raise ProtocolError(f"field {key} must not be empty")
    return value


def _number(message: Mapping[str, Any], key: str) -> int:
    value = _string(message, key)
    if not (value.isascii() and value.isdigit() and len(value) <= _LONGEST_NUMBER):
        raise ProtocolError(f"field {key} must be a string of digits")
    return int(value)


def _field(message: Mapping[str, Any], key: str) -> Any:
    if key not in message:
        raise ProtocolError(f"field {key} is missing")
    return message[key]


def _payload(body: Mapping[str, Any]) -> bytes:
    try:
        return base64.b64decode(_string(body, "payload"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError("field payload is not base64") from error


def _parse_connected(message: dict[str, Any]) -> Connected:
    return Connected(_string(message, "protocol"), _string(message, "version"))


def _parse_start(message: dict[str, Any]) -> Start:
    body = _object(message, "start")
    _check_format(_object(body, "mediaFormat"))
    stream_sid = _named(message, "streamSid")
    if _string(body, "streamSid") != stream_sid:
        raise ProtocolError("field start.streamSid differs from streamSid")
    parameters = _object(body, "customParameters") if "customParameters" in body else {}
    if not all(isinstance(value, str) for value in parameters.values()):
        raise ProtocolError("field customParameters must hold strings")
    return Start(
        sequence=_number(message, "sequenceNumber"),
        stream_sid=stream_sid,
        call_sid=_named(body, "callSid"),
        account_sid=_named(body, "accountSid"),
        parameters=parameters,
    )


def _check_format(media_format: Mapping[str, Any]) -> None:
    found = tuple(_field(media_format, key) for key in ("encoding", "sampleRate", "channels"))
    if found != ("audio/x-mulaw", 8000, 1):
        raise ProtocolError("field mediaFormat must be audio/x-mulaw, 8000, 1")


def _parse_media(message: dict[str, Any]) -> Media:
    body = _object(message, "media")
    if _string(body, "track") != "inbound":
        raise ProtocolError("field track must be inbound on a bidirectional stream")
    return Media(
        sequence=_number(message, "sequenceNumber"),
        stream_sid=_named(message, "streamSid"),
        chunk=_number(body, "chunk"),
        timestamp_ms=_number(body, "timestamp"),
        payload=_payload(body),
    )


def _parse_dtmf(message: dict[str, Any]) -> Dtmf:
    digit = _string(_object(message, "dtmf"), "digit")
    if len(digit) != 1 or digit not in DTMF_DIGITS:
        raise ProtocolError(f"field digit must be one of {DTMF_DIGITS}")
    return Dtmf(_number(message, "sequenceNumber"), _named(message, "streamSid"), digit)


def _parse_mark(message: dict[str, Any]) -> Mark:
    name = _string(_object(message, "mark"), "name")
    return Mark(_number(message, "sequenceNumber"), _named(message, "streamSid"), name)


def _parse_stop(message: dict[str, Any]) -> Stop:
    body = _object(message, "stop")
    return Stop(
        _number(message, "sequenceNumber"),
        _named(message, "streamSid"),
        call_sid=_named(body, "callSid"),
        account_sid=_named(body, "accountSid"),
    )


_PARSERS: dict[str, _Parser[Inbound]] = {
    "connected": _parse_connected,
    "start": _parse_start,
    "media": _parse_media,
    "dtmf": _parse_dtmf,
    "mark": _parse_mark,
    "stop": _parse_stop,
}


def _parse_out_media(message: dict[str, Any]) -> OutMedia:
    return OutMedia(_named(message, "streamSid"), _payload(_object(message, "media")))


def _parse_out_mark(message: dict[str, Any]) -> OutMark:
    return OutMark(_named(message, "streamSid"), _named(_object(message, "mark"), "name"))


def _parse_out_clear(message: dict[str, Any]) -> OutClear:
    return OutClear(_named(message, "streamSid"))


_OUTBOUND_PARSERS: dict[str, _Parser[Outbound]] = {
    "media": _parse_out_media,
    "mark": _parse_out_mark,
    "clear": _parse_out_clear,
}
