"""The gateway's links to call actors: one connection per actor, shared by its calls, kept while the actor lives."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from actors.link.codec import Message
from actors.link.connection import LinkConnection, LinkLimits, connect_link
from actors.link.messages import Control, Play, Snapshot
from actors.tasks import TaskKeeper
from voice_agent.admission import HostAddress
from voice_agent.errors import ProtocolError

logger = logging.getLogger(__name__)

_FROM_ACTOR: Final = (Play, Control, Snapshot)


class LinkedCall(Protocol):
    """A call as its link sees it."""

    @property
    def call_id(self) -> str:
        """Which call this is."""

    def from_actor(self, message: Play | Control | Snapshot) -> None:
        """A message of the call's actor. Must not raise."""

    def link_lost(self, link: HostLink, reason: str) -> None:
        """The actor cannot be reached any more."""


class HostLink:
    """The connection to one call actor and the calls on it."""

    def __init__(self, address: HostAddress, connection: LinkConnection) -> None:
        self.address = address
        self.connection = connection
        self.calls: dict[str, LinkedCall] = {}

    def send(self, message: Message) -> bool:
        """Never waits; False when the link is closed."""
        return self.connection.send(message)

    async def read(self) -> None:
        """Hand messages to their calls until the connection ends, then tell the calls."""
        async for message in self.connection:
            if not isinstance(message, _FROM_ACTOR):
                raise ProtocolError(f"a call actor sent {type(message).__name__}, which only gateways send")
            call = self.calls.get(message.call_id)
            if call is not None:
                call.from_actor(message)


class HostLinks:
    """Opens links on demand."""

    def __init__(self, name: str, secret: str, tasks: TaskKeeper, limits: LinkLimits | None = None) -> None:
        self._name = name
        self._secret = secret
        self._tasks = tasks
        self._limits = limits or LinkLimits()
        self._links: dict[tuple[str, str, int], HostLink] = {}
        self._locks: dict[tuple[str, str, int], asyncio.Lock] = {}

    def __len__(self) -> int:
        return len(self._links)

    @property
    def attached(self) -> int:
        """Calls that have a link."""
        return sum(len(link.calls) for link in self._links.values())

    async def attach(self, address: HostAddress, call: LinkedCall) -> HostLink:
        """The link to a call actor, with ``call`` on it.

        Raises:
            OSError: the actor does not listen there.
            TimeoutError: it does not answer.
            ProtocolError: it is no call actor, or of another version.
            AuthError: it does not know the link secret.
        """
        key = (address.host_id, address.host, address.port)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            link = self._links.get(key)
            if link is None or link.connection.closed:
                connection = await connect_link(
                    address.host, address.port, name=self._name, secret=self._secret, limits=self._limits
                )
                link = self._links[key] = HostLink(address, connection)
                self._tasks.start(self._serve(key, link), f"link-{address.host_id}")
        link.calls[call.call_id] = call
        return link

    def detach(self, link: HostLink, call: LinkedCall) -> None:
        """The call is no longer there. Idempotent."""
        if link.calls.get(call.call_id) is call:
            del link.calls[call.call_id]

    async def close(self) -> None:
        """Close every link."""
        links = tuple(self._links.values())
        for link in links:
            link.connection.close("gateway_stopped")
        for link in links:
            await link.connection.wait_closed()

    async def _serve(self, key: tuple[str, str, int], link: HostLink) -> None:
        try:
            await link.read()
        finally:
            link.connection.abort("reader_failed")
            if self._links.get(key) is link:
                del self._links[key]
                if not self._locks[key].locked():
                    del self._locks[key]
            calls, link.calls = tuple(link.calls.values()), {}
            if calls:
                logger.warning(
                    "media link lost",
                    extra={
                        "host_id": link.address.host_id,
                        "reason": link.connection.close_reason,
                        "calls": len(calls),
                    },
                )
            for call in calls:
                call.link_lost(link, link.connection.close_reason)
