"""One utterance on its way to the recogniser: all its audio, how much was sent, one request in flight."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from actors.call.jobs import answer_of
from actors.call.plane import ModelPlane
from voice_agent.dialog.events import Event, JobFailed, TranscriptReady
from voice_agent.errors import EngineFailedError, VoiceAgentError
from voice_agent.ports import TranscribeRequest, TranscribeResponse

logger = logging.getLogger(__name__)

MAX_UTTERANCE_BYTES: Final = 10 * 60 * 8000
"""Audio kept of one utterance, ten minutes; more is dropped and said so."""

MAX_WAITING_PAUSES: Final = 64
REPLAYS: Final = 3
SAMPLES_PER_MS: Final = 8
FORGET_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class UtteranceLink:
    """What an utterance needs of its call. ``emit`` takes an event for the dialog."""

    call_id: str
    epoch: int
    traceparent: str
    plane: ModelPlane
    patience_s: float
    emit: Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class _Pause:
    number: int
    asked_at_s: float
    flush: bool


class Utterance:
    """Audio from sample 0, so that it can be sent again whole to a replica that does not know it.

    ``run`` is the one task of the utterance; it sleeps until there is something to send. A pause that is asked for
    while a request is in flight waits for it; several waiting pauses are answered by one request.
    """

    def __init__(self, number: int, link: UtteranceLink) -> None:
        self.number = number
        self._link = link
        self._audio = bytearray()
        self._sent = 0
        self._touched = False
        self._pauses: deque[_Pause] = deque()
        self._wake = asyncio.Event()
        self._partial_text = ""
        self._partials = link.plane.stt_capabilities.push_interval_ms > 0
        self._push_bytes = link.plane.stt_capabilities.push_interval_ms * SAMPLES_PER_MS

    def add(self, offset: int, audio: bytes) -> None:
        """Take audio whose first sample is ``offset`` in the utterance; what is known already is skipped."""
        if offset > len(self._audio):
            # The link is ordered, so a hole means the gateway dropped it; silence keeps the time axis true.
            logger.warning("hole in caller audio", extra={"call_id": self._link.call_id, "utterance": self.number})
            self._audio += b"\xff" * (min(offset, MAX_UTTERANCE_BYTES) - len(self._audio))
        fresh = audio[len(self._audio) - offset :] if offset < len(self._audio) else audio
        room = MAX_UTTERANCE_BYTES - len(self._audio)
        if len(fresh) > room:
            logger.warning("utterance too long", extra={"call_id": self._link.call_id, "utterance": self.number})
        self._audio += fresh[: max(room, 0)]
        if self._due():
            self._wake.set()

    def ask(self, pause: int, *, flush: bool) -> None:
        """Ask for the text; ``flush``: with all audio up to now accounted for."""
        if len(self._pauses) >= MAX_WAITING_PAUSES:
            self._fail(self._pauses.popleft().number, "overrun")
        self._pauses.append(_Pause(pause, asyncio.get_running_loop().time(), flush))
        self._wake.set()

    async def run(self) -> None:
        """Send what is due, for ever; ends by cancellation when the utterance is closed."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due():
                await self._round()

    async def forget(self) -> None:
        """Tell the replica that the utterance is over. Best effort: replicas drop idle sessions by themselves too."""
        if not self._touched:
            return
        request = self._request(self._sent, b"", flush=False, end=True)
        try:
            await answer_of(lambda: self._link.plane.transcribe(request), asyncio.get_running_loop().time() + FORGET_S)
        except VoiceAgentError as error:
            logger.info("recogniser not told of the end", extra={"call_id": self._link.call_id, "code": error.code})

    def _due(self) -> bool:
        return bool(self._pauses) or (self._partials and len(self._audio) - self._sent >= self._push_bytes)

    async def _round(self) -> None:
        """One request and what comes of it."""
        pauses = tuple(self._pauses)
        self._pauses.clear()
        since_s = pauses[0].asked_at_s if pauses else asyncio.get_running_loop().time()
        try:
            response = await self._exchange(since_s + self._link.patience_s, flush=any(pause.flush for pause in pauses))
        except VoiceAgentError as error:
            # What the replica took in is unknown: the next request starts the utterance afresh.
            self._sent = 0
            self._partials = False
            logger.warning("transcription failed", extra={"call_id": self._link.call_id, "code": error.code})
            for pause in pauses:
                self._fail(pause.number, error.code)
            return
        for pause in pauses:
            self._emit_text(response, pause.number, flushed=pause.flush)
        if not pauses and response.text != self._partial_text:
            self._partial_text = response.text
            self._emit_text(response, 0, flushed=False)

    async def _exchange(self, give_up_at_s: float, *, flush: bool) -> TranscribeResponse:
        """Send what is outstanding, again from where the replica asks, until it has taken all."""
        end = len(self._audio)
        for _ in range(1 + REPLAYS):
            response = await answer_of(lambda: self._attempt(end, flush), give_up_at_s)
            if response.need_from is None:
                self._sent = end
                return response
            self._sent = min(max(response.need_from, 0), end)
        raise EngineFailedError("the recogniser asks for the same audio again and again")

    async def _attempt(self, end: int, flush: bool) -> TranscribeResponse:
        request = self._request(self._sent, bytes(self._audio[self._sent : end]), flush=flush, end=False)
        self._touched = True
        try:
            return await self._link.plane.transcribe(request)
        except VoiceAgentError:
            self._sent = 0
            raise

    def _request(self, offset: int, audio: bytes, *, flush: bool, end: bool) -> TranscribeRequest:
        link = self._link
        return TranscribeRequest(
            call_id=link.call_id,
            utterance=self.number,
            offset_samples=offset,
            audio=audio,
            flush=flush,
            end=end,
            epoch=link.epoch,
            traceparent=link.traceparent,
        )

    def _emit_text(self, response: TranscribeResponse, pause: int, *, flushed: bool) -> None:
        self._link.emit(
            TranscriptReady(
                utterance=self.number,
                pause=pause,
                text=response.text,
                confidence=response.confidence,
                flushed=flushed,
                complete=response.complete if flushed else None,
                engine=response.engine,
            )
        )

    def _fail(self, pause: int, code: str) -> None:
        self._link.emit(JobFailed(stage="transcribe", turn=self.number, key=pause, code=code))
