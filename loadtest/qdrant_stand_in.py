"""``python -m loadtest.qdrant_stand_in FOLDER``: a process that can be killed where a Qdrant server would stand.

No registry of packages holds Qdrant's server. This answers, over the same REST interface, the requests that
``kb.store`` makes, by the engine that Qdrant's Python client embeds, and keeps its points in ``FOLDER``. It is there to
see what becomes of calls when a server dies; nothing is measured on it.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import httpx
import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from qdrant_client import QdrantClient, models

from voice_agent.errors import VoiceAgentError

BACK_AFTER_S: Final = 6.0
"""From the death of the process until another one takes its place."""
_READY_WITHIN_S: Final = 30.0
_POLL_S: Final = 0.05


class StandInFailedError(VoiceAgentError):
    """The stand-in did not start."""

    code = "bench_failed"


def build_app(client: QdrantClient) -> FastAPI:
    """The part of Qdrant's REST interface that ``kb.store`` uses."""
    app, lock = FastAPI(), threading.Lock()

    @app.middleware("http")
    async def told(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            return await answer(request)
        except ValueError as error:
            # What the embedded engine refuses, above all a collection that is not there.
            return JSONResponse({"status": {"error": str(error)}, "time": 0.0}, 404)

    app.include_router(_collections(client, lock))
    app.include_router(_points(client, lock), prefix="/collections/{name}/points")
    return app


def _done(result: Any) -> dict[str, Any]:
    return {"result": result, "status": "ok", "time": 0.0}


def _collections(client: QdrantClient, lock: threading.Lock) -> APIRouter:
    routes, one = APIRouter(), "/collections/{name}"

    @routes.get("/readyz")
    def readyz() -> str:
        return "all shards are ready"

    @routes.get(f"{one}/exists")
    def exists(name: str) -> dict[str, Any]:
        return _done({"exists": client.collection_exists(name)})

    @routes.get(one)
    def describe(name: str) -> dict[str, Any]:
        return _done(client.get_collection(name))

    @routes.put(one)
    def create(name: str, body: models.CreateCollection) -> dict[str, Any]:
        with lock:
            return _done(client.create_collection(name, body.vectors, body.sparse_vectors))

    @routes.delete(one)
    def delete(name: str) -> dict[str, Any]:
        with lock:
            return _done(client.delete_collection(name))

    @routes.put(f"{one}/index")
    def index(name: str) -> dict[str, Any]:
        return _done({"operation_id": 0, "status": "completed"})

    return routes


def _points(client: QdrantClient, lock: threading.Lock) -> APIRouter:
    routes = APIRouter()

    @routes.put("")
    def upsert(name: str, body: models.PointsList) -> dict[str, Any]:
        with lock:
            return _done(client.upsert(name, body.points))

    @routes.post("/delete")
    def delete(name: str, body: models.FilterSelector) -> dict[str, Any]:
        with lock:
            return _done(client.delete(name, body))

    @routes.post("")
    def retrieve(name: str, body: models.PointRequest) -> dict[str, Any]:
        with lock:
            found = client.retrieve(name, body.ids, body.with_payload or False, with_vectors=body.with_vector or False)
            return _done(found)

    @routes.post("/count")
    def count(name: str, body: models.CountRequest) -> dict[str, Any]:
        with lock:
            return _done(client.count(name, body.filter))

    @routes.post("/scroll")
    def scroll(name: str, body: models.ScrollRequest) -> dict[str, Any]:
        with lock:
            points, offset = client.scroll(
                name,
                limit=body.limit or 10,
                offset=body.offset,
                with_payload=body.with_payload or False,
                with_vectors=body.with_vector or False,
            )
        return _done({"points": points, "next_page_offset": offset})

    @routes.post("/query")
    def query(name: str, body: models.QueryRequest) -> dict[str, Any]:
        with lock:
            return _done(client.query_batch_points(name, [body])[0])

    @routes.post("/query/batch")
    def query_batch(name: str, body: models.QueryRequestBatch) -> dict[str, Any]:
        with lock:
            return _done(client.query_batch_points(name, body.searches))

    return routes


class QdrantStandIn:
    """The process, and who puts another one in its place when it dies, on the same port and folder."""

    def __init__(self, folder: Path, back_after_s: float = BACK_AFTER_S) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._folder = folder
        self._back_after_s = back_after_s
        self._over = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep, name="qdrant", daemon=True)

    @property
    def pid(self) -> int | None:
        """Of the living process."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    def __enter__(self) -> QdrantStandIn:
        """Start it, and wait until it answers.

        Raises:
            StandInFailedError: it does not.
        """
        self._start()
        give_up_at_s = time.monotonic() + _READY_WITHIN_S
        with httpx.Client(trust_env=False) as http:
            while not self._answers(http):
                if self.pid is None or time.monotonic() > give_up_at_s:
                    self._end()
                    raise StandInFailedError("Qdrant's stand-in did not start; its standard error says why")
                time.sleep(_POLL_S)
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._keeper.join()
        self._end()

    def _start(self) -> None:
        self._end()
        command = (sys.executable, "-m", "loadtest.qdrant_stand_in", str(self._folder), "--port", str(self._port))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def _keep(self) -> None:
        while not self._over.wait(_POLL_S):
            if self.pid is None and not self._over.wait(self._back_after_s):
                self._start()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _answers(self, http: httpx.Client) -> bool:
        try:
            return http.get(f"{self.url}/readyz").is_success
        except httpx.HTTPError:
            return False


def main() -> None:
    """Command line. Ends with its standard input."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.qdrant_stand_in", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    client = QdrantClient(path=str(arguments.folder), force_disable_check_same_thread=True)
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    uvicorn.run(build_app(client), host="127.0.0.1", port=arguments.port, log_level="warning")


def _end_with_standard_input() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
