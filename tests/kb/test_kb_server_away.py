"""A Qdrant server that is away, dies, or hangs: told at once, in words, and nobody waits for somebody else's request.

A stand-in answers what opening a store asks, and then does what the test tells it: real sockets, the real client.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

import kb.store
from kb.store import VectorStore
from voice_agent.errors import StorageError

COLLECTION = {
    "status": "green",
    "optimizer_status": "ok",
    "segments_count": 1,
    "config": {
        "params": {"vectors": {"dense": {"size": 64, "distance": "Cosine"}}},
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
        "optimizer_config": {
            "deleted_threshold": 0.2,
            "vacuum_min_vector_number": 1000,
            "default_segment_number": 0,
            "flush_interval_sec": 5,
        },
    },
    "payload_schema": {},
}


class Server(ThreadingHTTPServer):
    """``mode``: ok, hang, or refuse. ``searches`` counts queries."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode, self.searches, self.over = "ok", 0, threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._answer({"exists": True} if self.path.endswith("/exists") else COLLECTION)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.searches += 1
        if self.server.mode == "hang":
            self.server.over.wait(20)
        elif self.server.mode == "refuse":
            self._answer(None, 503)
        else:
            self._answer([{"points": []}])

    def _answer(self, result: Any, status: int = 200) -> None:
        body = json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def search(store: VectorStore) -> None:
    assert store.search(np.ones(64, dtype=np.float32), {}, limit=3) == []


def test_a_server_that_is_away_at_the_start_is_named_with_its_setting() -> None:
    with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:1 failed.*check kb\.qdrant_url"):
        VectorStore(url="http://127.0.0.1:1", dimension=64)


@pytest.mark.parametrize("how", ["dies", "refuses"])
def test_a_server_that_fails_under_a_search_is_told_and_used_again_when_it_is_back(server: Server, how: str) -> None:
    store = VectorStore(url=server.url, dimension=64)
    search(store)
    if how == "dies":
        server.stop()
    else:
        server.mode = "refuse"
    with pytest.raises(StorageError, match=r"check kb\.qdrant_url") as raised:
        search(store)
    assert raised.value.retryable
    if how == "refuses":
        server.mode = "ok"
        search(store)
    store.close()


def test_a_search_that_hangs_is_given_up_and_holds_up_nobody(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kb.store, "_SEARCH_TIMEOUT_S", 1)
    store = VectorStore(url=server.url, dimension=64)
    server.mode = "hang"
    failures: list[StorageError] = []

    def hang() -> None:
        try:
            search(store)
        except StorageError as error:
            failures.append(error)

    waiting = threading.Thread(target=hang)
    waiting.start()
    while not server.searches:
        time.sleep(0.01)
    server.mode = "ok"
    search(store)
    assert not failures, "the other search is still waiting"
    waiting.join(15)
    assert len(failures) == 1
    store.close()
