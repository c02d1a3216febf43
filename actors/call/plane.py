"""The model plane as a call sees it: six awaitable methods, whatever serves them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

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


class ModelPlane(Protocol):
    """Requests to the engines of the cluster.

    Every method raises only ``VoiceAgentError`` (``retryable`` says whether another replica may do better) and, when
    its task is cancelled or its generator closed, cancels the request down to the engine.
    """

    @property
    def open_requests(self) -> int:
        """Requests and streams that are not over."""

    @property
    def stt_capabilities(self) -> Capabilities:
        """Of the speech-to-text engine; known once ``warm`` has returned."""

    @property
    def tool_specs(self) -> Mapping[str, ToolSpec]:
        """The tools there are, by name; known once ``warm`` has returned."""

    @property
    def load(self) -> float:
        """How busy the engines are, 0 idle to 1 at their limit."""

    def health(self) -> dict[str, Any]:
        """By stage: its engine, the one that answered last, uses of fallbacks, replicas that are avoided."""

    async def warm(self) -> None:
        """Connect to every stage with a real request, so that no caller pays for a cold handle.

        Raises:
            EngineUnavailableError: a stage does not answer.
        """

    async def transcribe(self, request: TranscribeRequest) -> TranscribeResponse:
        """Send audio of an utterance."""

    async def search(self, request: SearchRequest) -> SearchResponse:
        """Search the knowledge base."""

    def reply(self, request: ReplyRequest) -> AsyncGenerator[ReplyChunk, None]:
        """Stream a reply."""

    def speak(self, request: SpeakRequest) -> AsyncGenerator[SpeechChunk, None]:
        """Stream the speech of a clause."""

    async def run_tool(self, request: ToolRequest) -> Outcome:
        """Run a tool; asked again with the same key it gives the same outcome and does nothing."""
