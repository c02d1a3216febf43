"""Which replicas of the model plane to avoid: a breaker for each.

Serve finds a process that is dead, and in time one that does not answer its health checks; a live turn cannot wait for
either. So each process that makes requests watches the replicas it asks. The watch is one per process, since Serve
makes the routers itself.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from configs.settings import DeadlineSettings
from voice_agent.breaker import Breaker, BreakerSettings, BreakerState

logger = logging.getLogger(__name__)

REQUESTS_KEPT: Final = 4096


class ReplicaWatch:
    """Breakers by deployment and replica. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._settings = BreakerSettings()
        self._suspect_s = 3.0
        self._ask: dict[str, Callable[[str], None]] = {}
        self._silent: set[tuple[str, str]] = set()
        self._asked_at: dict[tuple[str, str], float] = {}
        self._served: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._suspect_until: dict[tuple[str, str], float] = {}
        self._probes: set[str] = set()
        self._known: dict[str, frozenset[str]] = {}

    def configure(self, settings: DeadlineSettings) -> None:
        """For breakers that are made from now on."""
        self._settings = BreakerSettings(
            settings.faults, round(settings.window_s * 1000), round(settings.cool_down_s * 1000)
        )
        self._suspect_s = settings.suspect_s

    # --- from the routers ---

    def asks(self, deployment: str, ask: Callable[[str], None]) -> None:
        """How to ask a replica for a sign of life; the answer comes by ``answers`` or ``silent``."""
        self._ask[deployment] = ask

    def answers(self, deployment: str, replica: str) -> None:
        """It lives; whether it works is for a request to find out."""
        self._silent.discard((deployment, replica))
        self._asked_at.pop((deployment, replica), None)

    def silent(self, deployment: str, replica: str) -> None:
        """Its process gives no sign of life."""
        key = (deployment, replica)
        if key not in self._silent:
            self._silent.add(key)
            self._breaker(key).forget()
        self._fault(key, probe=False)

    def known(self, deployment: str, replicas: frozenset[str]) -> None:
        """The replicas there are; what is known of others is forgotten."""
        if self._known.get(deployment) != replicas:
            self._known[deployment] = replicas
            for gone in [key for key in self._breakers if key[0] == deployment and key[1] not in replicas]:
                del self._breakers[gone]
                self._suspect_until.pop(gone, None)
                self._silent.discard(gone)
            for gone in [key for key in self._asked_at if key[0] == deployment and key[1] not in replicas]:
                del self._asked_at[gone]

    def avoid(self, deployment: str, replica: str) -> bool:
        """Send nothing there now, if there is another."""
        key = (deployment, replica)
        breaker = self._breakers.get(key)
        if breaker is None:
            return False
        return self._suspect_until.get(key, 0.0) > self._clock() or not breaker.allows

    def wants_probe(self, deployment: str, replica: str) -> bool:
        """Send one request there, to see whether it is well again. True once in a cool-down.

        Never while it is silent, nor right behind a fault: a request that it failed is asked again, and not of it.
        """
        key = (deployment, replica)
        breaker = self._breakers.get(key)
        if breaker is None or key in self._silent or self._suspect_until.get(key, 0.0) > self._clock():
            return False
        return breaker.may_probe(self._now_ms())

    def routed(self, request_id: str, deployment: str, replica: str) -> None:
        """A request goes to this replica."""
        self._served[request_id] = (deployment, replica)
        breaker = self._breakers.get((deployment, replica))
        if breaker is not None and breaker.state is BreakerState.HALF_OPEN:
            self._probes.add(request_id)
        while len(self._served) > REQUESTS_KEPT:
            self._probes.discard(self._served.popitem(last=False)[0])

    # --- from the requests ---

    def over(self, request_id: str, *, well: bool) -> None:
        """Nobody waits for the request any more; nothing is kept of it.

        Most replies that are prepared before the caller is done are left in the middle, and what came of them in time
        speaks for the replica as well.

        Args:
            request_id: Serve's.
            well: it was answered in time, to its end or as far as it was wanted. Not well is no fault by itself.
        """
        key = self._served.pop(request_id, None)
        probe = request_id in self._probes
        self._probes.discard(request_id)
        breaker = self._breakers.get(key) if key is not None else None
        if key is None or breaker is None:
            return
        if well and breaker.success(self._now_ms(), probe=probe):
            logger.info("replica is back", extra={"deployment": key[0], "replica": key[1]})
        elif probe and not well:
            breaker.unprobed(self._now_ms())

    def failed(self, request_id: str) -> None:
        """The request stalled, or its replica failed or died."""
        key = self._served.get(request_id)
        if key is None:
            return
        probe = request_id in self._probes
        self._probes.discard(request_id)
        self._fault(key, probe=probe)
        self.doubted(request_id)

    def doubted(self, request_id: str) -> None:
        """The request is late, which may be nobody's fault: its replica is asked for a sign of life."""
        key = self._served.get(request_id)
        if key is not None and key[0] in self._ask:
            self._asked_at.setdefault(key, self._clock())
            self._ask[key[0]](key[1])

    def mute_s(self, request_id: str) -> float:
        """For how long the replica that has this request owes a sign of life."""
        key = self._served.get(request_id)
        asked_at = self._asked_at.get(key) if key is not None else None
        return 0.0 if asked_at is None else self._clock() - asked_at

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

    def _breaker(self, key: tuple[str, str]) -> Breaker:
        if key not in self._breakers:
            self._breakers[key] = Breaker(self._settings)
        return self._breakers[key]

    def _fault(self, key: tuple[str, str], *, probe: bool) -> None:
        self._suspect_until[key] = self._clock() + self._suspect_s
        if self._breaker(key).fault(self._now_ms(), probe=probe):
            logger.warning("replica is avoided", extra={"deployment": key[0], "replica": key[1]})

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


WATCH: Final = ReplicaWatch(time.monotonic)
"""Of this process."""
