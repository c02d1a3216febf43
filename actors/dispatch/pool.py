"""The warm pool of call actors: created ahead, placed on by load, watched, refilled one at a time."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from actors.tasks import TaskKeeper
from configs.runtime import StackContext
from voice_agent.admission import HostAddress
from voice_agent.errors import CapacityError, VoiceAgentError

logger = logging.getLogger(__name__)

START_S: Final = 200.0
ADOPT_S: Final = 1.0
STATUS_S: Final = 5.0
MISSES: Final = 3
"""Health checks a host may miss; a process that is only slow must not lose its calls to a false alarm."""
STARTING_AT_ONCE: Final = 4
RETRY_S: Final = 2.0


def surge(wanted: int) -> int:
    """Hosts beyond ``wanted`` that may be there while one code takes over from another."""
    return max(1, math.ceil(wanted / 4))


class HostGoneError(CapacityError):
    """The process of a call actor is dead."""


class HostClient(Protocol):
    """A call actor as the dispatcher sees it. All methods raise ``HostGoneError`` when its process is dead."""

    async def start(self) -> HostAddress:
        """Make it ready; idempotent."""

    async def status(self) -> dict[str, Any]:
        """See ``CallActor.status``."""

    async def context(self) -> StackContext:
        """What it was made from."""

    async def overload(self, level: int) -> None:
        """Tell it the level of overload."""

    async def await_turn(self, call_id: str, within_s: float) -> bool:
        """Wait until a call is between two turns."""

    async def stop(self) -> None:
        """Let go of all calls."""


class Cluster(Protocol):
    """Where hosts and gateways live."""

    async def create_host(self, host_id: str, context: StackContext) -> HostClient:
        """Start the process of a call actor, with the code that the context names.

        Raises:
            CapacityError: the cluster has no room for it.
        """

    async def hosts(self) -> dict[str, HostClient]:
        """Call actors that are alive, by host id."""

    async def destroy_host(self, host_id: str) -> None:
        """End the process of a call actor, whatever it is doing. Unknown ones are fine."""

    async def gateways(self) -> dict[str, str]:
        """Media URLs of the gateways that are alive, by id; empty for one that does not answer just now."""

    async def has_call(self, gateway_id: str, call_id: str) -> bool | None:
        """Whether a gateway has a call's stream; None when it does not answer."""

    async def gateway_lag_ms(self, gateway_id: str) -> float | None:
        """How late a gateway's event loop wakes now; None when it does not answer."""

    async def move_call(self, gateway_id: str, call_id: str, address: HostAddress) -> str:
        """Have a gateway hand a call over; the host that has it then, empty where that is not known."""

    async def report(self, status: dict[str, Any]) -> None:
        """Tell the journal what the dispatcher knows; best effort."""

    async def report_lost(self, call_id: str, reason: str) -> None:
        """Tell the journal of a call that may have ended without its actor saying so; best effort."""

    async def report_take_over(self, reason: str, took_s: float) -> None:
        """Tell the journal of a take-over, for the metrics; best effort."""


@dataclass(slots=True)
class Host:
    """A call actor that is ready. ``calls`` is what the dispatcher has placed there; ``code`` numbers its version.

    ``level`` is the level of overload it was told last; -1: none yet.
    """

    host_id: str
    client: HostClient
    address: HostAddress
    capacity: int
    calls: set[str] = field(default_factory=set)
    code: int = 1
    misses: int = 0
    status: dict[str, Any] = field(default_factory=dict)
    level: int = -1

    def report(self) -> dict[str, Any]:
        """For ``Dispatcher.status``."""
        return {
            "host": self.address.host,
            "port": self.address.port,
            "capacity": self.capacity,
            "calls": sorted(self.calls),
            "code": self.code,
            "version": self.status.get("code", {}).get("version", ""),
            "misses": self.misses,
            "pid": self.status.get("pid", 0),
            "loop_lag_ms": self.status.get("loop_lag_ms", 0.0),
            "tasks": self.status.get("tasks", 0),
            "open_requests": self.status.get("open_requests", 0),
            "orphans": len(self.status.get("orphans", ())),
            "stages": self.status.get("stages", {}),
            "journal_dropped": self.status.get("journal_dropped", 0),
        }

    @property
    def free(self) -> int:
        """Calls it still has room for; a host that does not answer has none."""
        return self.capacity - len(self.calls) if self.misses == 0 else 0

    def room_for(self, call_id: str) -> bool:
        """Whether it can take this call, or take it back: one that is being handed over has its place here still."""
        return self.free > 0 or (self.misses == 0 and call_id in self.calls)


