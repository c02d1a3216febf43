"""The REST API under /api: calls, the knowledge base, the state of the stack. Every request carries ``X-API-Key``."""

from __future__ import annotations

import hmac
import logging
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query
from pydantic import BaseModel, ConfigDict, Field

from configs.runtime import StackContext
from serve_apps.backends import Backends
from serve_apps.http_errors import HttpError
from storage.calls import MAX_PAGE, CallFilter
from voice_agent.errors import DocumentError, VoiceAgentError
from voice_agent.ports import Message, Passage, ReplyRequest, SearchRequest

_log = logging.getLogger(__name__)

_ASKING = "api-question"
"""``call_id`` of requests that belong to no call."""


class Body(BaseModel):
    """Base of request bodies: no unknown keys."""

    model_config = ConfigDict(extra="forbid")


class IngestBody(Body):
    """Files and folders on the machine of the retriever."""

    paths: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(min_length=1, max_length=100)


class AskBody(Body):
    """A question to the knowledge base."""

    question: str = Field(min_length=1, max_length=2000)
    top_k: int | None = Field(None, ge=1, le=50)


class CallSummary(BaseModel):
    """A call. ``ended_at`` is null while it lives."""

    call_id: str
    caller_pii: str
    called: str
    started_at: datetime
    ended_at: datetime | None
    duration_ms: int
    turns: int
    barge_ins: int
    end_reason: str
    counters: dict[str, int]


class TurnDetail(BaseModel):
    """One exchange; times are ms on the call's clock."""

    turn: int
    kind: str
    outcome: str
    caller_text_pii: str
    caller_confidence: float
    agent_text_pii: str
    heard_text_pii: str
    sources: list[str]
    tool_calls: list[str]
    failed_stages: list[str]
    speculations: int
    times_ms: dict[str, int]
    v2v_self_ms: int | None
    engines: dict[str, str]
    fillers: int
    code: str


class CarrierEventDetail(BaseModel):
    """A status callback of the carrier."""

    kind: str
    event: str
    error: str
    details: dict[str, str]
    received_at: datetime


class CallDetail(CallSummary):
    """A call with all that was kept of it."""

    turn_records: list[TurnDetail]
    carrier_events: list[CarrierEventDetail]


class CallList(BaseModel):
    """A page of calls, newest first. ``next_cursor`` is empty on the last one."""

    calls: list[CallSummary]
    next_cursor: str


class EventList(BaseModel):
    """Entries of a call's event log. Ask again with ``after`` = ``next``."""

    events: list[dict[str, Any]]
    next: int


class PassageDetail(BaseModel):
    """A piece of the knowledge base that was found."""

    sentence: str
    text: str
    heading: str
    source: str
    dense: float
    lexical: float
    score: float


class Answer(BaseModel):
    """What the agent would say, what it rests on, and what was found. ``finish_reason`` gated: it does not know."""

    answer: str
    sources: list[str]
    finish_reason: str
    kb_version: str
    passages: list[PassageDetail]


def router(context: StackContext, backends: Backends) -> APIRouter:
    """All routes under /api."""

    def check_key(x_api_key: Annotated[str, Header()] = "") -> None:
        expected = context.api_key.encode()
        if not expected or not hmac.compare_digest(x_api_key.encode(errors="surrogatepass"), expected):
            raise HttpError(401, "auth", "the header X-API-Key is missing or wrong")

    routes = APIRouter(prefix="/api", dependencies=[Depends(check_key)])
    routes.include_router(_calls(backends))
    routes.include_router(_knowledge(context, backends))

    @routes.get("/status", tags=["stack"])
    async def status() -> dict[str, Any]:
        """The run, the dispatcher, its gateways, the journal and the engines; a part that does not answer says so."""
        report: dict[str, Any] = {"run_id": context.run_id, "profile": context.settings.profile}
        for name, part in (("dispatcher", backends.dispatcher), ("journal", backends.journal)):
            try:
                report[name] = await part.status()
            except VoiceAgentError as error:
                report[name] = {"error": error.code, "message": error.message}
        try:
            report["engines"] = await backends.stages.engines()
        except VoiceAgentError as error:
            report["engines"] = {"error": error.code, "message": error.message}
        report["gateways"] = await backends.gateways.status(report["dispatcher"].get("gateways", {}))
        return report

    return routes


