"""SpeechToText: one recogniser per replica, one session per utterance, and no state that cannot be sent again."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from engines import registry
from serve_apps.replica import as_ours, engines_of
from serve_apps.stuck import Watchdog
from voice_agent.errors import ProtocolError
from voice_agent.ports import (
    Capabilities,
    SpeechToTextEngine,
    SpeechToTextSession,
    TranscribeRequest,
    TranscribeResponse,
    TurnModel,
)

logger = logging.getLogger(__name__)

_PIECE_SAMPLES = 100 * 8
_TAIL_SAMPLES = 8 * 8000


@dataclass(slots=True)
class _Utterance:
    """A session, how many samples it has taken, and whose it is. The lock is held by the thread that works on it."""

    session: SpeechToTextSession
    epoch: int
    used_at_s: float
    samples: int = 0
    closed: bool = False
    tail: bytearray = field(default_factory=bytearray)
    lock: Lock = field(default_factory=Lock)


class SpeechToText:
    """The deployment. A replica without a request's state answers ``need_from``; nothing is lost with a replica.

    Where there is a turn model, it judges at each flush by the last 8 s of the utterance.
    Sessions are keyed by (call, utterance). At most ``max_sessions`` are open: the one longest unused goes first, and
    whoever comes back to it is told to send the utterance again.
    """

    def __init__(
        self,
        engine: str,
        options: Mapping[str, Any] | None = None,
        *,
        turn_model: str = "",
        turn_options: Mapping[str, Any] | None = None,
        max_sessions: int = 256,
        session_idle_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine: SpeechToTextEngine = registry.load("stt", engine, options)
        self._turn: TurnModel | None = registry.load("turn", turn_model, turn_options) if turn_model else None
        self._max_sessions = max_sessions
        self._session_idle_s = session_idle_s
        self._clock = clock
        self._utterances: OrderedDict[tuple[str, int], _Utterance] = OrderedDict()
        self._executor = ThreadPoolExecutor(self._engine.capabilities.parallel, thread_name_prefix="stt")
        self._watchdog = Watchdog(clock=clock)
        self.evicted = 0

    async def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._engine.capabilities

    async def engines(self) -> dict[str, dict[str, Any]]:
        """The engines of this replica, where it has a fallback: breaker, uses, faults."""
        return engines_of(self._engine)

    async def reload(self) -> None:
        """Take the vocabulary of the last ingest. Utterances under way keep the old one."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._engine.reload)

    async def check_health(self) -> None:
        """Serve's: a replica that fails three times is replaced; utterances under way are sent again to another.

        Raises:
            EngineFailedError: a thread of the engine hangs.
        """
        self._watchdog.check()

    async def open_sessions(self) -> int:
        """How many utterances this replica holds."""
        return len(self._utterances)

    async def process_id(self) -> int:
        """Of this replica."""
        return os.getpid()

    async def transcribe(self, request: TranscribeRequest) -> TranscribeResponse:
        """Take audio and answer with the text so far; see ``TranscribeRequest``.

        Audio this replica already has is skipped, so a request may be repeated.

        Raises:
            ProtocolError: the request is of an owner that was replaced.
            EngineFailedError: the engine failed; the session is dropped, and the next request is told to start again.
        """
        key = (request.call_id, request.utterance)
        self._drop_idle()
        known = self._utterances.get(key)
        if known is not None and request.epoch < known.epoch:
            raise ProtocolError(
                f"Epoch {request.epoch} of call {request.call_id} is over: epoch {known.epoch} owns utterance"
                f" {request.utterance} now."
            )
        if request.end:
            self._forget(key)
            return TranscribeResponse()
        if known is None and request.offset_samples > 0:
            return TranscribeResponse(need_from=0)
        utterance = known or self._open(key, request.epoch)
        utterance.epoch = request.epoch
        utterance.used_at_s = self._clock()
        self._utterances.move_to_end(key)
        # A cancelled request leaves its thread at work: position and lock belong to the thread, not to the request.
        work = asyncio.get_running_loop().run_in_executor(self._executor, self._advance, utterance, request)
        try:
            return await work
        except Exception as error:  # the border of a replica request
            self._forget(key)
            raise as_ours(error, "stt", request.call_id) from error

    def _advance(self, utterance: _Utterance, request: TranscribeRequest) -> TranscribeResponse:
        with self._watchdog.work():
            return _advance(utterance, request, self._turn)

    def _open(self, key: tuple[str, int], epoch: int) -> _Utterance:
        while len(self._utterances) >= self._max_sessions:
            oldest = next(iter(self._utterances))
            self.evicted += 1
            logger.warning("session evicted", extra={"call_id": oldest[0], "utterance": oldest[1]})
            self._forget(oldest)
        session = self._engine.open(call_id=key[0], utterance=key[1])
        utterance = _Utterance(session, epoch, self._clock())
        self._utterances[key] = utterance
        return utterance

    def _drop_idle(self) -> None:
        limit = self._clock() - self._session_idle_s
        while self._utterances:
            key, utterance = next(iter(self._utterances.items()))
            if utterance.used_at_s > limit:
                return
            self._forget(key)

    def _forget(self, key: tuple[str, int]) -> None:
        utterance = self._utterances.pop(key, None)
        if utterance is not None:
            # In the executor, behind the work that may still run on this session.
            self._executor.submit(_close, utterance)


def _advance(utterance: _Utterance, request: TranscribeRequest, turn: TurnModel | None) -> TranscribeResponse:
    """Feed one request, blocking, on a thread of the executor."""
    with utterance.lock:
        if utterance.closed:
            return TranscribeResponse(need_from=0)
        if request.offset_samples > utterance.samples:
            return TranscribeResponse(need_from=utterance.samples)
        fresh = request.audio[utterance.samples - request.offset_samples :]
        # In pieces, because a recogniser holds the interpreter's lock while it works and others wait for it.
        for start in range(0, len(fresh), _PIECE_SAMPLES):
            utterance.session.accept(fresh[start : start + _PIECE_SAMPLES])
        utterance.samples += len(fresh)
        result = utterance.session.result(flush=request.flush)
        if turn is None:
            return result
        utterance.tail += fresh
        del utterance.tail[:-_TAIL_SAMPLES]
        if not request.flush or not result.text:
            return result
        return replace(result, complete=turn.complete(bytes(utterance.tail), result.text))


def _close(utterance: _Utterance) -> None:
    with utterance.lock:
        utterance.closed = True
        utterance.session.close()
