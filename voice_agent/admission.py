"""What the dispatcher answers: plain records shared by the ingress, the gateways and the dispatcher."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Admission:
    """A call may come in. A slot is reserved; the token minted for it names ``gateway_id`` as its audience."""

    call_id: str
    gateway_id: str
    media_url: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """No room (or draining). ``reason`` is one of full, draining, no_gateway, not_ready."""

    call_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostAddress:
    """Where a call actor listens for the media link."""

    host_id: str
    host: str
    port: int
