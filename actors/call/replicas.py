"""Which replicas of the model plane to avoid: a breaker for each, and routers of Serve that go round those that stall.

Serve finds a process that is dead, and in time one that does not answer its health checks; a live turn cannot wait for
either. So each process that makes requests watches the replicas it asks. The watch is one per process, since Serve
makes the routers itself.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from voice_agent.breaker import Breaker, BreakerState

logger = logging.getLogger(__name__)

SUSPECT_S: Final = 3.0
"""After a single stall a replica is avoided this long, so that the retry goes elsewhere; its breaker counts them."""
REQUESTS_KEPT: Final = 4096


class ReplicaWatch:
    """Breakers by deployment and replica. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._served: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._suspect_until: dict[tuple[str, str], float] = {}
        self._probes: set[str] = set()
        self._known: dict[str, frozenset[str]] = {}

    # --- from the routers ---

    def known(self, deployment: str, replicas: frozenset[str]) -> None:
        """The replicas there are; what is known of others is forgotten."""
        if self._known.get(deployment) != replicas:
            self._known[deployment] = replicas
            for gone in [key for key in self._breakers if key[0] == deployment and key[1] not in replicas]:
                del self._breakers[gone]
                self._suspect_until.pop(gone, None)

    def avoid(self, deployment: str, replica: str) -> bool:
        """Send nothing there now, if there is another."""
        key = (deployment, replica)
        breaker = self._breakers.get(key)
        if breaker is None:
            return False
        return self._suspect_until.get(key, 0.0) > self._clock() or not breaker.allows

    def wants_probe(self, deployment: str, replica: str) -> bool:
        """Send one request there, to see whether it is well again. True once in a cool-down."""
        breaker = self._breakers.get((deployment, replica))
        return breaker is not None and breaker.may_probe(self._now_ms())

    def routed(self, request_id: str, deployment: str, replica: str) -> None:
        """A request goes to this replica."""
        self._served[request_id] = (deployment, replica)
        breaker = self._breakers.get((deployment, replica))
        if breaker is not None and breaker.state is BreakerState.HALF_OPEN:
            self._probes.add(request_id)
        while len(self._served) > REQUESTS_KEPT:
            self._probes.discard(self._served.popitem(last=False)[0])

    # --- from the requests ---

    def succeeded(self, request_id: str) -> None:
        """The request was answered in time."""
        key = self._served.pop(request_id, None)
        probe = request_id in self._probes
        self._probes.discard(request_id)
        breaker = self._breakers.get(key) if key is not None else None
        if key is not None and breaker is not None and breaker.success(self._now_ms(), probe=probe):
            logger.info("replica is back", extra={"deployment": key[0], "replica": key[1]})

    def failed(self, request_id: str) -> None:
        """The request stalled, or its replica failed or died."""
        key = self._served.get(request_id)
        if key is None:
            return
        probe = request_id in self._probes
        self._probes.discard(request_id)
        breaker = self._breakers.setdefault(key, Breaker())
        self._suspect_until[key] = self._clock() + SUSPECT_S
        if breaker.fault(self._now_ms(), probe=probe):
            logger.warning("replica is avoided", extra={"deployment": key[0], "replica": key[1]})

    def another(self, request_id: str) -> bool:
        """Is there a replica to be asked instead of the one that has this request?"""
        key = self._served.get(request_id)
        if key is None:
            return False
        others = self._known.get(key[0], frozenset()) - {key[1]}
        return any(not self.avoid(key[0], other) for other in others)

    def open(self) -> dict[str, dict[str, str]]:
        """Replicas that are avoided by their breakers, by deployment, with the state."""
        found: dict[str, dict[str, str]] = {}
        for (deployment, replica), breaker in self._breakers.items():
            if not breaker.allows:
                found.setdefault(deployment, {})[replica] = breaker.state.value
        return found

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


WATCH: Final = ReplicaWatch(time.monotonic)
"""Of this process."""


class _Avoiding:
    """What the routers have in common. Replicas are avoided only while there is another to go to."""

    async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
        ranks = await super().choose_replicas(candidate_replicas, pending_request)  # type: ignore[misc]
        deployment = self._deployment_id.name  # type: ignore[attr-defined]
        WATCH.known(deployment, frozenset(replica.replica_id.unique_id for replica in candidate_replicas))
        bad = [r for r in candidate_replicas if WATCH.avoid(deployment, r.replica_id.unique_id)]
        if not bad:
            return ranks  # type: ignore[no-any-return]
        for replica in bad:
            if WATCH.wants_probe(deployment, replica.replica_id.unique_id):
                return [[replica]]
        good = [kept for rank in ranks if (kept := [replica for replica in rank if replica not in bad])]
        others = [replica for replica in candidate_replicas if replica not in bad]
        return good or ([others] if others else ranks)

    async def _choose_replica_for_request(self, pending_request: Any, *, is_retry: bool = False) -> Any:
        # Serve's own hook, `on_request_routed`, comes after the replica has accepted: one that is stopped never does.
        replica = await super()._choose_replica_for_request(pending_request, is_retry=is_retry)  # type: ignore[misc]
        deployment = self._deployment_id.name  # type: ignore[attr-defined]
        WATCH.routed(pending_request.metadata.request_id, deployment, replica.replica_id.unique_id)
        return replica


class AvoidingRouter(_Avoiding, PowerOfTwoChoicesRequestRouter):
    """The less busy of two, but for those that stall."""


class StickyAvoidingRouter(_Avoiding, ConsistentHashRouter):
    """The session's replica, and the next one while that one stalls."""
