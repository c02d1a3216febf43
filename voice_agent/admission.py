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
    """Not now. ``reason`` is one of queue, full, overloaded, draining, no_gateway, not_ready.

    ``queue`` asks the caller to wait and ask again after ``wait_s``; ``asked`` counts how often that was said before.
    """

    call_id: str
    reason: str
    wait_s: int = 0
    asked: int = 0


@dataclass(frozen=True, slots=True)
class HostAddress:
    """Where a call actor listens for the media link."""

    host_id: str
    host: str
    port: int
