"""``Cluster`` on Ray: call actors as named, detached actors that Ray does not restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from actors.call.actor import CallActor
from actors.clients import GATEWAY_PREFIX, HOST_PREFIX, RayJournal
from actors.dispatch.pool import HostClient, HostGoneError
from configs.logs import logging_at_start
from configs.runtime import StackContext
from voice_agent.admission import HostAddress
from voice_agent.errors import CapacityError, StorageError, VoiceAgentError

logger = logging.getLogger(__name__)

HAS_CALL_S = 0.5
"""A carrier waits for this answer, and has just lost a stream there."""
GATEWAY_S = 2.0
"""A gateway that is silent for this long gets no calls until it answers again."""
MOVE_S = 8.0
"""A gateway gives the other actor less time than this to say that it has the call."""
CALL_SLOT = "call_slot"
"""Custom resource that keeps a node with calls from being judged idle; used where the cluster declares it."""


async def answer(call: Awaitable[Any]) -> Any:
    """Result of an actor call.

    Raises:
        HostGoneError: the actor is dead.
        CapacityError: it does not answer now, or failed.
        VoiceAgentError: what the method raised.
    """
    try:
        return await call
    except ActorUnavailableError as error:
        raise CapacityError("the actor does not answer now") from error
    except RayActorError as error:
        raise HostGoneError("the actor is dead") from error
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, VoiceAgentError):
            raise cause from error
        raise CapacityError(f"the actor failed: {type(cause).__name__}: {cause}") from error
    except RayError as error:
        raise CapacityError(f"the actor call failed: {type(error).__name__}") from error


class RayHost:
    """``HostClient`` over an actor handle."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def start(self) -> HostAddress:
        """Make it ready."""
        address: HostAddress = await answer(self._actor.start.remote())
        return address

    async def status(self) -> dict[str, Any]:
        """How it is."""
        status: dict[str, Any] = await answer(self._actor.status.remote())
        return status

    async def context(self) -> StackContext:
        """What it was made from."""
        context: StackContext = await answer(self._actor.context.remote())
        return context

    async def await_turn(self, call_id: str, within_s: float) -> bool:
        """Wait until a call is between two turns."""
        between: bool = await answer(self._actor.await_turn.remote(call_id, within_s))
        return between

    async def overload(self, level: int) -> None:
        """Tell it. An actor of older code may not know the word, and goes on as before."""
        method = getattr(self._actor, "overload", None)
        if method is not None:
            await answer(method.remote(level))

    async def stop(self) -> None:
        """Let go of all calls."""
        await answer(self._actor.stop.remote())


