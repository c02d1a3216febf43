"""The dispatcher as a gateway uses it."""

from __future__ import annotations

from typing import Protocol

from voice_agent.admission import HostAddress


class DispatcherPort(Protocol):
    """What a gateway asks the dispatcher."""

    async def claim(self, call_id: str) -> HostAddress:
        """Where a call lives, now that its stream is there.

        Raises:
            CapacityError: no call actor has room, or the dispatcher is away for the moment.
        """

    async def replace(self, call_id: str, failed_host_id: str, reason: str = "") -> HostAddress:
        """Another host for a call whose host was lost, or refused it for ``reason``.

        Raises:
            CapacityError: no spare is free, or the dispatcher is away for the moment.
            ProtocolError: the call is not live.
        """

    async def release(self, call_id: str, reason: str) -> None:
        """The call is over.

        Raises:
            CapacityError: the dispatcher is away for the moment.
        """

    async def took_over(self, reason: str, took_s: float) -> None:
        """A call that had lost its actor for ``reason`` is listened to by the next one, ``took_s`` after the loss.

        Raises:
            CapacityError: the dispatcher is away for the moment.
        """

    async def register_gateway(self, gateway_id: str, media_url: str) -> None:
        """The gateway is up.

        Raises:
            CapacityError: the dispatcher is away for the moment.
        """
