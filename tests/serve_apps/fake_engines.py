"""Engines under the control of a test, loaded by name through the registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from queue import SimpleQueue
from threading import Event
from typing import Any, ClassVar

from voice_agent.ports import (
    Capabilities,
    ReplyChunk,
    ReplyRequest,
    SpeakRequest,
    SpeechChunk,
    TranscribeResponse,
)


class CountingStt:
    """Says how many samples it has taken; audio that begins with ``!`` makes it fail."""

    made: ClassVar[list[CountingStt]] = []

    def __init__(self, *, parallel: int = 1) -> None:
        self.capabilities = Capabilities(name="counting", version="1", parallel=parallel)
        self.sessions: list[CountingSession] = []
        self.reloads = 0
        self.closings: SimpleQueue[None] = SimpleQueue()
        self.go_on = Event()
        self.go_on.set()
        self.begun = Event()
        self.made.append(self)

    def open(self, *, call_id: str, utterance: int) -> CountingSession:
        self.sessions.append(CountingSession(self))
        return self.sessions[-1]

    def reload(self) -> None:
        self.reloads += 1


class CountingSession:
    def __init__(self, engine: CountingStt) -> None:
        self._engine = engine
        self.heard = b""
        self.pieces: list[int] = []
        self.closed = 0

    def accept(self, audio: bytes) -> None:
        assert not self.closed
        self._engine.begun.set()
        self._engine.go_on.wait(20)
        if audio.startswith(b"!"):
            raise ZeroDivisionError("the model broke")
        self.heard += audio
        self.pieces.append(len(audio))

    def result(self, *, flush: bool) -> TranscribeResponse:
        return TranscribeResponse(text=self.heard.decode(), flushed=flush)

    def close(self) -> None:
        self.closed += 1
        self._engine.closings.put(None)


class EndlessLlm:
    """Streams until it is closed, unless the caller says what is to go wrong."""

    closed: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.capabilities = Capabilities(name="endless", version="1")

    async def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        try:
            while True:
                yield ReplyChunk(text="word ")
                if request.messages[-1].content == "break":
                    raise ZeroDivisionError("the model broke")
                await asyncio.sleep(0.001)
        finally:
            self.closed.append(request.call_id)


class CountedTts:
    """Two chunks of audio a clause; counts what it is asked for. ``mute``: texts that it gives silence for."""

    asked: ClassVar[list[tuple[str, str]]] = []
    closed: ClassVar[list[str]] = []
    mute: ClassVar[set[str]] = set()

    def __init__(self, *, simulated: bool = False) -> None:
        self.capabilities = Capabilities(name="counted", version="1", simulated=simulated)
        self.voices = ("ann", "bob")

    async def speak(self, request: SpeakRequest) -> AsyncIterator[SpeechChunk]:
        self.asked.append((request.voice, request.text))
        try:
            yield SpeechChunk(audio=b"\xff" * 16_000 if request.text in self.mute else bytes(800))
            await asyncio.sleep(0)
            yield SpeechChunk(audio=request.text.encode(), last=True, word_ends_ms=(1,))
        finally:
            self.closed.append(request.text)


NAMES: dict[str, dict[str, Any]] = {
    "stt": {"counting": CountingStt},
    "llm": {"endless": EndlessLlm},
    "tts": {"counted": CountedTts},
}
