"""The ingress's backends in a running stack: named Ray actors, Serve handles, Postgres. All connect when first used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError

from configs.runtime import StackContext
from serve_apps.backends import Backends, UnreachableError
from storage.calls import CallFilter, CallPage, CallRepository, CarrierEvent
from storage.database import Database
from voice_agent.admission import Admission, Refusal
from voice_agent.errors import EngineFailedError, VoiceAgentError
from voice_agent.ports import ReplyChunk, ReplyRequest, SearchRequest, SearchResponse

T = TypeVar("T")

STAGES: Final[Mapping[str, str]] = {
    "stt": "SpeechToText",
    "llm": "LanguageModel",
    "tts": "TextToSpeech",
    "retriever": "Retriever",
    "tools": "Tools",
}
"""Serve application and deployment of each stage."""

ACTOR_TIMEOUT_S: Final = 5.0
DISPATCHER_TIMEOUT_S: Final = 9.0
"""Twilio waits 15 s for TwiML; a dispatcher that is not back by now will not save the call."""
RETRY_S: Final = 0.1
REQUEST_TIMEOUT_S: Final = 30.0
INGEST_TIMEOUT_S: Final = 600.0


class RayBackends:
    """Owns the connections of one ingress replica."""

    def __init__(self, context: StackContext) -> None:
        namespace = context.settings.ray.namespace
        self._calls = PostgresCalls(context.dsn, context.settings.storage.pool_size)
        self._backends = Backends(
            dispatcher=RayDispatcher(NamedActor("dispatcher", namespace, DISPATCHER_TIMEOUT_S, insist=True)),
            journal=RayJournal(NamedActor("journal", namespace)),
            gateways=RayGateways(namespace),
            calls=self._calls,
            stages=ServeStages(),
        )

    def backends(self) -> Backends:
        """For the app."""
        return self._backends

    async def close(self) -> None:
        """Let go of Postgres. Idempotent."""
        await self._calls.close()


class NamedActor:
    """Calls on a named actor, found again after it was made anew.

    ``insist``: an actor that is being restarted is asked again until ``timeout_s``; for methods that may be repeated.
    """

    def __init__(self, name: str, namespace: str, timeout_s: float = ACTOR_TIMEOUT_S, *, insist: bool = False) -> None:
        self._name = name
        self._namespace = namespace
        self._timeout_s = timeout_s
        self._insist = insist
        self._handle: Any = None

    async def call(self, method: str, *arguments: object) -> Any:
        """The method's result.

        Raises:
            UnreachableError: there is no such actor, it died, or it did not answer in time.
            VoiceAgentError: what the method itself raised.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    try:
                        return await self._ask(method, *arguments)
                    except UnreachableError:
                        if not self._insist:
                            raise
                    await asyncio.sleep(RETRY_S)
        except TimeoutError as error:
            raise UnreachableError(f"the {self._name} did not answer within {self._timeout_s:g} s") from error

    async def _ask(self, method: str, *arguments: object) -> Any:
        try:
            if self._handle is None:
                # Asks the cluster's control service, which may be away: never on the event loop.
                self._handle = await asyncio.to_thread(ray.get_actor, self._name, self._namespace)
            return await getattr(self._handle, method).remote(*arguments)
        except RayTaskError as error:
            raise _own_error(error, self._name) from error
        except (RayError, ValueError) as error:
            # A restarted actor keeps its handle; one that was made anew does not.
            self._handle = None
            raise UnreachableError(f"the {self._name} is out of reach ({type(error).__name__})") from error


