"""Text to speech that falls back: an engine that wraps engines, judged by time and by sound."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from engines.ladder import Ladder, Rung, joint_capabilities, timed
from voice_agent.audio.g711 import mulaw_decode
from voice_agent.audio.levels import loud_frames
from voice_agent.errors import EngineFailedError, VoiceAgentError
from voice_agent.ports import Capabilities, SpeakRequest, SpeechChunk

BYTES_PER_S: Final = 8000
LOUD_DBFS: Final = -50.0
FRAME_SAMPLES: Final = 80
QUIET_BYTES: Final = 8 * 1000
"""Speech that is not loud within its first second is silence."""
LEAST_BYTES_PER_LETTER: Final = 8 * 8
LEAST_BYTES: Final = 8 * 100
"""Speech shorter than 8 ms a letter, up to 100 ms, is not of its text; the fastest voices take 40 ms a letter."""


class FallbackTextToSpeech:
    """Asks the first engine whose breaker is closed, and the next when it fails before anything was given.

    A fault is: an error; no audio within ``first_s``; audio ``behind_s`` behind its own playout; silence, or next to no
    audio, for text that has letters. Silence at the begin is held back until it is clear which it is. After audio was
    given a fault ends the stream: who plays it asks for the clause ``again``, and the last engine is asked first, since
    the replica that is asked then may know nothing of the fault. A skipped engine is probed by saying the same clause
    in the background.
    """

    def __init__(
        self,
        *,
        engines: Sequence[Mapping[str, Any]],
        first_s: float = 0.8,
        behind_s: float = 0.8,
        breaker: Mapping[str, float] | None = None,
    ) -> None:
        self.ladder = Ladder("tts", engines, breaker)
        self._first_s = first_s
        self._behind_s = behind_s

    @property
    def capabilities(self) -> Capabilities:
        """Those of the first engine; simulated when any is."""
        return joint_capabilities(self.ladder)

    @property
    def voices(self) -> tuple[str, ...]:
        """Voices of all engines; one that does not have a voice uses its own."""
        return tuple(dict.fromkeys(voice for rung in self.ladder.rungs for voice in rung.engine.voices))

    async def speak(self, request: SpeakRequest) -> AsyncIterator[SpeechChunk]:
        """Stream the clause; each chunk says which engine spoke it."""
        due = self.ladder.due()
        if due is not None:
            self.ladder.probe(due, self._whole(due, request))
        rungs = self.ladder.usable(cheap=request.cheap or request.again)
        for rung in rungs:
            given = False
            try:
                async with aclosing(self._judged(rung, request, in_time=rung is not rungs[-1])) as stream:
                    async for chunk in stream:
                        given = True
                        yield replace(chunk, engine=rung.name)
                self.ladder.succeeded(rung)
                return
            except VoiceAgentError as error:
                self.ladder.failed(rung, error)
                if given or rung is rungs[-1]:
                    raise

    async def _whole(self, rung: Rung, request: SpeakRequest) -> None:
        async with aclosing(self._judged(rung, request, in_time=True)) as stream:
            async for _ in stream:
                pass

    async def _judged(self, rung: Rung, request: SpeakRequest, *, in_time: bool) -> AsyncGenerator[SpeechChunk, None]:
        voice = request.voice if request.voice in rung.engine.voices else ""
        said_bytes = 0

        def patience_s(given: int, _: SpeechChunk | None, since_s: float) -> float | None:
            if not in_time:
                return None
            return max(0.0, said_bytes / BYTES_PER_S - since_s) + self._behind_s if given else self._first_s

        letters = sum(letter.isalnum() for letter in request.text)
        held: list[SpeechChunk] = []
        loud = letters == 0
        speech = rung.engine.speak(replace(request, voice=voice))
        async with aclosing(timed(speech, patience_s, "tts")) as stream:
            async for chunk in stream:
                said_bytes += len(chunk.audio)
                if not loud:
                    held.append(chunk)
                    loud = _is_loud(chunk.audio)
                    too_long = said_bytes >= QUIET_BYTES
                    if not loud and (too_long or chunk.last):
                        raise EngineFailedError("the tts engine gave silence for words")
                    if not loud:
                        continue
                    chunk, held = _joined(held), []
                if chunk.last and said_bytes < min(letters * LEAST_BYTES_PER_LETTER, LEAST_BYTES):
                    raise EngineFailedError("the tts engine gave next to nothing for words")
                yield chunk


def _is_loud(audio: bytes) -> bool:
    return bool(loud_frames(mulaw_decode(audio), FRAME_SAMPLES, LOUD_DBFS).any()) if audio else False


def _joined(chunks: Sequence[SpeechChunk]) -> SpeechChunk:
    if len(chunks) == 1:
        return chunks[0]
    return replace(chunks[-1], audio=b"".join(chunk.audio for chunk in chunks))
