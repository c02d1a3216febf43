"""The dispatcher: who may come in, on which actor a call lives, and what replaces an actor that died."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from actors.dispatch.overload import Overload
from actors.dispatch.pool import Cluster, Host, HostClient, HostPool
from actors.dispatch.registry import CallRegistry, Entry
from actors.dispatch.rollout import Rollout
from actors.link.messages import FAULT, HOST_FULL, UNREADABLE
from actors.tasks import TaskKeeper
from configs.runtime import StackContext
from voice_agent.admission import Admission, HostAddress, Refusal
from voice_agent.errors import CapacityError, ProtocolError
from voice_agent.metrics import STREAM_LOST
from voice_agent.overload import WAIT_MS, Verdict

logger = logging.getLogger(__name__)

TICK_S: Final = 0.5
CHECK_S: Final = 2.0
SETTLE_S: Final = 10.0
"""A call may be unknown to its host for this long after it was placed: the gateway is still on its way there."""
MISSING: Final = 2
GATEWAY_WAIT_S: Final = 6.0
"""A call waits this long for a gateway that is being restarted; carriers wait longer for an answer."""
UNSAID: Final = ("lost", "failed")
"""Ends that the call's actor may not have been there to record."""


class Dispatcher:
    """One per cluster. All it knows it can learn again from the living actors, so it may restart at any time.

    Plain class; ``start`` is idempotent and implied by every method, because a restarted actor re-runs only its
    constructor.
    """

    def __init__(
        self, context: StackContext, cluster: Cluster | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        calls = context.settings.calls
        self._context = context
        self._max_calls = calls.max_calls
        self._capacity = calls.calls_per_actor
        wanted = math.ceil(calls.max_calls / calls.calls_per_actor) + calls.spare_actors
        self._cluster = cluster or _ray_cluster(context)
        self._pool = HostPool(
            self._cluster, context, wanted=wanted, capacity=calls.calls_per_actor, lost=self._host_lost
        )
        self._calls = CallRegistry(clock, calls.reserve_s)
        self._overload = Overload(calls, self._cluster, clock)
        self._rollout = Rollout(self._pool, self._calls, self._cluster)
        self._gateways: dict[str, str] = {}
        self._met_gateways = False
        self._gateway_met = asyncio.Event()
        self._draining = False
        self._clock = clock
        self._tasks = TaskKeeper()
        self._starting = asyncio.Lock()
        self._started = False
        self._counts = {"admitted": 0, "replaced": 0, "refused": 0, "expired": 0, "lost": 0}

    # --- life ---

    async def start(self) -> None:
        """Learn what is alive, then keep the pool full and watched. Idempotent."""
        async with self._starting:
            if self._started:
                return
            gateways, _ = await asyncio.gather(self._cluster.gateways(), self._pool.adopt(self._tasks))
            self._meet_gateways(gateways)
            for host in self._pool.hosts:
                self._learn(host)
            self._tasks.start(self._keep_full(), "pool-refill")
            if self._rollout.unfinished:
                self._tasks.start(self._rollout.resume(), "rollout")
            self._tasks.start(self._watch(), "pool-watch")
            self._started = True

    async def ready(self, timeout_s: float) -> bool:
        """Wait until the pool is full; False when it is not within ``timeout_s``."""
        await self.start()
        try:
            async with asyncio.timeout(timeout_s):
                while len(self._pool.hosts) < self._pool.wanted:
                    await self._pool.changed.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """End the pool. Idempotent."""
        self._draining = True
        await self._tasks.aclose()
        await self._pool.stop()

    # --- admission ---

    async def admit(self, call_id: str, caller_pii: str, called: str) -> Admission | Refusal:
        """May this call come in? A yes reserves a slot for ``calls.reserve_s``; ``queue`` says to ask again soon.

        A call that is in already is let in again, whatever the load: its carrier lost a gateway and comes back.
        """
        await self.start()
        if not self._gateways and self._met_gateways:
            await self._await_gateway()
        gateway_id = self._choose_gateway(call_id)
        known = self._calls.get(call_id)
        verdict = self._verdict(call_id, gateway_id, known)
        if verdict.reason == "queue":
            return Refusal(call_id, "queue", WAIT_MS // 1000, verdict.asked)
        if verdict.reason:
            self._counts["refused"] += 1
            self._overload.refused(verdict.reason)
            logger.warning("call refused", extra={"call_id": call_id, "reason": verdict.reason})
            return Refusal(call_id, verdict.reason)
        if known is None:
            self._calls.reserve(call_id, gateway_id)
            self._counts["admitted"] += 1
        else:
            self._calls.renew(known, gateway_id)
        return Admission(call_id, gateway_id, self._gateways[gateway_id])

    def _verdict(self, call_id: str, gateway_id: str, known: Entry | None) -> Verdict:
        if not gateway_id:
            return Verdict("no_gateway")
        if known is not None:
            return Verdict()
        if self._draining:
            return Verdict("draining")
        if not self._pool.hosts:
            return Verdict("not_ready")
        return self._overload.ask(call_id, self._free)

    @property
    def _free(self) -> int:
        """Slots for new calls. A call without a host yet still counts as free in the pool."""
        return max(0, min(self._max_calls - len(self._calls), self._pool.free - self._calls.homeless))

    def _choose_gateway(self, call_id: str) -> str:
        """The gateway a known call is on if it lives, else the one with the fewest calls."""
        known = self._calls.get(call_id)
        if known is not None and known.gateway_id in self._gateways:
            return known.gateway_id
        return min(self._gateways, key=self._calls.on_gateway, default="")

    async def claim(self, call_id: str) -> HostAddress:
        """The carrier's stream is there and authenticated: where does the call live?

        Asked again it gives the same answer while that host lives. A call without a reservation (this dispatcher
        restarted after promising it) is taken while there is room.

        Raises:
            CapacityError: no call actor has room.
        """
        await self.start()
        entry = self._calls.get(call_id) or self._late(call_id)
        held = self._pool.get(entry.host_id)
        return held.address if held is not None else self._place(entry).address

    def _late(self, call_id: str) -> Entry:
        if len(self._calls) >= self._max_calls:
            raise CapacityError(f"call {call_id} has no reservation, and all {self._max_calls} slots are taken")
        return self._calls.reserve(call_id, next(iter(self._gateways), ""))

    def _place(self, entry: Entry, *, avoid: str = "") -> Host:
        host = self._pool.place(entry.call_id, avoid=avoid, barred=entry.barred)
        self._calls.place(entry, host.host_id)
        return host

    async def replace(self, call_id: str, failed_host_id: str, reason: str = "") -> HostAddress:
        """The gateway lost the call's host: give it another. Idempotent for the same ``failed_host_id``.

        A host that cannot read the call's state, or whose code failed on it (``reason``), is alive and well; its code
        is not asked again.
        A call this dispatcher does not know (it restarted, and the host that could have told is dead) is taken while
        there is room.

        Raises:
            ProtocolError: the call has ended, or failed and there is no other code to go on with it.
            CapacityError: no spare is free.
        """
        await self.start()
        if self._calls.state(call_id, ()).startswith("ended"):
            raise ProtocolError(f"call {call_id} has ended, so it needs no other host")
        entry = self._calls.get(call_id) or self._late(call_id)
        held = self._pool.get(entry.host_id)
        if held is not None and entry.host_id != failed_host_id:
            return held.address
        failed = self._pool.get(failed_host_id)
        if reason == FAULT and (failed is None or not self._pool.other_code({*entry.barred, failed.code})):
            raise ProtocolError(f"call {call_id} failed, and there is no other code that could go on with it")
        if reason in (UNREADABLE, FAULT) and failed is not None:
            entry.barred[failed.code] = reason
        elif reason != HOST_FULL:
            self._pool.suspect(failed_host_id)
        host = self._place(entry, avoid=failed_host_id)
        if held is not None:
            held.calls.discard(call_id)
        self._counts["replaced"] += 1
        logger.warning("call moved", extra={"call_id": call_id, "from": failed_host_id, "to": host.host_id})
        return host.address

    async def took_over(self, reason: str, took_s: float) -> None:
        """A gateway says that a call which had lost its host is listened to again, ``took_s`` after the loss."""
        await self._cluster.report_take_over(reason, took_s)

    async def release(self, call_id: str, reason: str) -> None:
        """The call is over; its slot is free. Idempotent.

        A call that only lost its stream keeps its slot while its host holds its state for the next stream.
        """
        await self.start()
        self._overload.leave(call_id)
        entry = self._calls.get(call_id)
        if reason == STREAM_LOST and entry is not None and self._pool.get(entry.host_id) is not None:
            self._calls.unhook(entry)
            return
        self._end(call_id, reason)

    def _end(self, call_id: str, reason: str) -> None:
        entry = self._calls.end(call_id, reason)
        host = self._pool.get(entry.host_id) if entry is not None else None
        if entry is not None and entry.live and (host is None or reason in UNSAID):
            self._tasks.start(self._cluster.report_lost(call_id, reason), f"lost-{call_id}")
        if host is not None:
            host.calls.discard(call_id)

    async def call_state(self, call_id: str) -> str:
        """``unknown``, ``queued``, ``reserved``, ``live``, ``lost`` (no gateway or no host has it), ``ended:<reason>``.

        Whoever asks has lost sight of the call, so its gateway is asked, and not the next round of the watch.
        """
        await self.start()
        if self._overload.waits(call_id):
            return "queued"
        entry = self._calls.get(call_id)
        if entry is not None and entry.gateway_id in self._gateways:
            held = await self._cluster.has_call(entry.gateway_id, call_id)
            if held is None:
                self._lose_gateway(entry.gateway_id)
            elif not held and entry.live and entry is self._calls.get(call_id):
                self._calls.unhook(entry)
        return self._calls.state(call_id, self._gateways)

    # --- members ---

    async def register_gateway(self, gateway_id: str, media_url: str) -> None:
        """A gateway is up, or up again. Idempotent."""
        await self.start()
        self._meet_gateways({gateway_id: media_url})

    async def register_host(self, host_id: str, host: str, port: int, capacity: int) -> None:
        """Take a call actor this dispatcher did not create. It is found by its name.

        Raises:
            ProtocolError: no living actor has that name.
        """
        await self.start()
        clients: dict[str, HostClient] = await self._cluster.hosts()
        if host_id not in clients:
            raise ProtocolError(f"no living call actor is named {host_id}")
        if self._pool.get(host_id) is None:
            self._pool.add(clients[host_id], HostAddress(host_id, host, port), capacity)

    async def drain(self, on: bool) -> None:
        """Refuse new calls; those that are in go on."""
        await self.start()
        self._draining = on

    async def deploy(self, context: StackContext, canary_s: float, within_s: float) -> int:
        """Begin to hand all calls over to actors of other code; ``status`` tells how it goes. The code's number.

        Args:
            context: what new actors are made from.
            canary_s: how long the first call has to live there before the others follow.
            within_s: how long a call is waited for to come between two turns.

        Raises:
            ProtocolError: one is under way.
        """
        await self.start()
        context = self._rollout.prepare(context)
        self._tasks.start(self._rollout.run(context, canary_s, within_s), "rollout")
        return context.code.number

    async def rollback(self, within_s: float) -> int:
        """Hand all calls back to the code before the last deploy, one under way included. Its new number.

        Raises:
            ProtocolError: there was no deploy since this dispatcher started.
        """
        await self.start()
        self._tasks.start(self._rollout.back(within_s), "rollback")
        return self._rollout.newest

    async def context(self) -> StackContext:
        """What call actors are made from now."""
        await self.start()
        return self._pool.context

    async def status(self) -> dict[str, Any]:
        """What the cluster is doing, for ``/readyz``, the CLI and the journal's gauges."""
        await self.start()
        hosts = tuple(self._pool.hosts)
        return {
            "ready": bool(hosts) and bool(self._gateways) and not self._draining,
            "draining": self._draining,
            "max_calls": self._max_calls,
            "live": self._calls.live,
            "reserved": self._calls.reserved,
            "free": self._free,
            "hosts": {host.host_id: host.report() for host in hosts},
            "hosts_wanted": self._pool.wanted,
            "hosts_starting": self._pool.starting,
            "host_deaths": self._pool.deaths,
            "gateways": dict(self._gateways),
            "code": asdict(self._pool.context.code),
            "rollout": self._rollout.status(),
            "overload": self._overload.status(),
            "counts": self._counts | {"queued": self._overload.queued},
        }

    # --- keeping watch ---

    async def _keep_full(self) -> None:
        while True:
            if not await self._pool.refill():
                await asyncio.sleep(TICK_S)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            await self.check()
            await self._cluster.report(await self.status())

    async def check(self) -> None:
        """One round of the watch: promises nobody kept, members that died, calls their host does not know."""
        for entry in self._calls.expired():
            self._counts["lost" if entry.live else "expired"] += 1
            self._end(entry.call_id, "lost" if entry.live else "expired")
        known = tuple(self._gateways)
        alive = await self._cluster.gateways()
        for gateway_id in [gateway_id for gateway_id in known if gateway_id not in alive]:
            self._lose_gateway(gateway_id)
        self._meet_gateways(alive)
        await self._pool.check()
        for host in self._pool.hosts:
            self._learn(host)
        await self._overload.look(self._pool.hosts, tuple(self._gateways))

    def _meet_gateways(self, alive: dict[str, str]) -> None:
        self._gateways |= {gateway_id: url for gateway_id, url in alive.items() if url}
        if self._gateways:
            self._met_gateways = True
            self._gateway_met.set()

    def _lose_gateway(self, gateway_id: str) -> None:
        """Nothing is sent there until it has registered or answered again."""
        if self._gateways.pop(gateway_id, None) is not None:
            logger.warning("gateway lost", extra={"gateway_id": gateway_id})
        if not self._gateways:
            self._gateway_met.clear()

    async def _await_gateway(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(GATEWAY_WAIT_S):
                await self._gateway_met.wait()

    def _learn(self, host: Host) -> None:
        """Compare what a host says it has with what is known here."""
        if host.misses or not host.status:
            return
        has = {call_id: str(call["gateway"]) for call_id, call in host.status.get("calls", {}).items()}
        has |= dict.fromkeys(host.status.get("orphans", []), "")
        for call_id, gateway_id in has.items():
            if self._calls.get(call_id) is None and self._calls.state(call_id, ()) == "unknown":
                self._calls.place(self._calls.reserve(call_id, gateway_id), host.host_id)
                host.calls.add(call_id)
        for call_id in tuple(host.calls):
            self._count_missing(call_id, known=call_id in has)

    def _count_missing(self, call_id: str, *, known: bool) -> None:
        entry = self._calls.get(call_id)
        if entry is None or self._clock() - entry.since_s < SETTLE_S:
            return
        if known:
            entry.missing = 0
            return
        entry.missing += 1
        if entry.missing >= MISSING:
            self._counts["lost"] += 1
            self._end(call_id, "lost")

    def _host_lost(self, host: Host) -> None:
        """Its calls wait for their gateways to ask for another host."""
        for call_id in host.calls:
            entry = self._calls.get(call_id)
            if entry is not None and entry.host_id == host.host_id:
                self._calls.vacate(entry)


def _ray_cluster(context: StackContext) -> Cluster:
    from actors.dispatch.ray_cluster import RayCluster

    return RayCluster(context)
