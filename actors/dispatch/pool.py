"""The warm pool of call actors: created ahead, placed on by load, watched, refilled one at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from voice_agent.admission import HostAddress
from voice_agent.errors import CapacityError, VoiceAgentError

logger = logging.getLogger(__name__)

START_S: Final = 200.0
STATUS_S: Final = 5.0
MISSES: Final = 3
"""Health checks a host may miss; a process that is only slow must not lose its calls to a false alarm."""
STARTING_AT_ONCE: Final = 4
RETRY_S: Final = 2.0


class HostGoneError(CapacityError):
    """The process of a call actor is dead."""


class HostClient(Protocol):
    """A call actor as the dispatcher sees it. All methods raise ``HostGoneError`` when its process is dead."""

    async def start(self) -> HostAddress:
        """Make it ready; idempotent."""

    async def status(self) -> dict[str, Any]:
        """See ``CallActor.status``."""

    async def stop(self) -> None:
        """Let go of all calls."""


class Cluster(Protocol):
    """Where hosts and gateways live."""

    async def create_host(self, host_id: str) -> HostClient:
        """Start the process of a call actor.

        Raises:
            CapacityError: the cluster has no room for it.
        """

    async def hosts(self) -> dict[str, HostClient]:
        """Call actors that are alive, by host id."""

    async def destroy_host(self, host_id: str) -> None:
        """End the process of a call actor, whatever it is doing. Unknown ones are fine."""

    async def gateways(self) -> dict[str, str]:
        """Media URLs of the gateways that answer, by id."""

    async def has_call(self, gateway_id: str, call_id: str) -> bool | None:
        """Whether a gateway has a call's stream; None when it does not answer."""

    async def report(self, status: dict[str, Any]) -> None:
        """Tell the journal what the dispatcher knows; best effort."""

    async def report_lost(self, call_id: str, reason: str) -> None:
        """Tell the journal of a call that may have ended without its actor saying so; best effort."""


@dataclass(slots=True)
class Host:
    """A call actor that is ready. ``calls`` is what the dispatcher has placed there."""

    host_id: str
    client: HostClient
    address: HostAddress
    capacity: int
    calls: set[str] = field(default_factory=set)
    misses: int = 0
    status: dict[str, Any] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """Calls it still has room for; a host that does not answer has none."""
        return self.capacity - len(self.calls) if self.misses == 0 else 0


