"""Engines that misbehave on command, for tests and chaos: they wrap another and hang, trickle, fall silent or fail.

The fault is read at each request: from ``control_file`` if there is one (its text is the name of the fault, empty for
none), else from ``fault``. A file can be switched while calls go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from engines import registry
from voice_agent.errors import ConfigError, EngineFailedError
from voice_agent.ports import (
    Capabilities,
    ReplyChunk,
    ReplyRequest,
    SpeakRequest,
    SpeechChunk,
    SpeechToTextSession,
    TranscribeResponse,
)

FAULTS: Final = ("", "hang", "silence", "trickle", "slow_start", "error")
HANG_S: Final = 3600.0


class Fault:
    """What is wrong now. ``delay_s`` is the length of a slow start, and of each wait of a trickle."""

    def __init__(self, fault: str, control_file: str, delay_s: float) -> None:
        if fault not in FAULTS:
            raise ConfigError(f"There is no fault {fault!r}; allowed: {', '.join(FAULTS[1:])}, or empty for none.")
        self.delay_s = delay_s
        self._fault = fault
        self._control = Path(control_file) if control_file else None

    def now(self) -> str:
        """The fault, read afresh. A file that is not there or names no fault means none."""
        if self._control is None:
            return self._fault
        try:
            named = self._control.read_text(encoding="utf-8").strip()
        except OSError:
            return self._fault
        return named if named in FAULTS else ""

    async def begin(self) -> str:
        """Wait or fail as the fault says at the begin of a stream; returns it."""
        fault = self.now()
        if fault == "error":
            raise EngineFailedError("the engine fails on command")
        if fault in ("hang", "slow_start"):
            await asyncio.sleep(HANG_S if fault == "hang" else self.delay_s)
        return fault


class _Faulty:
    """The wrapped engine and its fault."""

    port = ""

    def __init__(
        self,
        *,
        engine: str = "simulated",
        options: Mapping[str, Any] | None = None,
        fault: str = "",
        control_file: str = "",
        delay_s: float = 3.0,
    ) -> None:
        self.inner = registry.load(self.port, engine, options)
        self.fault = Fault(fault, control_file, delay_s)

    @property
    def capabilities(self) -> Capabilities:
        """Those of the wrapped engine, under a name that says what this is."""
        capabilities: Capabilities = self.inner.capabilities
        return replace(capabilities, name="faulty", simulated=True)


class FaultyTextToSpeech(_Faulty):
    """Text to speech."""

    port = "tts"

    @property
    def voices(self) -> tuple[str, ...]:
        """Those of the wrapped engine."""
        voices: tuple[str, ...] = self.inner.voices
        return voices

    async def speak(self, request: SpeakRequest) -> AsyncIterator[SpeechChunk]:
        """Stream the clause, or what the fault leaves of it."""
        fault = await self.fault.begin()
        async with aclosing(self.inner.speak(request)) as stream:
            async for chunk in stream:
                silent = replace(chunk, audio=b"\xff" * len(chunk.audio))
                yield silent if fault == "silence" else chunk
                if fault == "trickle":
                    await asyncio.sleep(self.fault.delay_s)


class FaultyLanguageModel(_Faulty):
    """A language model."""

    port = "llm"

    async def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        """Stream the reply, or what the fault leaves of it."""
        fault = await self.fault.begin()
        if fault == "silence":
            yield ReplyChunk("  ", finish_reason="stop")
            return
        async with aclosing(self.inner.reply(request)) as stream:
            async for chunk in stream:
                yield chunk
                if fault == "trickle":
                    await asyncio.sleep(self.fault.delay_s)


class FaultySpeechToText(_Faulty):
    """Speech to text."""

    port = "stt"

    def open(self, *, call_id: str, utterance: int) -> FaultySession:
        """Start an utterance."""
        return FaultySession(self.inner.open(call_id=call_id, utterance=utterance), self.fault)

    def reload(self) -> None:
        """Pass it on."""
        self.inner.reload()


class FaultySession:
    """One utterance. The thread sleeps where it hangs, as a recogniser's would."""

    def __init__(self, inner: SpeechToTextSession, fault: Fault) -> None:
        self._inner = inner
        self._fault = fault

    def accept(self, audio: bytes) -> None:
        """Pass it on."""
        self._inner.accept(audio)

    def result(self, *, flush: bool) -> TranscribeResponse:
        """The text, or what the fault leaves of it."""
        fault = self._fault.now()
        if fault == "error":
            raise EngineFailedError("the engine fails on command")
        began_s = time.monotonic()
        while fault == "hang" and self._fault.now() == "hang" and time.monotonic() - began_s < HANG_S:
            time.sleep(0.05)  # looks up now and then, so that a hang may be ended
        if fault in ("slow_start", "trickle"):
            time.sleep(self._fault.delay_s)
        answer = self._inner.result(flush=flush)
        return replace(answer, text="", words=(), confidence=0.0) if fault == "silence" else answer

    def close(self) -> None:
        """Pass it on."""
        self._inner.close()
