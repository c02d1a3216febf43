"""``DispatcherPort`` over the named Ray actor: Ray's errors become the tree's."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from actors.clients import DISPATCHER
from voice_agent.admission import HostAddress
from voice_agent.errors import CapacityError


class RayDispatcher:
    """``DispatcherPort`` over the named actor."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._actor: Any = None

    async def claim(self, call_id: str) -> HostAddress:
        """See ``DispatcherPort``."""
        address: HostAddress = await self._ask("claim", call_id)
        return address

    async def replace(self, call_id: str, failed_host_id: str, reason: str = "") -> HostAddress:
        """See ``DispatcherPort``."""
        address: HostAddress = await self._ask("replace", call_id, failed_host_id, reason)
        return address

    async def release(self, call_id: str, reason: str) -> None:
        """See ``DispatcherPort``."""
        await self._ask("release", call_id, reason)

    async def took_over(self, reason: str, took_s: float) -> None:
        """See ``DispatcherPort``."""
        await self._ask("took_over", reason, took_s)

    async def register_gateway(self, gateway_id: str, media_url: str) -> None:
        """See ``DispatcherPort``."""
        await self._ask("register_gateway", gateway_id, media_url)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Errors the dispatcher raised come as they are: Ray makes them instances of their own class."""
        try:
            if self._actor is None:
                self._actor = ray.get_actor(DISPATCHER, namespace=self._namespace)
            return await getattr(self._actor, method).remote(*arguments)
        except RayTaskError:
            raise
        except (RayError, ValueError) as error:
            # A restarted actor keeps its handle; one that was made anew does not.
            if isinstance(error, RayActorError | ValueError):
                self._actor = None
            raise CapacityError(f"the dispatcher is away: {type(error).__name__}") from error