class HostPool:
    """``wanted`` hosts of ``capacity`` calls each. ``lost`` is called with each host that died.

    ``context`` is what new hosts are made from; those of another code stay until they are retired, and up to
    ``surge(wanted)`` hosts are there beyond ``wanted`` while they do.
    """

    def __init__(
        self, cluster: Cluster, context: StackContext, *, wanted: int, capacity: int, lost: Callable[[Host], None]
    ) -> None:
        self.wanted = wanted
        self.context = context
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

    def of_code(self, number: int) -> list[Host]:
        """Hosts that run this code."""
        return [host for host in self._hosts.values() if host.code == number]

    def place(self, call_id: str, *, avoid: str = "", barred: Collection[int] = (), code: int = 0) -> Host:
        """Put a call on the least loaded host, in turn among equals, so that calls spread over processes.

        Args:
            call_id: which call.
            avoid: a host that is out of the question.
            barred: code that cannot go on with the call.
            code: only this code will do; 0: that of the pool, else any.

        Raises:
            CapacityError: no host has room.
        """
        open_hosts = [
            host
            for host in self._hosts.values()
            if host.room_for(call_id) and host.host_id != avoid and host.code not in barred and code in (0, host.code)
        ]
        if not open_hosts:
            raise CapacityError("no call actor has room; raise calls.max_calls or calls.spare_actors")
        host = min(open_hosts, key=lambda candidate: (candidate.code != self.context.code.number, len(candidate.calls)))
        self._hosts[host.host_id] = self._hosts.pop(host.host_id)
        host.calls.add(call_id)
        return host

    def other_code(self, barred: Collection[int]) -> bool:
        """Whether there are hosts of other code than this."""
        return any(host.code not in barred for host in self._hosts.values())

    def suspect(self, host_id: str) -> None:
        """Somebody could not reach this host: place nothing on it until it has answered."""
        host = self._hosts.get(host_id)
        if host is not None:
            host.misses = max(host.misses, 1)

    def add(self, client: HostClient, address: HostAddress, capacity: int, code: int = 1) -> Host:
        """Take a ready host into the pool."""
        host = self._hosts[address.host_id] = Host(address.host_id, client, address, capacity, code=code)
        self._count_on(address.host_id)
        self._change()
        return host

    def _count_on(self, host_id: str) -> None:
        number = host_id.rpartition("-")[2]
        if number.isdigit():
            self._next = max(self._next, int(number) + 1)

    async def adopt(self, tasks: TaskKeeper) -> None:
        """Take over the hosts that are alive already, with the calls they have.

        Those that do not answer soon, such as one that is just being made, follow when they do: calls wait for this.
        """
        found = await self._cluster.hosts()
        adopting = [tasks.start(self._adopt(host_id, client), f"adopt-{host_id}") for host_id, client in found.items()]
        self._starting |= found.keys()
        for host_id in found:
            self._count_on(host_id)
        if adopting:
            await asyncio.wait(adopting, timeout=ADOPT_S)
        newest = max(self._hosts.values(), key=lambda host: host.code, default=None)
        if newest is not None and newest.code > self.context.code.number:
            # A deploy came after this dispatcher was made: its hosts know what more of them are made from.
            self.context = await newest.client.context()

    async def _adopt(self, host_id: str, client: HostClient) -> None:
        try:
            async with asyncio.timeout(START_S):
                address = await client.start()
                status = await client.status()
        except (VoiceAgentError, TimeoutError) as error:
            logger.warning("call actor not adopted", extra={"host_id": host_id, "reason": type(error).__name__})
            await self._cluster.destroy_host(host_id)
            return
        finally:
            self._starting.discard(host_id)
        host = self.add(client, address, int(status["capacity"]), int(status.get("code", {}).get("number", 1)))
        host.status = status

    async def refill(self) -> bool:
        """Create some of what is missing; False when nothing is.

        Several at once for the first fill, later one at a time, to spare those that talk.
        """
        present = len(self.of_code(self.context.code.number)) + len(self._starting)
        room = self.wanted + surge(self.wanted) - len(self._hosts) - len(self._starting)
        missing = min(self.wanted - present, room)
        self._was_full = self._was_full or missing <= 0
        if missing <= 0:
            return False
        at_once = 1 if self._was_full else STARTING_AT_ONCE
        await asyncio.gather(*(self._create() for _ in range(min(missing, at_once))))
        return True

    async def _create(self) -> None:
        try:
            await self.create(self.context)
        except (VoiceAgentError, TimeoutError) as error:
            logger.warning("call actor did not start", extra={"reason": str(error)})
            await asyncio.sleep(RETRY_S)

    async def create(self, context: StackContext) -> Host:
        """One more host, of any code.

        Raises:
            VoiceAgentError: it did not start.
            TimeoutError: it did not start in time.
        """
        host_id = f"call-host-{self._next}"
        self._next += 1
        self._starting.add(host_id)
        try:
            async with asyncio.timeout(START_S):
                client = await self._cluster.create_host(host_id, context)
                address = await client.start()
        except (VoiceAgentError, TimeoutError):
            await self._cluster.destroy_host(host_id)
            raise
        finally:
            self._starting.discard(host_id)
        return self.add(client, address, self._capacity, context.code.number)

    async def retire(self, host: Host) -> None:
        """End a host that is no longer wanted."""
        if self._hosts.pop(host.host_id, None) is not None:
            await self._stop(host)
            self._change()

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
