"""The ingress on a real Serve, over real HTTP, with real Postgres; dispatcher, journal and models are stand-ins."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from ingress_fakes import API_KEY, AUTH_TOKEN, PUBLIC, context
from twilio.request_validator import RequestValidator

from storage.calls import CallRepository
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from voice_agent.admission import Admission
from voice_agent.errors import CapacityError, DocumentError
from voice_agent.ports import ReplyChunk, ReplyRequest, SearchRequest, SearchResponse

pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.timeout(900)]

FLAGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
}


class Dispatcher:
    """Stands in for the named actor."""

    async def admit(self, call_id: str, _caller_pii: str, _called: str) -> Admission:
        if call_id == "CA-broken":
            raise CapacityError("no room at all")
        return Admission(call_id, "gateway-1", "wss://voice.example.com/media")

    async def call_state(self, _call_id: str) -> str:
        return "ended:goodbye"

    async def status(self) -> dict[str, Any]:
        return {"draining": False, "hosts": {"h": {}}, "gateways": {"gateway-1": "wss://x"}}


class Journal:
    """Stands in for the named actor."""

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []

    async def events(self, _call_id: str, entries: list[dict[str, Any]]) -> None:
        self._entries += [entry | {"seq": len(self._entries) + 1} for entry in entries]

    async def live_events(self, _call_id: str, after: int) -> list[dict[str, Any]]:
        return [entry for entry in self._entries if entry["seq"] > after]

    async def status(self) -> dict[str, Any]:
        return {}


class SpeechToText:
    """Stands in for the deployment; two replicas count their reloads in one file each."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    async def reload(self) -> None:
        (self._folder / f"reloaded-{os.getpid()}").touch()


class LanguageModel:
    """Stands in for the deployment."""

    async def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        yield ReplyChunk(f"You asked: {request.messages[-1].content}")
        yield ReplyChunk(finish_reason="stop")


class TextToSpeech:
    """Stands in for the deployment."""


class Retriever:
    """Stands in for the deployment."""

    async def search(self, _request: SearchRequest) -> SearchResponse:
        return SearchResponse((), "v1")

    async def ingest(self, paths: list[str]) -> dict[str, Any]:
        return {"added": paths}

    async def remove(self, source: str) -> dict[str, Any]:
        raise DocumentError(f"no document {source!r}")


class Tools:
    """Stands in for the deployment."""


@pytest.fixture(scope="module")
def stack() -> Iterator[tuple[str, str, Path]]:
    """(base url, DSN, folder)"""
    flags = pytest.MonkeyPatch()
    for name, value in FLAGS.items():
        flags.setenv(name, value)
    ray = pytest.importorskip("ray")
    from ray import serve

    from serve_apps.ingress import ingress_app

    folder = Path(tempfile.mkdtemp(prefix="va-in-"))
    postgres = EmbeddedPostgres(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        dsn = postgres.start()
        asyncio.run(_migrate(dsn))
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join([root, str(Path(__file__).parent)])
        ray.init(
            address="local",
            namespace="voice-agent",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=str(folder / "r"),
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
        )
        options = {"num_cpus": 0, "lifetime": "detached", "namespace": "voice-agent"}
        for name, kind in (("dispatcher", Dispatcher), ("journal", Journal)):
            ray.remote(kind).options(name=name, **options).remote()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        small = {"ray_actor_options": {"num_cpus": 0.1}}
        mine = dataclasses.replace(context(), dsn=dsn, run_dir=folder, data_dir=folder)
        targets = [serve.RunTarget(ingress_app(mine), name="ingress", route_prefix="/")]
        for app, kind, replicas, arguments in (
            ("stt", SpeechToText, 2, (str(folder),)),
            ("llm", LanguageModel, 1, ()),
            ("tts", TextToSpeech, 1, ()),
            ("retriever", Retriever, 1, ()),
            ("tools", Tools, 1, ()),
        ):
            deployment: Any = serve.deployment(kind, name=kind.__name__, num_replicas=replicas, **small)
            targets.append(serve.RunTarget(deployment.bind(*arguments), name=app, route_prefix=None))
        serve.run_many(targets)
        yield f"http://127.0.0.1:{port}", dsn, folder
    finally:
        if ray.is_initialized():
            serve.shutdown()
            ray.shutdown()
        flags.undo()
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def _migrate(dsn: str) -> None:
    database = await Database.connect(dsn, 1)
    await database.migrate()
    await CallRepository(database).start_call("CA1", "+32", "+33", 1_700_000_000)
    await database.close()


def post(url: str, path: str, **params: str) -> httpx.Response:
    form = {"CallSid": "CA1", "From": "+32", "To": "+33"} | params
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Twilio-Signature": RequestValidator(AUTH_TOKEN).compute_signature(PUBLIC + path, form),
    }
    return httpx.post(url + path, content=urlencode(form), headers=headers, trust_env=False, timeout=30)


def api(url: str, method: str, path: str, **what: Any) -> httpx.Response:
    return httpx.request(
        method, f"{url}/api{path}", headers={"X-API-Key": API_KEY}, trust_env=False, timeout=30, **what
    )


def test_the_whole_ingress_on_serve(stack: tuple[str, str, Path]) -> None:
    url, _, folder = stack
    ready = httpx.get(f"{url}/readyz", trust_env=False, timeout=30)
    assert (ready.status_code, ready.json()["ready"]) == (200, True), ready.text

    assert "wss://voice.example.com/media" in post(url, "/twilio/voice").text
    assert "<Say>" in post(url, "/twilio/voice", CallSid="CA-broken").text
    assert "<Hangup" in post(url, "/twilio/stream-ended", CallStatus="in-progress").text
    assert httpx.post(f"{url}/twilio/voice", data={"CallSid": "CA1"}, trust_env=False).status_code == 403
    large = httpx.post(f"{url}/twilio/voice", content=b"a" * 10_000_000, trust_env=False, timeout=30)
    assert large.status_code == 413

    assert post(url, "/twilio/stream-status", StreamEvent="stream-error", StreamError="31901").status_code == 204
    call = api(url, "GET", "/calls/CA1").json()
    assert [event["error"] for event in call["carrier_events"]] == ["31901"]
    assert api(url, "GET", "/calls/CA1/events").json()["events"][0]["error"] == "31901"

    report = api(url, "POST", "/kb/ingest", json={"paths": ["/x"]}).json()
    assert (report["added"], report["recognisers_reloaded"], report["reload_error"]) == (["/x"], 2, "")
    assert len(list(folder.glob("reloaded-*"))) == 2
    assert api(url, "POST", "/kb/ask", json={"question": "Hm?"}).json()["answer"] == "You asked: Hm?"
    gone = api(url, "DELETE", "/kb/documents?source=b.md")
    assert (gone.status_code, gone.json()["message"]) == (404, "no document 'b.md'")


def test_parts_that_die_are_told_and_found_again(stack: tuple[str, str, Path]) -> None:
    import ray

    url, _, _ = stack
    ray.kill(ray.get_actor("dispatcher", namespace="voice-agent"))
    answer = post(url, "/twilio/voice")
    assert answer.status_code == 200
    assert "cannot take your call" in answer.text
    ready = httpx.get(f"{url}/readyz", trust_env=False, timeout=30)
    assert ready.status_code == 503
    assert not ready.json()["parts"]["dispatcher"]["ok"]
    actor = ray.remote(Dispatcher).options(name="dispatcher", namespace="voice-agent", num_cpus=0, lifetime="detached")
    ray.get(actor.remote().status.remote())
    assert "<Stream" in post(url, "/twilio/voice").text
