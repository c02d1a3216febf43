"""The port of webhooks and of the API, which is there while Serve's HTTP proxy is not.

The process of ``up`` binds it and listens, and gives each proxy the same socket to accept from. When the proxy dies,
connections wait in the kernel for the next one: a carrier's webhook is answered late where it would be refused.

Serve has no setting for a socket, but it asks an import path (``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``) for the
middlewares of each proxy. Ours changes no request: it is handed the proxy's whole app, and serves it at the door.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from voice_agent.errors import ConfigError

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

DOOR: Final = "VOICE_AGENT_FRONT_DOOR"
"""Environment variable: the Unix socket at which a proxy is given the door."""

CALLBACK: Final = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "cluster.front_door.middlewares"}

_BACKLOG: Final = 2048
_TAKE_S: Final = 10.0
_ASK_AGAIN_S: Final = 0.05

_log = logging.getLogger(__name__)


class FrontDoor:
    """The listening socket, and the thread that gives it to whoever may enter ``folder``, from here to ``close``.

    Raises:
        ConfigError: the port is taken.
    """

    def __init__(self, host: str, port: int, folder: Path) -> None:
        try:
            self._listener = socket.create_server((host, port), backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError(f"port {port} (server.webhook_port) cannot be had: {error}") from error
        path = folder / "door"
        self._giver = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._giver.bind(str(path))
        self._giver.listen()
        os.environ |= CALLBACK | {DOOR: str(path)}
        threading.Thread(target=self._give, name="front-door", daemon=True).start()

    def close(self) -> None:
        """Hold the door no more; it is gone with the last proxy that has it."""
        self._listener.close()
        with contextlib.suppress(OSError):
            self._giver.shutdown(socket.SHUT_RDWR)
        self._giver.close()

    def _give(self) -> None:
        while True:
            try:
                link, _ = self._giver.accept()
            except OSError:  # closed
                return
            with link, contextlib.suppress(OSError):  # who asked has ended
                socket.send_fds(link, [b"."], [self._listener.fileno()])


def take(path: str) -> socket.socket:
    """The listening socket from the process that holds the door.

    Raises:
        OSError: nobody holds it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_TAKE_S)
        link.connect(path)
        _, given, _, _ = socket.recv_fds(link, 1, 1)
    if not given:
        raise ConnectionError("the door is closed")
    os.set_inheritable(given[0], False)
    return socket.socket(fileno=given[0])


def middlewares() -> list[Middleware]:
    """Called by Serve in each proxy that starts, which is none without the door."""
    from starlette.middleware import Middleware

    return [Middleware(AtTheDoor, take(os.environ[DOOR]))]


class AtTheDoor:
    """An app, unchanged, and served at the door as well: from when Serve has told its proxy of the routes."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        self._app = app
        self._serving = asyncio.get_running_loop().create_task(self._serve(listener))
        self._serving.add_done_callback(_end)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: what comes to Serve's own port."""
        await self._app(scope, receive, send)

    async def _serve(self, listener: socket.socket) -> None:
        import uvicorn
        from ray.serve.config import HTTPOptions

        # Whoever has waited at the door would be told that there is no such page.
        while await _status(self._app, "/-/healthz") != 200:  # noqa: ASYNC110 - Serve has no event for it
            await asyncio.sleep(_ASK_AGAIN_S)
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            access_log=False,
            log_level=None,
            log_config=None,
            timeout_keep_alive=HTTPOptions().keep_alive_timeout_s,
        )
        await uvicorn.Server(config).serve(sockets=[listener])


def _end(serving: asyncio.Task[None]) -> None:
    """Serve takes a proxy for well that nobody can reach, so it must not live: another one is started then."""
    if not serving.cancelled():
        _log.critical("the HTTP proxy cannot serve its door, so it ends", exc_info=serving.exception())
        os._exit(1)


async def _status(app: ASGIApp, path: str) -> int:
    """HTTP status of what an app answers to a GET."""
    statuses: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": []}
    await app(scope, receive, send)
    return statuses[0]
