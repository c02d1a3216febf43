"""Who comes to the port of webhooks while no proxy is there is served by the next one."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster import front_door, ports
from cluster.front_door import DOOR, AtTheDoor, FrontDoor, take
from loadtest.webhooks import WebhookClient
from voice_agent.errors import ConfigError


@dataclass
class App:
    """An ASGI app as a proxy's: it knows no route until it is told of them."""

    routes: bool = False
    asked: list[str] = field(default_factory=list)
    asked_again: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope, receive, send):
        self.asked.append(scope["path"])
        if len(self.asked) > 2:
            self.asked_again.set()
        await send({"type": "http.response.start", "status": 200 if self.routes else 503, "headers": []})
        await send({"type": "http.response.body", "body": b"come in"})


@dataclass
class Place:
    door: FrontDoor
    port: int


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in (DOOR, *front_door.CALLBACK):
        monkeypatch.setenv(name, "")
    port = ports.free_port()
    door = FrontDoor("127.0.0.1", port, tmp_path)
    yield Place(door, port)
    door.close()


async def test_who_waits_at_the_door_is_served_by_the_proxy_that_comes_and_not_before_it_knows_the_way(
    place: Place,
) -> None:
    app = App()
    async with WebhookClient() as client:
        call = asyncio.create_task(client.post(f"http://127.0.0.1:{place.port}/twilio/voice", {}, {}, 30.0))
        AtTheDoor(app, take(os.environ[DOOR]))
        await app.asked_again.wait()
        assert set(app.asked) == {"/-/healthz"}
        assert not call.done()
        app.routes = True
        answer = await call
    assert (answer.status, answer.text) == (200, "come in")
    assert app.asked[-1] == "/twilio/voice"


async def test_a_proxy_that_cannot_serve_the_door_ends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.get_running_loop().create_future()
    monkeypatch.setattr("os._exit", ended.set_result)

    async def broken(scope, receive, send):
        raise RuntimeError("no routes in this version")

    AtTheDoor(broken, take(os.environ[DOOR]))
    assert await ended == 1


def test_a_closed_door_is_no_door_and_one_port_has_one(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(place.port)):
        FrontDoor("127.0.0.1", place.port, tmp_path)
    assert not take(os.environ[DOOR]).get_inheritable()
    place.door.close()
    with pytest.raises(ConnectionRefusedError):
        take(os.environ[DOOR])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", place.port))


def test_serve_asks_for_its_middlewares_where_we_say(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private import http_util
    from ray.serve.config import HTTPOptions

    ((name, path),) = front_door.CALLBACK.items()
    assert os.environ[name] == path
    monkeypatch.setattr(http_util, name, path)
    (ours,) = http_util.configure_http_middlewares(HTTPOptions()).middlewares
    assert ours.cls is AtTheDoor
    (listener,) = ours.args
    assert listener.getsockname()[1] == place.port
