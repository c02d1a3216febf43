"""The named actors as other processes use them: Ray's errors become the tree's."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import ray
from ray.exceptions import RayError, RayTaskError

from actors.call.outbox import BAD_RECORD, JournalRecord
from voice_agent.errors import RecordRefusedError, StorageError

JOURNAL: Final = "journal"
DISPATCHER: Final = "dispatcher"
HOST_PREFIX: Final = "call-host-"
GATEWAY_PREFIX: Final = "gateway-"


def node_address() -> str:
    """Address of this node as the other nodes see it."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


class RayJournal:
    """``JournalPort`` over the named actor."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._actor: Any = None

    async def find(self) -> None:
        """Look the journal up now: Ray imports its class for that, which takes a third of a second of a call's time.

        Raises:
            StorageError: it is not there; the first batch looks again.
        """
        try:
            self._actor = await asyncio.to_thread(ray.get_actor, JOURNAL, self._namespace)
        except (RayError, ValueError) as error:
            raise StorageError(f"there is no journal: {type(error).__name__}") from error

    async def batch(self, records: list[JournalRecord]) -> None:
        """Take records in order.

        Raises:
            StorageError: the journal is away.
            RecordRefusedError: it fails at one of these records, and would again.
        """
        await self._ask("batch", records)

    async def cluster_status(self, status: dict[str, Any]) -> None:
        """What the dispatcher says of itself.

        Raises:
            StorageError: the journal is away or refuses.
        """
        await self._ask("cluster_status", status)

    async def call_lost(self, call_id: str, reason: str) -> None:
        """A call may have ended without its actor saying so.

        Raises:
            StorageError: the journal is away or refuses.
        """
        await self._ask("call_lost", call_id, reason)

    async def take_over(self, reason: str, took_s: float) -> None:
        """A call that had lost its actor for ``reason`` is listened to by the next one.

        Raises:
            StorageError: the journal is away or refuses.
        """
        await self._ask("take_over", reason, took_s)

    async def _ask(self, method: str, *arguments: Any) -> None:
        try:
            if self._actor is None:
                await self.find()
            await getattr(self._actor, method).remote(*arguments)
        except (RayError, ValueError) as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, BAD_RECORD):
                raise RecordRefusedError(f"the journal fails at a record: {type(error.cause).__name__}") from error
            # A restarted actor keeps its handle; one that was made anew does not.
            if not isinstance(error, RayTaskError):
                self._actor = None
            raise StorageError(f"the journal does not take records: {type(error).__name__}") from error