def _calls(backends: Backends) -> APIRouter:
    routes = APIRouter(prefix="/calls", tags=["calls"])

    @routes.get("", response_model=CallList)
    async def list_calls(
        wanted: Annotated[CallFilter, Depends(_filter)],
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
        cursor: Annotated[str, Query(max_length=500)] = "",
    ) -> dict[str, Any]:
        """Calls, newest first."""
        page = await backends.calls.list_calls(wanted, limit=limit, cursor=cursor)
        return {"calls": page.calls, "next_cursor": page.next_cursor}

    @routes.get("/{call_id}", response_model=CallDetail)
    async def get_call(call_id: str) -> dict[str, Any]:
        """One call with its turns."""
        call = await backends.calls.get_call(call_id)
        if call is None:
            raise HttpError(404, "not_found", f"there is no call {call_id}")
        return call

    @routes.get("/{call_id}/events")
    async def live_events(call_id: str, after: Annotated[int, Query(ge=0)] = 0) -> EventList:
        """The call's event log as far as it is in memory; ``after`` is the number of the last entry known."""
        events = await backends.journal.live_events(call_id, after)
        return EventList(events=events, next=_next(events, after))

    return routes


def _filter(
    state: Annotated[Literal["", "live", "ended"], Query()] = "",
    end_reason: Annotated[str, Query(max_length=40)] = "",
    called: Annotated[str, Query(max_length=40)] = "",
    since: datetime | None = None,
    until: datetime | None = None,
) -> CallFilter:
    """Query parameters. The caller's number is none of them: addresses end up in the logs of proxies."""
    return CallFilter(state, end_reason, "", called, _aware(since), _aware(until))


def _knowledge(context: StackContext, backends: Backends) -> APIRouter:
    routes = APIRouter(prefix="/kb", tags=["knowledge base"])
    stages = backends.stages

    @routes.get("/documents")
    async def documents() -> dict[str, Any]:
        """What the knowledge base holds."""
        return {"documents": await stages.documents()}

    @routes.post("/ingest")
    async def ingest(body: IngestBody) -> dict[str, Any]:
        """Bring in files and folders; one that cannot be read is reported and the others are ingested."""
        report = await stages.ingest(body.paths)
        return report | await _reload(backends)

    @routes.delete("/documents")
    async def remove(source: Annotated[str, Query(min_length=1, max_length=4096)]) -> dict[str, Any]:
        """Take a document out."""
        try:
            report = await stages.remove(source)
        except DocumentError as error:
            raise HttpError(404, error.code, error.message) from error
        return report | await _reload(backends)

    @routes.post("/ask")
    async def ask(body: AskBody) -> Answer:
        """Answer a question as the agent would on the phone."""
        found = await stages.search(
            SearchRequest(_ASKING, body.question, body.top_k or context.settings.retriever.top_k)
        )
        request = ReplyRequest(_ASKING, 1, (Message("user", body.question),), found.passages)
        text, finish_reason = "", ""
        sources: tuple[str, ...] = ()
        async for chunk in stages.reply(request):
            text += chunk.text
            sources = chunk.sources or sources
            finish_reason = chunk.finish_reason or finish_reason
        return Answer(
            answer=text,
            sources=list(sources),
            finish_reason=finish_reason,
            kb_version=found.kb_version,
            passages=[_passage(passage) for passage in found.passages],
        )

    return routes


async def _reload(backends: Backends) -> dict[str, Any]:
    """The recogniser's new vocabulary. The documents are in; a recogniser that did not take it is told, not fatal."""
    try:
        return {"recognisers_reloaded": await backends.stages.reload_vocabulary(), "reload_error": ""}
    except VoiceAgentError as error:
        _log.warning("vocabulary not reloaded", extra={"code": error.code})
        return {"recognisers_reloaded": 0, "reload_error": error.message}


def _passage(passage: Passage) -> PassageDetail:
    return PassageDetail(
        sentence=passage.sentence,
        text=passage.text,
        heading=passage.heading,
        source=passage.source,
        dense=passage.dense,
        lexical=passage.lexical,
        score=passage.score,
    )


def _aware(moment: datetime | None) -> datetime | None:
    """A time without a zone is UTC."""
    return moment if moment is None or moment.tzinfo else moment.replace(tzinfo=UTC)


def _next(events: list[dict[str, Any]], after: int) -> int:
    return max([after, *(int(entry["seq"]) for entry in events)])
