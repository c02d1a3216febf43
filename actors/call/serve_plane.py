"""The model plane over Ray Serve handles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from ray import serve
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import RayServeException

from actors.call.load import PlaneLoad
from actors.call.replica_watch import WATCH
from actors.call.stage_health import StageHealth
from actors.call.stalls import Alarm, StageDeadlines, within
from voice_agent.errors import (
    DeadlineExceededError,
    EngineFailedError,
    EngineUnavailableError,
    ReplicaLostError,
    ReplicaStalledError,
    VoiceAgentError,
)
from voice_agent.plan import Outcome
from voice_agent.ports import (
    Capabilities,
    ReplyChunk,
    ReplyRequest,
    SearchRequest,
    SearchResponse,
    SpeakRequest,
    SpeechChunk,
    TranscribeRequest,
    TranscribeResponse,
)
from voice_agent.tools import ToolRequest, ToolSpec

STAGES: Final = {
    "stt": "SpeechToText",
    "retriever": "Retriever",
    "llm": "LanguageModel",
    "tts": "TextToSpeech",
    "tools": "Tools",
}
"""Serve application and deployment of each stage."""

LOST: Final = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError)
"""What Ray and Serve raise for a request whose replica, or its node, is dead or out of reach."""

POLL_S: Final = 0.2
BUSY: Final = 0.8
"""At this load lateness is no fault: whoever gives up and asks again makes it worse."""


def engine_error(stage: str, error: BaseException) -> VoiceAgentError:
    """What a failed Serve request means to a call.

    A replica's own ``VoiceAgentError`` keeps its class, so that its ``code`` and ``retryable`` survive the way; a dead
    or unreachable replica is ``ReplicaLostError``; an overloaded one and any other exception are ``EngineFailedError``:
    another replica may do better.
    """
    for known in (getattr(error, "cause", None), error):
        if isinstance(known, VoiceAgentError):
            return _own_class(known)(f"{stage}: {known}")
    # What a replica raised is a task error, also when it tells of the death of something that the replica needs.
    if isinstance(error, LOST) and not isinstance(error, RayTaskError):
        return ReplicaLostError(f"{stage}: the replica is gone ({type(error).__name__})")
    return EngineFailedError(f"{stage}: the request failed with {type(error).__name__}")


def _own_class(error: VoiceAgentError) -> type[VoiceAgentError]:
    """The class without Ray's part: Ray raises instances of a class made of its own and the cause's."""
    kinds = (kind for kind in type(error).__mro__ if issubclass(kind, VoiceAgentError))
    return next((kind for kind in kinds if not issubclass(kind, RayError)), EngineFailedError)


class ServePlane:
    """``ModelPlane`` over the handles of the Serve applications; one per process, shared by its calls.

    Handles are made in ``warm``, inside the process that uses them. ``sticky``: there may be several replicas of the
    recogniser, and the requests of a call are to go to the same one while it is there. ``deadlines``: by stage, after
    which a request that stalls is given up if another replica can be asked.
    """

    def __init__(
        self,
        *,
        sticky: bool = False,
        warm_timeout_s: float = 180.0,
        deadlines: Mapping[str, StageDeadlines] | None = None,
    ) -> None:
        self._sticky = sticky
        self._deadlines = deadlines or {}
        self._health = StageHealth()
        self._warm_timeout_s = warm_timeout_s
        self._open = 0
        self._handles: dict[str, Any] = {}
        self._stt: Capabilities | None = None
        self._specs: dict[str, ToolSpec] = {}
        self._load = PlaneLoad(time.monotonic)

    @property
    def open_requests(self) -> int:
        """Requests and streams that are not over."""
        return self._open

    @property
    def stt_capabilities(self) -> Capabilities:
        """Of the speech-to-text engine.

        Raises:
            EngineUnavailableError: before ``warm``.
        """
        if self._stt is None:
            raise EngineUnavailableError("the model plane is used before it is warm; await warm() first")
        return self._stt

    @property
    def tool_specs(self) -> Mapping[str, ToolSpec]:
        """The tools there are, by name."""
        return self._specs

    @property
    def load(self) -> float:
        """By the waiting of recognition and search, the two stages that every turn asks first."""
        return self._load.level

    def health(self) -> dict[str, Any]:
        """By stage: the engine, the one that answered last, uses of others, replicas that are avoided."""
        return self._health.status({app: WATCH.open().get(name, {}) for app, name in STAGES.items()})

    async def warm(self) -> None:
        """Make the handles and ask each stage for its capabilities.

        Raises:
            EngineUnavailableError: a stage is not deployed or does not answer in time.
        """
        handles: dict[str, Any] = {}
        for app, deployment in STAGES.items():
            try:
                async with asyncio.timeout(self._warm_timeout_s):
                    handles[app] = await self._deployed(app, deployment)
                    capabilities = await self._unary(app, handles[app].capabilities)
            except (TimeoutError, VoiceAgentError) as error:
                raise EngineUnavailableError(f"the {app} app does not answer; is it deployed? {error}") from error
            if app == "stt":
                self._stt = capabilities
            if isinstance(capabilities, Capabilities):
                self._health.primary(app, capabilities.name)
        self._specs = {spec.name: spec for spec in await self._unary("tools", handles["tools"].specs)}
        # Method handles share the router of their deployment, which is warm now.
        self._handles = {
            "stt": handles["stt"].options(method_name="transcribe"),
            "retriever": handles["retriever"].search,
            "llm": handles["llm"].options(method_name="reply", stream=True),
            "tts": handles["tts"].options(method_name="speak", stream=True),
            "tools": handles["tools"].run,
        }

    async def _deployed(self, app: str, deployment: str) -> Any:
        """The handle, once the application is there: applications and call actors start side by side."""
        while True:
            try:
                return await asyncio.to_thread(serve.get_deployment_handle, deployment, app)
            except (RayServeException, KeyError):
                await asyncio.sleep(POLL_S)

    async def transcribe(self, request: TranscribeRequest) -> TranscribeResponse:
        """Send audio of an utterance."""
        handle = self._handles["stt"]
        if self._sticky:
            handle = handle.options(session_id=request.call_id)
        started_s = time.monotonic()
        response: TranscribeResponse = await self._unary("stt", handle, request)
        self._load.note((time.monotonic() - started_s) * 1000, response.engine_ms)
        return replace(response, engine=self._health.answered("stt", response.engine))

    async def search(self, request: SearchRequest) -> SearchResponse:
        """Search the knowledge base."""
        started_s = time.monotonic()
        response: SearchResponse = await self._unary("retriever", self._handles["retriever"], request)
        self._load.note((time.monotonic() - started_s) * 1000, response.engine_ms)
        return replace(response, engine=self._health.answered("retriever", response.engine))

    def reply(self, request: ReplyRequest) -> AsyncGenerator[ReplyChunk, None]:
        """Stream a reply."""
        return self._stream("llm", request)

    def speak(self, request: SpeakRequest) -> AsyncGenerator[SpeechChunk, None]:
        """Stream the speech of a clause."""
        return self._stream("tts", request)

    async def run_tool(self, request: ToolRequest) -> Outcome:
        """Run a tool."""
        outcome: Outcome = await self._unary("tools", self._handles["tools"], request)
        return outcome

    async def _unary(self, stage: str, handle: Any, *arguments: Any) -> Any:
        response = handle.remote(*arguments)
        deadlines = self._deadlines.get(stage, StageDeadlines())
        self._open += 1
        well = False
        try:
            answer = await within(response, *self._alarms(response, deadlines.first_s))
            well = True
            return answer
        except TimeoutError:
            response.cancel()
            raise DeadlineExceededError(f"{stage}: the replica has stalled") from None
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            # Serve raises its own errors, Ray's, gRPC's and whatever the replica raised: this is the request border.
            raise self._failed(stage, response, error) from error
        finally:
            self._open -= 1
            WATCH.over(response.request_id, well=well)

    def _alarms(self, response: Any, limit_s: float | None, *, begun: bool = False) -> tuple[Alarm, ...]:
        if limit_s is None:
            return ()
        return ((limit_s, partial(self._stalled, response, begun=begun)),)

    def _sign_of_life(self, response: Any, dry_s: float, mute_s: float) -> tuple[Alarm, ...]:
        """The replica is asked for one as soon as its speech is behind its own playout."""
        return (dry_s, partial(self._late, response)), (dry_s + mute_s, partial(self._mute, response, mute_s))

    def _late(self, response: Any) -> bool:
        WATCH.doubted(response.request_id)
        return False

    def _mute(self, response: Any, asked_s: float) -> bool:
        """Its process gives no sign of life: this is no slow engine that may catch up."""
        request_id = response.request_id
        # The alarm that asked is another timer: half is enough to tell it from one that was asked just now.
        if self.load >= BUSY or WATCH.mute_s(request_id) < asked_s / 2 or not WATCH.another(request_id):
            return False
        WATCH.failed(request_id)
        return True

    def _stalled(self, response: Any, *, begun: bool = False) -> bool:
        """A deadline has passed: give up, if that can help. A stream that has ``begun`` will not catch up."""
        if self.load >= BUSY:
            WATCH.doubted(response.request_id)
            return False
        WATCH.failed(response.request_id)
        return begun or WATCH.another(response.request_id)

    def _failed(self, stage: str, response: Any, error: Exception) -> VoiceAgentError:
        known = engine_error(stage, error)
        if known.retryable:
            WATCH.failed(response.request_id)
        return known

    async def _stream(self, stage: str, request: Any) -> AsyncGenerator[Any, None]:
        response = self._handles[stage].remote(request)
        self._open += 1
        over = well = False
        try:
            async for item in self._timed(stage, response):
                well = True
                engine = self._health.answered(stage, item.engine)
                yield item if item.engine == engine else replace(item, engine=engine)
            over = well = True
        except TimeoutError:
            well = False
            kind = ReplicaStalledError if WATCH.another(response.request_id) else DeadlineExceededError
            raise kind(f"{stage}: the replica has stalled") from None
        except Exception as error:
            well = False
            raise self._failed(stage, response, error) from error
        finally:
            self._open -= 1
            WATCH.over(response.request_id, well=well)
            if not over:
                response.cancel()

    async def _timed(self, stage: str, response: Any) -> AsyncGenerator[Any, None]:
        """The items of a stream, each within its deadline.

        Raises:
            TimeoutError: the stream has stalled: in front of its first item if there is another replica, behind it in
                any case, for it will not catch up.
        """
        deadlines = self._deadlines.get(stage, StageDeadlines())
        items, given, audio_bytes, first_s = aiter(response), 0, 0, 0.0
        while True:
            waited_s = time.monotonic() - first_s if given else 0.0
            limit_s = deadlines.item_s(given, audio_bytes, waited_s)
            alarms = self._alarms(response, limit_s, begun=given > 0)
            if given and limit_s and deadlines.behind_s and deadlines.mute_s:
                alarms += self._sign_of_life(response, limit_s - deadlines.behind_s, deadlines.mute_s)
            try:
                item = await within(anext(items), *alarms)
            except StopAsyncIteration:
                return
            first_s = first_s or time.monotonic()
            given, audio_bytes = given + 1, audio_bytes + len(getattr(item, "audio", b""))
            yield item
