"""What the calls of a gateway share, and what is counted of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.gateway.dispatcher_port import DispatcherPort
from actors.gateway.host_links import HostLinks
from actors.gateway.pulse import Pulse
from actors.gateway.takeover import TakeOver
from actors.gateway.vad_batch import VadBatch
from configs.settings import MediaSettings

if TYPE_CHECKING:
    from actors.gateway.gateway_call import GatewayCall


@dataclass(frozen=True, slots=True)
class CallServices:
    """What the calls of a gateway share."""

    media: MediaSettings
    dispatcher: DispatcherPort
    links: HostLinks
    vad: VadBatch
    pulse: Pulse
    over: Callable[[GatewayCall], None]
    moved: Callable[[TakeOver], None]


@dataclass(slots=True)
class CallCounters:
    """What happened in a call.

    ``missing`` counts sequence numbers never seen, ``malformed`` messages that broke the protocol, ``out_of_order``
    media dropped because it came twice or late.
    """

    frames: int = 0
    missing: int = 0
    malformed: int = 0
    out_of_order: int = 0
    takeovers: int = 0
    moves: int = 0
    stale_messages: int = 0
    refused_plays: int = 0
    events: int = 0
    uploads: int = 0
    holds_by_voice: int = 0
    snapshots: int = 0
