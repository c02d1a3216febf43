"""The carrier's HTTP: form posts over connections that are kept, as a carrier keeps them.

A call is five posts. A general client takes some milliseconds for each, more with every connection it keeps, and they
would be missing on the clock that all calls of a process share. This one takes a fifth of a millisecond.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import SplitResult, urlencode, urlsplit

_IDLE = 20
"""Connections kept to one server; more are closed after their answer."""
_LARGEST_BODY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of a response."""

    status: int
    text: str

    @property
    def is_success(self) -> bool:
        """Status 2xx."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    fields: Mapping[str, str]

    @property
    def keeps(self) -> bool:
        """The server keeps the connection, and the end of the body can be told."""
        known = "content-length" in self.fields or self.chunked or self.empty
        return known and self.fields.get("connection", "").lower() != "close"

    @property
    def chunked(self) -> bool:
        return self.fields.get("transfer-encoding", "").lower() == "chunked"

    @property
    def empty(self) -> bool:
        return self.status in (204, 304)


@dataclass(frozen=True, slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def usable(self) -> bool:
        return not self.reader.at_eof() and not self.writer.transport.is_closing()


class WebhookClient:
    """Posts forms. One owner; use it as a context."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str], list[_Connection]] = {}
        self._secure: ssl.SSLContext | None = None

    async def __aenter__(self) -> WebhookClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.writer.transport.abort()
        self._idle.clear()

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str], timeout_s: float) -> Answer:
        """Post a form. It is sent once: a connection that breaks is an error, kept or new.

        Raises:
            OSError: the server cannot be reached, does not answer in time (``TimeoutError``) or not in HTTP/1.1.
        """
        parts = urlsplit(url)
        async with asyncio.timeout(timeout_s):
            connection = await self._connection(parts)
            try:
                connection.writer.write(_request(parts, form, headers))
                head, text = await _answer(connection.reader)
            except (EOFError, ValueError, asyncio.LimitOverrunError) as error:
                connection.writer.transport.abort()
                raise ConnectionError(f"no answer in HTTP/1.1: {error}") from error
            except BaseException:
                connection.writer.transport.abort()
                raise
        idle = self._idle.setdefault((parts.scheme, parts.netloc), [])
        if head.keeps and len(idle) < _IDLE:
            idle.append(connection)
        else:
            connection.writer.transport.abort()
        return Answer(head.status, text)

    async def _connection(self, parts: SplitResult) -> _Connection:
        idle = self._idle.get((parts.scheme, parts.netloc), [])
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
            connection.writer.transport.abort()
        secure = parts.scheme == "https"
        if secure and self._secure is None:
            self._secure = ssl.create_default_context()
        port = parts.port or (443 if secure else 80)
        return _Connection(*await asyncio.open_connection(parts.hostname, port, ssl=self._secure if secure else None))


def _request(parts: SplitResult, form: Mapping[str, str], headers: Mapping[str, str]) -> bytes:
    body = urlencode(form).encode()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = {
        "Host": parts.netloc,
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": str(len(body)),
        **headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def _answer(reader: asyncio.StreamReader) -> tuple[_Head, str]:
    head = _head(await reader.readuntil(b"\r\n\r\n"))
    while 100 <= head.status < 200:
        head = _head(await reader.readuntil(b"\r\n\r\n"))
    return head, (await _body(reader, head)).decode(errors="replace")


def _head(content: bytes) -> _Head:
    """Status and fields, names in lower case (RFC 9112 sections 4 and 5)."""
    first, *lines = content.decode("latin-1").strip().split("\r\n")
    version, status, *_ = first.split(" ", 2)
    if version != "HTTP/1.1":
        raise ValueError(f"the answer begins with {first[:40]!r}")
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    return _Head(int(status), fields)


async def _body(reader: asyncio.StreamReader, head: _Head) -> bytes:
    """RFC 9112 section 6.3."""
    if head.empty:
        return b""
    if head.chunked:
        return await _chunks(reader)
    if "content-length" in head.fields:
        return await reader.readexactly(_size(head.fields["content-length"], 10))
    return await reader.read()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """RFC 9112 section 7.1; trailers are read and dropped."""
    body = b""
    while size := _size((await reader.readuntil(b"\r\n")).partition(b";")[0].decode("latin-1"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
        if len(body) > _LARGEST_BODY_BYTES:
            raise ValueError("the answer is too long")
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return body


def _size(text: str, base: int) -> int:
    size = int(text.strip(), base)
    if not 0 <= size <= _LARGEST_BODY_BYTES:
        raise ValueError("the answer is too long")
    return size