class RayDispatcher:
    """``DispatcherPort`` over the named actor."""

    def __init__(self, actor: NamedActor) -> None:
        self._actor = actor

    async def admit(self, call_id: str, caller_pii: str, called: str) -> Admission | Refusal:
        """Reserve a slot."""
        answer: Admission | Refusal = await self._actor.call("admit", call_id, caller_pii, called)
        return answer

    async def call_state(self, call_id: str) -> str:
        """State of a call."""
        return str(await self._actor.call("call_state", call_id))

    async def release(self, call_id: str, reason: str) -> None:
        """Give a slot back."""
        await self._actor.call("release", call_id, reason)

    async def status(self) -> dict[str, Any]:
        """Counts, gateways, hosts."""
        return dict(await self._actor.call("status"))


class RayJournal:
    """``JournalPort`` over the named actor."""

    def __init__(self, actor: NamedActor) -> None:
        self._actor = actor

    async def events(self, call_id: str, entries: list[dict[str, Any]]) -> None:
        """Append to a call's event log."""
        await self._actor.call("events", call_id, entries)

    async def live_events(self, call_id: str, after: int) -> list[dict[str, Any]]:
        """The tail in memory."""
        return list(await self._actor.call("live_events", call_id, after))

    async def status(self) -> dict[str, Any]:
        """Counters."""
        return dict(await self._actor.call("status"))


class RayGateways:
    """``GatewaysPort`` over the named actors: a gateway's id is its actor's name."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    async def status(self, gateway_ids: Iterable[str]) -> dict[str, Any]:
        """All are asked at once."""
        wanted = tuple(gateway_ids)
        answers = await asyncio.gather(*(self._one(gateway_id) for gateway_id in wanted))
        return dict(zip(wanted, answers, strict=True))

    async def _one(self, gateway_id: str) -> dict[str, Any]:
        try:
            return dict(await NamedActor(gateway_id, self._namespace).call("status"))
        except VoiceAgentError as error:
            return {"error": error.code, "message": error.message}


class PostgresCalls:
    """``CallStore`` that connects when first used, so that the ingress takes calls while Postgres is away."""

    def __init__(self, dsn: str, pool_size: int) -> None:
        self._dsn = dsn
        self._pool_size = pool_size
        self._database: Database | None = None
        self._connecting = asyncio.Lock()

    async def list_calls(self, wanted: CallFilter | None = None, *, limit: int = 50, cursor: str = "") -> CallPage:
        """A page of calls."""
        return await CallRepository(await self._connected()).list_calls(wanted, limit=limit, cursor=cursor)

    async def get_call(self, call_id: str) -> dict[str, Any] | None:
        """A call with its turns."""
        return await CallRepository(await self._connected()).get_call(call_id)

    async def add_carrier_event(self, event: CarrierEvent) -> bool:
        """Keep a status callback."""
        return await CallRepository(await self._connected()).add_carrier_event(event)

    async def ping(self) -> None:
        """Whether Postgres answers."""
        await (await self._connected()).ping()

    async def close(self) -> None:
        """Close the pool. Idempotent."""
        if self._database is not None:
            await self._database.close()
            self._database = None

    async def _connected(self) -> Database:
        async with self._connecting:
            if self._database is None:
                self._database = await Database.connect(self._dsn, self._pool_size, timeout_s=5.0)
            return self._database


class ServeStages:
    """``StagesPort`` over the handles of the Serve applications."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    async def health(self) -> Mapping[str, str]:
        """Ask the Serve controller for the state of each application."""
        try:
            status = await asyncio.to_thread(serve.status)
        except RayError as error:
            raise UnreachableError(f"the Serve controller is out of reach ({type(error).__name__})") from error
        return {name: _application_problem(status.applications.get(name)) for name in STAGES}

    async def search(self, request: SearchRequest) -> SearchResponse:
        """Passages for a question."""
        response: SearchResponse = await self._unary("retriever", "search", request)
        return response

    async def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        """The language model's answer."""
        response: Any = None
        over = False
        try:
            response = self._handle("llm").options(method_name="reply", stream=True).remote(request)
            async for chunk in response:
                yield chunk
            over = True
        except Exception as error:
            raise _own_error(error, "llm") from error
        finally:
            if response is not None and not over:
                response.cancel()

    async def ingest(self, paths: list[str]) -> dict[str, Any]:
        """Bring documents in."""
        return dict(await self._unary("retriever", "ingest", paths, timeout_s=INGEST_TIMEOUT_S))

    async def documents(self) -> list[dict[str, Any]]:
        """What there is."""
        return list(await self._unary("retriever", "documents"))

    async def remove(self, source: str) -> dict[str, Any]:
        """Take a document out."""
        return dict(await self._unary("retriever", "remove", source, timeout_s=INGEST_TIMEOUT_S))

    async def engines(self) -> dict[str, list[dict[str, Any]]]:
        """Ask every replica of the stages that may have a fallback."""

        async def ask(stage: str) -> list[dict[str, Any]]:
            async def broadcast() -> list[Any]:
                response = self._handle(stage).broadcast("engines")
                return list(await response.results_async(timeout_s=ACTOR_TIMEOUT_S))

            return [states for states in await self._bordered(stage, broadcast, ACTOR_TIMEOUT_S) if states]

        stages = ("stt", "llm", "tts")
        return dict(zip(stages, await asyncio.gather(*map(ask, stages)), strict=True))

    async def reload_vocabulary(self) -> int:
        """Reload on every replica of the recogniser."""

        async def broadcast() -> list[Any]:
            response = self._handle("stt").broadcast("reload")
            return list(await response.results_async(timeout_s=REQUEST_TIMEOUT_S))

        return len(await self._bordered("stt", broadcast))

    async def _unary(self, stage: str, method: str, *arguments: object, timeout_s: float = REQUEST_TIMEOUT_S) -> Any:

        async def request() -> Any:
            response = getattr(self._handle(stage), method).remote(*arguments)
            try:
                return await response
            except asyncio.CancelledError:
                response.cancel()
                raise

        return await self._bordered(stage, request, timeout_s)

    async def _bordered(self, stage: str, work: Callable[[], Awaitable[T]], timeout_s: float = REQUEST_TIMEOUT_S) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await work()
        except TimeoutError as error:
            raise UnreachableError(f"the {stage} app did not answer within {timeout_s:g} s") from error
        except Exception as error:
            # Serve raises its own errors, Ray's, gRPC's and whatever the replica raised: this is the request border.
            raise _own_error(error, stage) from error

    def _handle(self, stage: str) -> Any:
        if stage not in self._handles:
            self._handles[stage] = serve.get_deployment_handle(STAGES[stage], app_name=stage)
        return self._handles[stage]


