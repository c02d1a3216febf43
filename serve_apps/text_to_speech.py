"""TextToSpeech: streams speech, keeps what is said often, and stops the engine when nobody listens any more."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from engines import registry
from engines.listening import listened
from serve_apps.gather import gathered_speech
from serve_apps.replica import engines_of, guarded
from voice_agent.ports import Capabilities, SpeakRequest, SpeechChunk, TextToSpeechEngine

logger = logging.getLogger(__name__)


class TextToSpeech:
    """The deployment. Prompts said before come from a cache of at most ``cache_bytes``, least recently used out first.

    ``voice`` is used where a request names none; an engine without it uses its own default.
    Simulated speech is never cached: a cache would change the latency profile it stands for.
    """

    def __init__(
        self,
        engine: str,
        options: Mapping[str, Any] | None = None,
        *,
        voice: str = "",
        cache_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._engine: TextToSpeechEngine = registry.load("tts", engine, options)
        self._voice = self._known(voice)
        self._cache = _SpeechCache(0 if self._engine.capabilities.simulated else cache_bytes)

    async def capabilities(self) -> Capabilities:
        """What the engine can do; ``name`` is the engine that ``auto`` became."""
        return self._engine.capabilities

    async def engines(self) -> dict[str, dict[str, Any]]:
        """The engines of this replica, where it has a fallback: breaker, uses, faults."""
        return engines_of(self._engine)

    async def voices(self) -> tuple[str, ...]:
        """Names accepted in ``SpeakRequest.voice``."""
        return self._engine.voices

    async def speak(self, request: SpeakRequest) -> AsyncIterator[SpeechChunk]:
        """Stream the clause; the last chunk has ``last`` set.

        Raises:
            EngineFailedError: the engine failed, or gave silence for words.
        """
        key = (request.voice or self._voice, request.text)
        cached = self._cache.get(key)
        if cached is not None:
            for chunk in cached:
                yield chunk
            return
        said: list[SpeechChunk] = []
        spoken = replace(request, voice=key[0])
        chunks = guarded(listened(self._engine.speak(spoken), request.text), "tts", request.call_id)
        async with aclosing(gathered_speech(chunks, request.ahead_ms / 1000)) as stream:
            async for chunk in stream:
                said.append(chunk)
                # A fallback's voice is not kept: the engine that is meant to speak comes back.
                if chunk.last and chunk.engine in ("", self._engine.capabilities.name):
                    self._cache.put(key, tuple(said))
                yield chunk

    def _known(self, voice: str) -> str:
        """The voice if the engine has it, else empty for the engine's default; told once, at start."""
        if not voice or voice in self._engine.voices:
            return voice
        fields = {"engine": self._engine.capabilities.name, "voice": voice, "voices": self._engine.voices}
        logger.warning("voice is not known", extra=fields)
        return ""


class _SpeechCache:
    """Whole clauses by voice and text, bounded in bytes of audio."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._clauses: OrderedDict[tuple[str, str], tuple[SpeechChunk, ...]] = OrderedDict()

    def get(self, key: tuple[str, str]) -> tuple[SpeechChunk, ...] | None:
        clause = self._clauses.get(key)
        if clause is not None:
            self._clauses.move_to_end(key)
        return clause

    def put(self, key: tuple[str, str], clause: tuple[SpeechChunk, ...]) -> None:
        size = _size(clause)
        # One clause may take an eighth at most: a long text is seldom said twice.
        if size > self._limit_bytes // 8:
            return
        self._bytes += size - _size(self._clauses.pop(key, ()))
        self._clauses[key] = clause
        while self._bytes > self._limit_bytes:
            _, oldest = self._clauses.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(clause: tuple[SpeechChunk, ...]) -> int:
    return sum(len(chunk.audio) for chunk in clause)
