"""Qdrant's stand-in in this process, to be stopped and started again on the same port with what it held."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import uvicorn
from qdrant_client import QdrantClient

from loadtest.qdrant_stand_in import build_app


class LocalServer:
    """Searches hang while ``free`` is not set, and all else is well; ``searches`` counts them."""

    def __init__(self) -> None:
        self.free, self.searches = threading.Event(), 0
        self.free.set()
        self._app = build_app(QdrantClient(":memory:"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._server: uvicorn.Server | None = None

    def start(self) -> None:
        config = uvicorn.Config(self._asgi, port=self._port, log_level="warning", interface="asgi3")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)

    async def _asgi(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if "/points/query" in scope.get("path", ""):
            self.searches += 1
            await asyncio.to_thread(self.free.wait)
        await self._app(scope, receive, send)

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join()
            self._server = None
