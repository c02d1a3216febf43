"""A tiny stack to call: webhooks by hand-made HTTP, the media socket by websockets. One behaviour per test."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl

import numpy as np
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from loadtest.carrier import CallTarget
from voice_agent.audio.g711 import mulaw_encode
from voice_agent.twilio import messages

AUTH_TOKEN = "test-token"


def tone(ms, hz=440):
    samples = np.arange(ms * 8)
    return mulaw_encode((9000 * np.sin(2 * np.pi * hz * samples / 8000)).astype(np.int16))


class FakeStack:
    def __init__(self, agent: Callable[["Peer"], Awaitable[None]] | None = None, twiml=None):
        self.agent = agent
        self.twiml = twiml or {}
        self.requests = []
        self.peers = []
        self.headers = []
        self.connected = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self):
        http = await asyncio.start_server(self._http, "127.0.0.1", 0)
        await self._stack.enter_async_context(http)
        sockets = await self._stack.enter_async_context(serve(self._socket, "127.0.0.1", 0, compression=None))
        self.url = f"http://127.0.0.1:{http.sockets[0].getsockname()[1]}"
        self.media_url = f"ws://127.0.0.1:{sockets.sockets[0].getsockname()[1]}/media"
        return self

    async def __aexit__(self, *details):
        await self._stack.aclose()

    @property
    def target(self):
        return CallTarget(self.url, AUTH_TOKEN)

    def connect(self, action="/twilio/stream-ended", url=None):
        attribute = f' action="{action}"' if action else ""
        return (
            f"<Response><Connect{attribute}>"
            f'<Stream url="{url or self.media_url}" statusCallback="/twilio/stream-status">'
            '<Parameter name="token" value="t0"/></Stream></Connect></Response>'
        )

    def posts(self, path):
        return [form for found, form, _ in self.requests if found == path]

    async def _http(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                path = head.split(" ")[1]
                form = dict(parse_qsl(body.decode(), keep_blank_values=True))
                self.requests.append((path, form, head))
                answers = self.twiml.get(path, "<Response/>")
                answer = answers(self) if callable(answers) else answers
                status, text = answer if isinstance(answer, tuple) else (200, answer)
                data = text.encode()
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
                await writer.drain()
        writer.close()

    async def _socket(self, socket):
        peer = Peer(socket)
        self.peers.append(peer)
        self.headers.append({name.lower(): value for name, value in socket.request.headers.raw_items()})
        self.connected.set()
        await peer.run(self.agent)


class GoneError(Exception):
    """The carrier has closed the socket."""


class Peer:
    """The server's end of one stream."""

    def __init__(self, socket):
        self.socket = socket
        self.received = []
        self.start = None
        self.gone = False
        self._new = asyncio.Event()

    async def run(self, agent):
        listening = asyncio.create_task(self._listen())
        try:
            with contextlib.suppress(GoneError):
                await self.wait_for(messages.Start)
                await agent(self)
        finally:
            listening.cancel()

    async def _listen(self):
        with contextlib.suppress(ConnectionClosed):
            async for text in self.socket:
                self.received.append(messages.parse(text))
                if isinstance(self.received[-1], messages.Start):
                    self.start = self.received[-1]
                self._new.set()
        self.gone = True
        self._new.set()

    async def wait_for(self, kind, count=1):
        while sum(isinstance(message, kind) for message in self.received) < count:
            if self.gone:
                raise GoneError
            self._new.clear()
            await self._new.wait()
        return [message for message in self.received if isinstance(message, kind)]

    async def play(self, audio, piece_ms=100):
        for at in range(0, len(audio), piece_ms * 8):
            await self.socket.send(messages.media(self.start.stream_sid, audio[at : at + piece_ms * 8]))

    async def mark(self, name):
        await self.socket.send(messages.mark(self.start.stream_sid, name))

    async def clear(self):
        await self.socket.send(messages.clear(self.start.stream_sid))

    async def raw(self, message):
        await self.socket.send(message if isinstance(message, str) else json.dumps(message))

    def marks(self):
        return [message.name for message in self.received if isinstance(message, messages.Mark)]