class RayCluster:
    """Hosts and gateways are found by name in the stack's namespace."""

    def __init__(self, context: StackContext) -> None:
        self._namespace = context.settings.ray.namespace
        self._journal = RayJournal(self._namespace)

    async def create_host(self, host_id: str, context: StackContext) -> HostClient:
        """Start the process of a call actor; it imports the code of the context's package, where that names one.

        Raises:
            CapacityError: the name is taken.
        """
        return await asyncio.to_thread(self._create, host_id, context)

    def _create(self, host_id: str, context: StackContext) -> HostClient:
        calls = context.settings.calls
        declared = ray.cluster_resources()  # type: ignore[no-untyped-call]
        slots = {CALL_SLOT: calls.calls_per_actor} if CALL_SLOT in declared else {}
        try:
            actor = (
                ray.remote(logging_at_start(CallActor, context.settings.telemetry.log_level))
                .options(
                    name=host_id,
                    namespace=self._namespace,
                    lifetime="detached",
                    num_cpus=calls.num_cpus,
                    resources=slots,
                    max_restarts=0,
                    runtime_env={"working_dir": context.code.package} if context.code.package else None,
                    scheduling_strategy="SPREAD",
                )
                .remote(context, host_id)
            )
        except ValueError as error:
            raise CapacityError(f"call actor {host_id} cannot be created: {error}") from error
        return RayHost(actor)

    async def hosts(self) -> dict[str, HostClient]:
        """Call actors that are alive."""
        names = await asyncio.to_thread(self._names, HOST_PREFIX)
        found: dict[str, HostClient] = {}
        for name in names:
            try:
                found[name] = RayHost(ray.get_actor(name, namespace=self._namespace))
            except ValueError:
                continue  # it died between the two questions
        return found

    async def destroy_host(self, host_id: str) -> None:
        """End the process of a call actor."""
        try:
            ray.kill(ray.get_actor(host_id, namespace=self._namespace))
        except (ValueError, RayActorError):
            return  # it is gone already

    async def gateways(self) -> dict[str, str]:
        """Media URLs of the gateways that are alive; a gateway's id is its actor's name."""
        names = await asyncio.to_thread(self._names, GATEWAY_PREFIX)
        urls = await asyncio.gather(*(self._url(name) for name in names))
        return {name: url for name, url in zip(names, urls, strict=True) if url is not None}

    async def _url(self, gateway_id: str) -> str | None:
        """None when it is dead or being restarted, empty when it is only slow."""
        try:
            return str(await self._ask_gateway(gateway_id, "media_url"))
        except TimeoutError:
            return ""
        except (ValueError, VoiceAgentError):
            return None

    async def has_call(self, gateway_id: str, call_id: str) -> bool | None:
        """Ask the gateway."""
        held: bool | None = await self._of_gateway(gateway_id, "has_call", call_id, within_s=HAS_CALL_S)
        return held

    async def gateway_lag_ms(self, gateway_id: str) -> float | None:
        """Ask the gateway. No caller waits for this, and the later it wakes the longer it takes to say so."""
        lag_ms: float | None = await self._of_gateway(gateway_id, "recent_lag_ms")
        return lag_ms

    async def move_call(self, gateway_id: str, call_id: str, address: HostAddress) -> str:
        """Ask the gateway."""
        return await self._of_gateway(gateway_id, "move_call", call_id, address, within_s=MOVE_S) or ""

    async def _of_gateway(self, gateway_id: str, method: str, *arguments: Any, within_s: float = GATEWAY_S) -> Any:
        """None when the gateway is not there, is being restarted or does not answer."""
        try:
            return await self._ask_gateway(gateway_id, method, *arguments, within_s=within_s)
        except (ValueError, TimeoutError, VoiceAgentError) as error:
            logger.info("gateway does not answer", extra={"gateway_id": gateway_id, "reason": type(error).__name__})
            return None

    async def _ask_gateway(self, gateway_id: str, method: str, *arguments: Any, within_s: float = GATEWAY_S) -> Any:
        async with asyncio.timeout(within_s):
            actor = await asyncio.to_thread(ray.get_actor, gateway_id, self._namespace)
            return await answer(getattr(actor, method).remote(*arguments))

    async def report(self, status: dict[str, Any]) -> None:
        """Tell the journal."""
        try:
            await self._journal.cluster_status(status)
        except StorageError as error:
            logger.info("journal away, gauges stand still", extra={"reason": error.message})

    async def report_lost(self, call_id: str, reason: str) -> None:
        """Tell the journal."""
        try:
            await self._journal.call_lost(call_id, reason)
        except StorageError as error:
            logger.warning("lost call not recorded", extra={"call_id": call_id, "reason": error.message})

    async def report_take_over(self, reason: str, took_s: float) -> None:
        """Tell the journal."""
        try:
            await self._journal.take_over(reason, took_s)
        except StorageError as error:
            logger.info("journal away, take-over not counted", extra={"reason": error.message})

    def _names(self, prefix: str) -> list[str]:
        actors = ray.util.list_named_actors(all_namespaces=True)
        return [
            str(actor["name"])
            for actor in actors
            if actor["namespace"] == self._namespace and actor["name"].startswith(prefix)
        ]
