"""Speech to text that falls back: an engine that wraps engines, judged by time and by loud speech without words."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Final

from engines.ladder import Ladder, Rung, joint_capabilities
from voice_agent.audio.g711 import mulaw_decode
from voice_agent.audio.levels import loud_frames
from voice_agent.errors import DeadlineExceededError, EngineFailedError, VoiceAgentError
from voice_agent.ports import Capabilities, SpeechToTextSession, TranscribeResponse

MAX_BYTES: Final = 10 * 60 * 8000
LOUD_DBFS: Final = -40.0
FRAME_SAMPLES: Final = 80
LOUD_MS: Final = 600
"""Loud sound for this long, and no word of it, is worth another engine's ear."""


class FallbackSpeechToText:
    """Utterances begin with the first engine whose breaker is closed; a fault moves them, with all audio, to the next.

    A fault is: an error; no answer within ``answer_s``; no words for loud sound of which the next engine hears words
    (if that hears none either it was no speech). Engines work on threads of their own, so that one that hangs holds up
    nobody else. A skipped engine is probed with a finished utterance, in the background.
    """

    def __init__(
        self,
        *,
        engines: Sequence[Mapping[str, Any]],
        answer_s: float = 1.0,
        breaker: Mapping[str, float] | None = None,
    ) -> None:
        self.ladder = Ladder("stt", engines, breaker)
        self.answer_s = answer_s
        self.lock = Lock()  # sessions run on several threads of the replica; the ladder is one
        self._pools = {
            rung.name: ThreadPoolExecutor(rung.engine.capabilities.parallel + 1, thread_name_prefix=f"stt-{rung.name}")
            for rung in self.ladder.rungs
        }

    @property
    def capabilities(self) -> Capabilities:
        """Those of the first engine; simulated when any is."""
        return joint_capabilities(self.ladder)

    def open(self, *, call_id: str, utterance: int) -> FallbackSession:
        """Start an utterance."""
        return FallbackSession(self, call_id, utterance)

    def reload(self) -> None:
        """Tell every engine."""
        for rung in self.ladder.rungs:
            rung.engine.reload()

    def submit(self, rung: Rung, work: Callable[[], TranscribeResponse]) -> Future[TranscribeResponse]:
        """Run on a thread of that engine."""
        return self._pools[rung.name].submit(work)


@dataclass(slots=True)
class _Hearing:
    """A session of one engine and how much of the utterance it was given."""

    rung: Rung
    session: SpeechToTextSession
    given: int = 0

    def work(self, audio: bytes, *, flush: bool) -> TranscribeResponse:
        self.session.accept(audio)
        return self.session.result(flush=flush)


class FallbackSession:
    """One utterance."""

    def __init__(self, engine: FallbackSpeechToText, call_id: str, utterance: int) -> None:
        self._engine = engine
        self._key = {"call_id": call_id, "utterance": utterance}
        self._audio = bytearray()
        self._loud_ms = 0
        self._hearing: _Hearing | None = None

    def accept(self, audio: bytes) -> None:
        """Keep the audio; the engine gets it with the next question."""
        self._audio += audio[: MAX_BYTES - len(self._audio)]
        self._loud_ms += 10 * int(loud_frames(mulaw_decode(audio), FRAME_SAMPLES, LOUD_DBFS).sum())

    def result(self, *, flush: bool) -> TranscribeResponse:
        """The text so far, and which engine heard it."""
        engine = self._engine
        with engine.lock:
            due = engine.ladder.due() if flush else None
            rungs = engine.ladder.usable()
        if self._hearing is not None and self._hearing.rung in rungs:
            rungs = rungs[rungs.index(self._hearing.rung) :]
        empty: TranscribeResponse | None = None
        for rung in rungs:
            try:
                answer = self._ask(rung, flush=flush, doubted=empty is not None)
            except VoiceAgentError as error:
                with engine.lock:
                    engine.ladder.failed(rung, error)
                if rung.last and empty is None:
                    raise
                continue
            if due is not None and answer.text:
                self._probe(due)
            if flush and not answer.text and self._loud_ms >= LOUD_MS and not rung.last and empty is None:
                empty = answer
                continue
            if empty is not None and not answer.text:
                return empty
            self._told(rung, heard_more=empty is not None, rungs=rungs)
            return answer
        return empty or TranscribeResponse(flushed=flush)

    def _told(self, rung: Rung, *, heard_more: bool, rungs: Sequence[Rung]) -> None:
        ladder = self._engine.ladder
        with self._engine.lock:
            if heard_more:
                deaf = rungs[rungs.index(rung) - 1]
                ladder.failed(deaf, EngineFailedError("the stt engine heard no word in loud speech"))
            ladder.succeeded(rung)

    def _ask(self, rung: Rung, *, flush: bool, doubted: bool) -> TranscribeResponse:
        """One engine's answer.

        Raises:
            DeadlineExceededError: not in time; the session is left to its thread.
        """
        hearing = self._hearing
        if hearing is None or hearing.rung is not rung:
            hearing = _Hearing(rung, rung.engine.open(**self._key))
        audio = bytes(self._audio[hearing.given :])
        hearing.given = len(self._audio)
        answer = self._within(hearing, audio, flush=flush)
        if self._hearing is not hearing and (not doubted or answer.text):
            if self._hearing is not None:
                self._hearing.session.close()
            self._hearing = hearing
        elif self._hearing is not hearing:
            hearing.session.close()
        return replace(answer, engine=rung.name)

    def _within(self, hearing: _Hearing, audio: bytes, *, flush: bool) -> TranscribeResponse:
        limit_s = None if hearing.rung.last else self._engine.answer_s
        future = self._engine.submit(hearing.rung, lambda: hearing.work(audio, flush=flush))
        try:
            return future.result(limit_s)
        except FutureTimeoutError:
            if self._hearing is hearing:
                self._hearing = None
            future.add_done_callback(lambda _: hearing.session.close())
            raise DeadlineExceededError("the stt engine gave no answer in time") from None
        except VoiceAgentError:
            self._give_up(hearing)
            raise
        except Exception as error:  # the border to an engine of any library
            self._give_up(hearing)
            raise EngineFailedError(f"the stt engine failed: {type(error).__name__}: {error}") from error

    def _give_up(self, hearing: _Hearing) -> None:
        if self._hearing is hearing:
            self._hearing = None
        hearing.session.close()

    def _probe(self, rung: Rung) -> None:
        """Let a skipped engine hear an utterance in which another has found words."""
        engine, audio, began_s = self._engine, bytes(self._audio), time.monotonic()
        hearing = _Hearing(rung, rung.engine.open(**self._key))

        def over(future: Future[TranscribeResponse]) -> None:
            hearing.session.close()
            error = future.exception()
            well = error is None and bool(future.result().text) and time.monotonic() - began_s <= engine.answer_s
            with engine.lock:
                if well:
                    engine.ladder.succeeded(rung, probe=True)
                else:
                    engine.ladder.failed(rung, EngineFailedError("the stt engine failed its probe"), probe=True)

        engine.submit(rung, lambda: hearing.work(audio, flush=True)).add_done_callback(over)

    def close(self) -> None:
        """Free the session. Idempotent."""
        if self._hearing is not None:
            self._hearing.session.close()
            self._hearing = None