def _application_problem(application: Any) -> str:
    """Empty when an application runs and every deployment of it is healthy."""
    if application is None:
        return "not deployed"
    if str(application.status.value) != "RUNNING":
        return f"{application.status.value}: {application.message}".strip().rstrip(":")
    for name, deployment in application.deployments.items():
        if str(deployment.status.value) not in ("HEALTHY", "UPSCALING", "DOWNSCALING", "UPDATING"):
            return f"{name} is {deployment.status.value}: {deployment.message}".strip().rstrip(":")
    return ""


def _own_error(error: BaseException, where: str) -> VoiceAgentError:
    """A ``VoiceAgentError`` raised on the other side keeps its class; anything else is a failure of that side."""
    for known in (getattr(error, "cause", None), error):
        if isinstance(known, VoiceAgentError):
            kinds = (kind for kind in type(known).__mro__ if issubclass(kind, VoiceAgentError))
            # Ray raises instances of a class made of its own and the cause's.
            kind = next((kind for kind in kinds if not issubclass(kind, RayError)), EngineFailedError)
            return kind(str(getattr(known, "message", known)))
    if isinstance(error, RayTaskError):
        return EngineFailedError(f"the {where} failed with {type(error.cause).__name__}")
    return UnreachableError(f"the {where} is out of reach ({type(error).__name__})")
