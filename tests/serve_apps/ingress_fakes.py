"""Fakes of everything behind the ingress, and requests signed the way Twilio signs them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
from twilio.request_validator import RequestValidator

from configs.runtime import StackContext
from configs.settings import Settings, TwilioSettings
from serve_apps.backends import Backends, UnreachableError
from serve_apps.ingress import build_app
from serve_apps.webhooks import Webhooks
from storage.calls import CallFilter, CallPage, CarrierEvent
from voice_agent.admission import Admission, Refusal
from voice_agent.errors import DocumentError, StorageError, VoiceAgentError
from voice_agent.ports import Passage, ReplyChunk, ReplyRequest, SearchRequest, SearchResponse

AUTH_TOKEN = "12345678901234567890123456789012"
PUBLIC = "https://voice.example.com"
API_KEY = "the-key"
NOW_S = 1_700_000_000.0


def context(**twilio: Any) -> StackContext:
    return StackContext(
        settings=Settings(twilio=TwilioSettings(**({"auth_token": AUTH_TOKEN} | twilio))),
        run_id="run-1",
        run_dir=Path("/nowhere"),
        data_dir=Path("/nowhere"),
        dsn="",
        link_secret="link",
        stream_token_secret="stream-secret",
        api_key=API_KEY,
        webhook_url=PUBLIC,
        media_url="wss://voice.example.com/media",
    )


class FakeDispatcher:
    def __init__(self) -> None:
        self.admitted: list[tuple[str, str, str]] = []
        self.released: list[tuple[str, str]] = []
        self.refuse = ""
        self.wait_s = self.asked = 0
        self.error: Exception | None = None
        self.states: list[str] = ["unknown"]
        self.report: dict[str, Any] = {
            "ready": True,
            "draining": False,
            "hosts": {"h": {}},
            "gateways": {"g": "wss://"},
        }

    async def admit(self, call_id: str, caller_pii: str, called: str) -> Admission | Refusal:
        self._fail()
        self.admitted.append((call_id, caller_pii, called))
        if self.refuse:
            return Refusal(call_id, self.refuse, self.wait_s, self.asked)
        return Admission(call_id, "gateway-1", "wss://voice.example.com/media")

    async def call_state(self, call_id: str) -> str:
        self._fail()
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    async def release(self, call_id: str, reason: str) -> None:
        self._fail()
        self.released.append((call_id, reason))

    async def status(self) -> dict[str, Any]:
        self._fail()
        return self.report

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class FakeJournal:
    def __init__(self) -> None:
        self.kept: list[tuple[str, dict[str, Any]]] = []
        self.error: VoiceAgentError | None = None

    async def events(self, call_id: str, entries: list[dict[str, Any]]) -> None:
        if self.error is not None:
            raise self.error
        self.kept += [(call_id, entry) for entry in entries]

    async def live_events(self, call_id: str, after: int) -> list[dict[str, Any]]:
        return [{"seq": number, "event": "x"} for number in range(after + 1, 4)]

    async def status(self) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        return {"pending": 0}


class FakeGateways:
    async def status(self, gateway_ids: Iterable[str]) -> dict[str, Any]:
        return {gateway_id: {"tasks": 0, "sockets": 0, "attached": 0} for gateway_id in gateway_ids}


class FakeCalls:
    def __init__(self) -> None:
        self.calls: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[CallFilter | None, int, str]] = []
        self.kept: list[CarrierEvent] = []
        self.error: VoiceAgentError | None = None

    async def list_calls(self, wanted: CallFilter | None = None, *, limit: int = 50, cursor: str = "") -> CallPage:
        self._fail()
        self.asked.append((wanted, limit, cursor))
        return CallPage(list(self.calls.values())[:limit], "more")

    async def get_call(self, call_id: str) -> dict[str, Any] | None:
        self._fail()
        return self.calls.get(call_id)

    async def add_carrier_event(self, event: CarrierEvent) -> bool:
        self._fail()
        self.kept.append(event)
        return True

    async def ping(self) -> None:
        self._fail()

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class FakeStages:
    def __init__(self) -> None:
        self.problems: dict[str, str] = {"stt": "", "llm": "", "tts": "", "retriever": ""}
        self.reloads = 0
        self.reload_error: VoiceAgentError | None = None
        self.asked: list[ReplyRequest] = []

    async def health(self) -> Mapping[str, str]:
        return self.problems

    async def search(self, request: SearchRequest) -> SearchResponse:
        passage = Passage(
            "c1", "We open at nine. We close at five.", "We open at nine.", "Hours", "a.md", 0.8, 1.0, 0.9
        )
        return SearchResponse((passage,) * min(request.top_k, 2), "v1")

    async def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        self.asked.append(request)
        yield ReplyChunk("We open ")
        yield ReplyChunk("at nine.", sources=("a.md",))
        yield ReplyChunk(finish_reason="stop")

    async def ingest(self, paths: list[str]) -> dict[str, Any]:
        return {"added": paths, "failed": {}}

    async def documents(self) -> list[dict[str, Any]]:
        return [{"source": "a.md"}]

    async def remove(self, source: str) -> dict[str, Any]:
        if source != "a.md":
            raise DocumentError(f"no document {source!r}")
        return {"removed": [source]}

    async def engines(self) -> dict[str, list[dict[str, Any]]]:
        return {"tts": [{"flite": {"breaker": "open"}}]}

    async def reload_vocabulary(self) -> int:
        if self.reload_error is not None:
            raise self.reload_error
        self.reloads += 1
        return 2


@dataclass
class Stack:
    """The app over fakes."""

    context: StackContext = field(default_factory=context)
    dispatcher: FakeDispatcher = field(default_factory=FakeDispatcher)
    journal: FakeJournal = field(default_factory=FakeJournal)
    gateways: FakeGateways = field(default_factory=FakeGateways)
    calls: FakeCalls = field(default_factory=FakeCalls)
    stages: FakeStages = field(default_factory=FakeStages)
    settle_s: float = 0.0

    def client(self) -> httpx.AsyncClient:
        backends = Backends(self.dispatcher, self.journal, self.gateways, self.calls, self.stages)
        webhooks = Webhooks(self.context, backends, clock=lambda: NOW_S, nonce=lambda: "nonce", settle_s=self.settle_s)
        app = build_app(self.context, backends, webhooks)
        # Another host than the public one: what the request says of itself must not matter.
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://10.0.0.7:8080")

    async def post(self, path: str, *, sign: bool = True, token: str = AUTH_TOKEN, **params: str) -> httpx.Response:
        """A webhook of Twilio."""
        form = {"CallSid": "CA1", "AccountSid": "AC1", "From": "+3225550100", "To": "+3225550199"} | params
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if sign:
            headers["X-Twilio-Signature"] = RequestValidator(token).compute_signature(PUBLIC + path, form)
        async with self.client() as client:
            return await client.post(path, content=urlencode(form), headers=headers)

    async def api(self, method: str, path: str, *, key: str | None = API_KEY, **what: Any) -> httpx.Response:
        """A request of an operator."""
        headers = {} if key is None else {"X-API-Key": key}
        async with self.client() as client:
            return await client.request(method, path, headers=headers, **what)


def unreachable() -> UnreachableError:
    return UnreachableError("the dispatcher did not answer within 5 s")


def no_postgres() -> StorageError:
    return StorageError("Postgres failed: gone")
