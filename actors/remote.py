"""The edge to Ray: plain classes become named, detached actors here, and only here and in ``ray_cluster``."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.booting import self_starting
from actors.clients import DISPATCHER, GATEWAY_PREFIX, HOST_PREFIX, JOURNAL
from actors.dispatch.dispatcher import Dispatcher
from actors.gateway.gateway import MediaGateway
from actors.journal.journal import Journal
from configs.runtime import StackContext
from voice_agent.errors import CapacityError

logger = logging.getLogger(__name__)

SYSTEM_CPUS: Final = 0.2
"""Logical CPUs of each of the three; they only keep Ray from packing a node too full."""


@dataclass(frozen=True, slots=True)
class StackActors:
    """Handles of the long-lived actors of a stack. Call actors belong to the dispatcher."""

    journal: Any
    dispatcher: Any
    gateways: tuple[Any, ...]
    namespace: str

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until records are kept, the pool is full and carriers can connect. Blocking.

        Raises:
            GetTimeoutError: an actor did not start in time.
            RayError: an actor failed to start.
            CapacityError: the pool did not fill in time.
        """
        give_up_at_s = time.monotonic() + timeout_s
        ray.get(self.journal.start.remote(), timeout=timeout_s)
        filling = self.dispatcher.ready.remote(timeout_s)
        ray.get([gateway.start.remote() for gateway in self.gateways], timeout=timeout_s)
        if not ray.get(filling, timeout=max(0.0, give_up_at_s - time.monotonic()) + 5.0):
            status = ray.get(self.dispatcher.status.remote(), timeout=5.0)
            raise CapacityError(
                f"{len(status['hosts'])} of {status['hosts_wanted']} call actors are up after {timeout_s:.0f} s; "
                "lower calls.max_calls or give the cluster more CPUs"
            )

    def stop(self, timeout_s: float) -> None:
        """End calls, then the pool, then let records be written; each has ``timeout_s``. Blocking; never raises."""
        for name, group in (
            (GATEWAY_PREFIX, self.gateways),
            (DISPATCHER, (self.dispatcher,)),
            (JOURNAL, (self.journal,)),
        ):
            try:
                ray.get([actor.stop.remote() for actor in group], timeout=timeout_s)
            except (GetTimeoutError, RayError) as error:
                logger.warning("actor did not stop by itself", extra={"actor": name, "reason": type(error).__name__})
        kill_named(self.namespace)


def create(context: StackContext) -> StackActors:
    """Create the actors and return at once; ``wait_ready`` waits. Ray must be connected.

    Raises:
        ValueError: another stack runs in this namespace.
    """
    node = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    names = [gateway_name(node, slot) for slot in range(context.settings.media.gateways)]
    return StackActors(
        journal=_named(Journal, JOURNAL, context).remote(context),
        dispatcher=_named(Dispatcher, DISPATCHER, context).remote(context),
        gateways=tuple(
            _named(MediaGateway, name, context, scheduling_strategy=here).remote(context, name, None, slot)
            for slot, name in enumerate(names)
        ),
        namespace=context.settings.ray.namespace,
    )


def gateway_name(node_id: str, slot: int = 0) -> str:
    """Actor name, and gateway id, of a media gateway of a node."""
    return f"{GATEWAY_PREFIX}{node_id[:8]}" + (f"-{slot + 1}" if slot else "")


def kill_named(namespace: str) -> None:
    """End every actor of a stack, whatever it is doing: the dispatcher first, or it makes new call actors."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    names = sorted(
        (str(actor["name"]) for actor in actors if actor["namespace"] == namespace), key=lambda name: name != DISPATCHER
    )
    for name in names:
        if name in (JOURNAL, DISPATCHER) or name.startswith((HOST_PREFIX, GATEWAY_PREFIX)):
            try:
                ray.kill(ray.get_actor(name, namespace=namespace))
            except (ValueError, RayError):
                continue  # it is gone already


def _named(kind: type[Any], name: str, context: StackContext, **options: Any) -> Any:
    return ray.remote(self_starting(kind, context.settings.telemetry.log_level)).options(
        name=name,
        namespace=context.settings.ray.namespace,
        lifetime="detached",
        num_cpus=SYSTEM_CPUS,
        max_restarts=-1,
        **options,
    )