class HostPool:
    """``wanted`` hosts of ``capacity`` calls each. ``lost`` is called with each host that died."""

    def __init__(self, cluster: Cluster, *, wanted: int, capacity: int, lost: Callable[[Host], None]) -> None:
        self.wanted = wanted
        self._cluster = cluster
        self._capacity = capacity
        self._lost = lost
        self._hosts: dict[str, Host] = {}
        self._starting: set[str] = set()
        self._next = 1
        self._was_full = False
        self.deaths = 0
        self.changed = asyncio.Event()

    @property
    def hosts(self) -> Collection[Host]:
        """Hosts that are ready, least recently used first."""
        return self._hosts.values()

    @property
    def starting(self) -> int:
        """Hosts that are being made."""
        return len(self._starting)

    @property
    def free(self) -> int:
        """Calls there is room for now."""
        return sum(host.free for host in self._hosts.values())

    def get(self, host_id: str) -> Host | None:
        """A ready host."""
        return self._hosts.get(host_id)

    def place(self, call_id: str, *, avoid: str = "") -> Host:
        """Put a call on the least loaded host, in turn among equals, so that calls spread over processes.

        Raises:
            CapacityError: no host has room.
        """
        open_hosts = [host for host in self._hosts.values() if host.free > 0 and host.host_id != avoid]
        if not open_hosts:
            raise CapacityError("no call actor has room; raise calls.max_calls or calls.spare_actors")
        host = min(open_hosts, key=lambda candidate: len(candidate.calls))
        self._hosts[host.host_id] = self._hosts.pop(host.host_id)
        host.calls.add(call_id)
        return host

    def suspect(self, host_id: str) -> None:
        """Somebody could not reach this host: place nothing on it until it has answered."""
        host = self._hosts.get(host_id)
        if host is not None:
            host.misses = max(host.misses, 1)

    def add(self, client: HostClient, address: HostAddress, capacity: int) -> Host:
        """Take a ready host into the pool."""
        host = self._hosts[address.host_id] = Host(address.host_id, client, address, capacity)
        number = address.host_id.rpartition("-")[2]
        if number.isdigit():
            self._next = max(self._next, int(number) + 1)
        self._change()
        return host

    async def adopt(self) -> None:
        """Take over the hosts that are alive already, with the calls they have."""
        found = await self._cluster.hosts()
        await asyncio.gather(*(self._adopt(host_id, client) for host_id, client in found.items()))

    async def _adopt(self, host_id: str, client: HostClient) -> None:
        try:
            async with asyncio.timeout(START_S):
                address = await client.start()
                status = await client.status()
        except (VoiceAgentError, TimeoutError) as error:
            logger.warning("call actor not adopted", extra={"host_id": host_id, "reason": type(error).__name__})
            await self._cluster.destroy_host(host_id)
            return
        host = self.add(client, address, int(status["capacity"]))
        host.status = status

    async def refill(self) -> bool:
        """Create some of what is missing; False when nothing is.

        Several at once for the first fill, later one at a time, to spare those that talk.
        """
        missing = self.wanted - len(self._hosts) - len(self._starting)
        self._was_full = self._was_full or missing <= 0
        if missing <= 0:
            return False
        at_once = 1 if self._was_full else STARTING_AT_ONCE
        await asyncio.gather(*(self._create() for _ in range(min(missing, at_once))))
        return True

    async def _create(self) -> None:
        host_id = f"call-host-{self._next}"
        self._next += 1
        self._starting.add(host_id)
        try:
            async with asyncio.timeout(START_S):
                client = await self._cluster.create_host(host_id)
                address = await client.start()
        except (VoiceAgentError, TimeoutError) as error:
            logger.warning("call actor did not start", extra={"host_id": host_id, "reason": str(error)})
            await self._cluster.destroy_host(host_id)
            await asyncio.sleep(RETRY_S)
            return
        finally:
            self._starting.discard(host_id)
        self.add(client, address, self._capacity)

    async def check(self) -> None:
        """Ask every host how it is; those that are dead or silent for too long leave the pool."""
        await asyncio.gather(*(self._check(host) for host in tuple(self._hosts.values())))

    async def _check(self, host: Host) -> None:
        try:
            async with asyncio.timeout(STATUS_S):
                host.status = await host.client.status()
            host.misses = 0
        except HostGoneError:
            await self._bury(host)
        except (VoiceAgentError, TimeoutError):
            host.misses += 1
            if host.misses >= MISSES:
                await self._bury(host)

    async def _bury(self, host: Host) -> None:
        if self._hosts.pop(host.host_id, None) is None:
            return
        logger.warning("call actor lost", extra={"host_id": host.host_id, "calls": len(host.calls)})
        self.deaths += 1
        self._lost(host)
        self._change()
        # A host that is only silent may come back to life later: its epochs are fenced, its process is ended.
        await self._cluster.destroy_host(host.host_id)

    async def stop(self) -> None:
        """End every host."""
        hosts, self._hosts = tuple(self._hosts.values()), {}
        await asyncio.gather(*(self._stop(host) for host in hosts))

    async def _stop(self, host: Host) -> None:
        try:
            async with asyncio.timeout(STATUS_S):
                await host.client.stop()
        except (VoiceAgentError, TimeoutError):
            logger.warning("call actor did not stop by itself", extra={"host_id": host.host_id})
        await self._cluster.destroy_host(host.host_id)

    def _change(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
