"""What the ingress needs of the rest of the stack, as Protocols: Ray actors and handles in a stack, fakes in tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from storage.calls import CallFilter, CallPage, CarrierEvent
from voice_agent.admission import Admission, Refusal
from voice_agent.errors import VoiceAgentError
from voice_agent.ports import ReplyChunk, ReplyRequest, SearchRequest, SearchResponse


class UnreachableError(VoiceAgentError):
    """A part of the stack does not answer."""

    code = "unreachable"
    retryable = True


class DispatcherPort(Protocol):
    """The dispatcher. Every method raises ``UnreachableError`` when it does not answer in time."""

    async def admit(self, call_id: str, caller_pii: str, called: str) -> Admission | Refusal:
        """Reserve a slot; asked again for the same call it answers for the same call."""

    async def call_state(self, call_id: str) -> str:
        """unknown, reserved, live, lost, or ended:<reason>."""

    async def release(self, call_id: str, reason: str) -> None:
        """Give a slot back."""

    async def status(self) -> dict[str, Any]:
        """Counts, gateways, hosts."""


class GatewaysPort(Protocol):
    """The media gateways."""

    async def status(self, gateway_ids: Iterable[str]) -> dict[str, Any]:
        """What each of them says of itself; ``error`` and ``message`` for one that does not answer in time."""


class JournalPort(Protocol):
    """The journal. Every method raises ``UnreachableError`` when it does not answer in time."""

    async def events(self, call_id: str, entries: list[dict[str, Any]]) -> None:
        """Append to a call's event log."""

    async def live_events(self, call_id: str, after: int) -> list[dict[str, Any]]:
        """The tail of a call's event log that is kept in memory."""

    async def status(self) -> dict[str, Any]:
        """Counters."""


class CallStore(Protocol):
    """Calls in Postgres; ``storage.calls.CallRepository``. Raises ``StorageError``."""

    async def list_calls(self, wanted: CallFilter | None = None, *, limit: int = 50, cursor: str = "") -> CallPage:
        """A page of calls, newest first."""

    async def get_call(self, call_id: str) -> dict[str, Any] | None:
        """A call with its turns."""

    async def add_carrier_event(self, event: CarrierEvent) -> bool:
        """Keep a status callback; False when it is kept already."""

    async def ping(self) -> None:
        """Whether Postgres answers."""


class StagesPort(Protocol):
    """The model plane, as far as the ingress uses it. Raises ``UnreachableError`` or the stage's own error."""

    async def health(self) -> Mapping[str, str]:
        """What is wrong with each stage, by name; empty text when nothing is."""

    async def engines(self) -> dict[str, list[dict[str, Any]]]:
        """By stage, of each replica that has a fallback: its engines with their breakers."""

    async def search(self, request: SearchRequest) -> SearchResponse:
        """Passages for a question."""

    def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        """The language model's answer."""

    async def ingest(self, paths: list[str]) -> dict[str, Any]:
        """Bring documents into the knowledge base."""

    async def documents(self) -> list[dict[str, Any]]:
        """What the knowledge base holds."""

    async def remove(self, source: str) -> dict[str, Any]:
        """Take a document out."""

    async def reload_vocabulary(self) -> int:
        """Tell every replica of the recogniser to take the new vocabulary; returns how many did."""


@dataclass(frozen=True, slots=True)
class Backends:
    """Everything behind the ingress."""

    dispatcher: DispatcherPort
    journal: JournalPort
    gateways: GatewaysPort
    calls: CallStore
    stages: StagesPort
