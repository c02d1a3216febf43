"""Calls whose gateway or stream is lost: their state waits until the carrier has connected again, or is recorded so."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace

from actors.call.kit import MachineFactory
from actors.call.outbox import JournalOutbox
from actors.call.packing import unpacked
from voice_agent.dialog.commands import EndCall, RecordTurn
from voice_agent.dialog.events import CarrierStopped
from voice_agent.errors import ProtocolError

logger = logging.getLogger(__name__)

LOST = "gateway_lost"


@dataclass(frozen=True, slots=True)
class _Orphan:
    snapshot: bytes
    epoch: int
    reason: str
    expiry: asyncio.TimerHandle


class Orphans:
    """Keeps snapshots for ``keep_s``; the call actor's capacity bounds how many there can be."""

    def __init__(self, machines: MachineFactory, outbox: JournalOutbox, *, keep_s: float) -> None:
        self._machines = machines
        self._outbox = outbox
        self._keep_s = keep_s
        self._waiting: dict[str, _Orphan] = {}

    @property
    def call_ids(self) -> list[str]:
        """Calls that wait for a gateway."""
        return list(self._waiting)

    def __contains__(self, call_id: str) -> bool:
        """Whether a call waits here."""
        return call_id in self._waiting

    def keep(self, call_id: str, snapshot: bytes, epoch: int, reason: str = LOST) -> None:
        """Keep the newest state of a call, written in ``epoch``; ``reason`` is the end recorded when nobody comes."""
        self.take(call_id)
        expiry = asyncio.get_running_loop().call_later(self._keep_s, self._lose, call_id)
        self._waiting[call_id] = _Orphan(snapshot, epoch, reason, expiry)

    def take(self, call_id: str) -> bytes:
        """The state of a call that has found a gateway; empty when it is not here."""
        orphan = self._waiting.pop(call_id, None)
        if orphan is None:
            return b""
        orphan.expiry.cancel()
        return orphan.snapshot

    def renew(self, call_id: str, snapshot: bytes) -> None:
        """A waiting call came to its last state; empty when it ended there, and nobody need come any more."""
        orphan = self._waiting.pop(call_id, None)
        if orphan is not None and snapshot:
            self._waiting[call_id] = replace(orphan, snapshot=snapshot)
        elif orphan is not None:
            orphan.expiry.cancel()

    def close(self) -> None:
        """Record all that wait as lost."""
        for call_id in tuple(self._waiting):
            self._lose(call_id)

    def _lose(self, call_id: str) -> None:
        """Nobody came: let the dialog end itself, so that its turn and its call are on record."""
        reason, epoch = self._waiting[call_id].reason, self._waiting[call_id].epoch
        try:
            machine = self._machines.restore(unpacked(self.take(call_id)))
        except ProtocolError as error:
            logger.warning("a lost call's end is not recorded", extra={"call_id": call_id, "reason": error.message})
            return
        # The machine's clock does not run backwards: 0 means the time of its newest event.
        machine.receive(CarrierStopped(reason), 0)
        for command in machine.take_commands():
            if isinstance(command, RecordTurn | EndCall):
                # The call may live elsewhere, where this process was only frozen: the older epoch is refused then.
                self._outbox.add(replace(command.record, epoch=epoch))
