"""Text to speech that falls back: an engine that wraps engines, judged by time and by sound."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from engines.ladder import Ladder, Rung, joint_capabilities, timed
from engines.listening import listened
from voice_agent.errors import VoiceAgentError
from voice_agent.ports import Capabilities, SpeakRequest, SpeechChunk

BYTES_PER_S: Final = 8000


class FallbackTextToSpeech:
    """Asks the first engine whose breaker is closed, and the next when it fails before anything was given.

    A fault is: an error; no audio within ``first_s``; audio ``behind_s`` behind its own playout; silence, or next to no
    audio, for text that has letters (``engines.listening``). After audio was given a fault ends the stream: who plays
    it asks for the clause ``again``, and the last engine is asked first, since the replica that is asked then may know
    nothing of the fault. A skipped engine is probed by saying the same clause in the background.
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

        def patience_s(given: int, last: SpeechChunk | None, since_s: float) -> float | None:
            nonlocal said_bytes
            said_bytes += len(last.audio) if last is not None else 0
            if not in_time:
                return None
            return max(0.0, said_bytes / BYTES_PER_S - since_s) + self._behind_s if given else self._first_s

        speech = timed(rung.engine.speak(replace(request, voice=voice)), patience_s, "tts")
        async with aclosing(listened(speech, request.text)) as stream:
            async for chunk in stream:
                yield chunk
