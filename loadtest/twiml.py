"""TwiML as the emulated carrier reads it: the verbs the platform emits, and nothing it could get away with."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from voice_agent.errors import ProtocolError

_LONGEST_PARAMETER = 500
_LARGEST_DOCUMENT = 65536


@dataclass(frozen=True, slots=True)
class Stream:
    """``<Stream>`` inside ``<Connect>``: a bidirectional media stream."""

    url: str
    status_callback: str = ""
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Connect:
    """``<Connect>``: run the stream; afterwards ask ``action``, or go on with the next verb where there is none."""

    stream: Stream
    action: str = ""


@dataclass(frozen=True, slots=True)
class Say:
    """``<Say>``: the carrier's own voice says a text."""

    text: str


@dataclass(frozen=True, slots=True)
class Pause:
    """``<Pause>``: wait, in seconds."""

    length_s: float


@dataclass(frozen=True, slots=True)
class Redirect:
    """``<Redirect>``: go on with the document at ``url``."""

    url: str


@dataclass(frozen=True, slots=True)
class Dial:
    """``<Dial>``: hand the call to somebody else. ``target`` is the text of it or of what is inside."""

    target: str


@dataclass(frozen=True, slots=True)
class Enqueue:
    """``<Enqueue>``: put the caller into a queue. ``queue`` is its name."""

    queue: str


@dataclass(frozen=True, slots=True)
class Hangup:
    """``<Hangup>``."""


@dataclass(frozen=True, slots=True)
class Reject:
    """``<Reject>``: do not answer. ``reason`` is rejected or busy."""

    reason: str


Verb = Connect | Say | Pause | Redirect | Dial | Enqueue | Hangup | Reject


def parse(document: str) -> tuple[Verb, ...]:
    """The verbs of a document, in order.

    Raises:
        ProtocolError: not XML, no ``<Response>``, a verb the emulator does not know, or one that Twilio would refuse.
    """
    if len(document) > _LARGEST_DOCUMENT or "<!DOCTYPE" in document:
        raise ProtocolError("TwiML is too large or has a document type (Twilio error 12100)")
    try:
        root = ElementTree.fromstring(document)
    except ElementTree.ParseError as error:
        raise ProtocolError(f"TwiML is not XML (Twilio error 12100): {error}") from error
    if root.tag != "Response":
        raise ProtocolError(f"TwiML root must be Response, found {root.tag}")
    return tuple(_verb(element) for element in root)


def _verb(element: ElementTree.Element) -> Verb:
    reader = _READERS.get(element.tag)
    if reader is None:
        raise ProtocolError(f"TwiML verb {element.tag} is not known here; known: {', '.join(_READERS)}")
    return reader(element)


def _text(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def _connect(element: ElementTree.Element) -> Connect:
    streams = list(element)
    if len(streams) != 1 or streams[0].tag != "Stream":
        raise ProtocolError("TwiML Connect must hold exactly one Stream")
    return Connect(_stream(streams[0]), element.get("action", ""))


def _stream(element: ElementTree.Element) -> Stream:
    url = element.get("url", "")
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.netloc:
        raise ProtocolError(f"TwiML Stream url must be a WebSocket URL, found {url!r}")
    if parts.query:
        raise ProtocolError("TwiML Stream url must not have a query string (Twilio error 31920)")
    parameters = {}
    for child in element:
        name, value = child.get("name", ""), child.get("value", "")
        if child.tag != "Parameter" or not name:
            raise ProtocolError("TwiML Stream may only hold Parameter elements with a name")
        if len(name) + len(value) >= _LONGEST_PARAMETER:
            raise ProtocolError(f"TwiML Parameter {name} is longer than {_LONGEST_PARAMETER} characters")
        parameters[name] = value
    return Stream(url, element.get("statusCallback", ""), parameters)


def _pause(element: ElementTree.Element) -> Pause:
    try:
        return Pause(max(0.0, float(element.get("length", "1"))))
    except ValueError as error:
        raise ProtocolError("TwiML Pause length must be a number of seconds") from error


def _redirect(element: ElementTree.Element) -> Redirect:
    if not _text(element):
        raise ProtocolError("TwiML Redirect must hold a URL")
    return Redirect(_text(element))


def _dial(element: ElementTree.Element) -> Dial:
    if not _text(element):
        raise ProtocolError("TwiML Dial must hold somebody to be dialled")
    return Dial(_text(element))


def _enqueue(element: ElementTree.Element) -> Enqueue:
    if not _text(element):
        raise ProtocolError("TwiML Enqueue must hold the name of a queue")
    return Enqueue(_text(element))


_READERS: dict[str, Callable[[ElementTree.Element], Verb]] = {
    "Connect": _connect,
    "Say": lambda element: Say(_text(element)),
    "Pause": _pause,
    "Redirect": _redirect,
    "Dial": _dial,
    "Enqueue": _enqueue,
    "Hangup": lambda element: Hangup(),
    "Reject": lambda element: Reject(element.get("reason", "rejected")),
}
