"""Which call is where: reservations, live calls, and for a while those that have ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

ENDED_KEPT: Final = 10_000


@dataclass(slots=True)
class Entry:
    """A call that is promised a slot or has one.

    ``host_id`` is empty while it is only reserved, and while its host is dead and no other was taken. ``since_s`` is
    when this began; ``missing`` counts health checks in which its host did not know it;
    ``barred`` is the code that cannot go on with it, and why: it cannot read its state, or failed.
    """

    call_id: str
    gateway_id: str
    since_s: float
    host_id: str = ""
    live: bool = False
    epoch: int = 0
    missing: int = 0
    barred: dict[int, str] = field(default_factory=dict)


class CallRegistry:
    """Times are seconds of ``clock``, a monotonic one."""

    def __init__(self, clock: Callable[[], float], reserve_s: float) -> None:
        self._clock = clock
        self._reserve_s = reserve_s
        self._entries: dict[str, Entry] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        """Calls that hold a slot, reserved or live."""
        return len(self._entries)

    def get(self, call_id: str) -> Entry | None:
        """A call that is reserved or live."""
        return self._entries.get(call_id)

    def entries(self) -> Iterable[Entry]:
        """All that hold a slot."""
        return tuple(self._entries.values())

    @property
    def live(self) -> int:
        """Calls that have a host, or had one and wait for the next."""
        return sum(entry.live for entry in self._entries.values())

    @property
    def homeless(self) -> int:
        """Calls that will need a place on a host: expected ones, and those whose host died."""
        return sum(not entry.host_id for entry in self._entries.values())

    @property
    def reserved(self) -> int:
        """Calls that are expected."""
        return len(self._entries) - self.live

    def on_gateway(self, gateway_id: str) -> int:
        """Calls of a gateway."""
        return sum(entry.gateway_id == gateway_id for entry in self._entries.values())

    def reserve(self, call_id: str, gateway_id: str) -> Entry:
        """Promise a slot for ``reserve_s``."""
        entry = self._entries[call_id] = Entry(call_id, gateway_id, self._clock())
        self._ended.pop(call_id, None)
        return entry

    def renew(self, entry: Entry, gateway_id: str) -> None:
        """The carrier comes again for this call, maybe to another gateway."""
        entry.gateway_id = gateway_id
        entry.since_s = self._clock()

    def place(self, entry: Entry, host_id: str) -> None:
        """The call is on a host now."""
        entry.host_id, entry.live, entry.missing = host_id, True, 0
        entry.epoch += 1
        entry.since_s = self._clock()

    def unhook(self, entry: Entry) -> None:
        """The call's stream is gone, its host has it still: it is lost until the carrier comes again."""
        entry.gateway_id = ""
        entry.since_s = self._clock()

    def vacate(self, entry: Entry) -> None:
        """The call's host is dead; it waits for another for ``reserve_s``."""
        entry.host_id = ""
        entry.since_s = self._clock()

    def end(self, call_id: str, reason: str) -> Entry | None:
        """The call is over; None when it was not known. Its reason is remembered for a while."""
        entry = self._entries.pop(call_id, None)
        if entry is not None or call_id not in self._ended:
            self._ended[call_id] = reason
            while len(self._ended) > ENDED_KEPT:
                self._ended.popitem(last=False)
        return entry

    def expired(self) -> list[Entry]:
        """Calls without a host for ``reserve_s``: nobody came for them."""
        limit = self._clock() - self._reserve_s
        return [entry for entry in self._entries.values() if not entry.host_id and entry.since_s <= limit]

    def state(self, call_id: str, gateways: Iterable[str]) -> str:
        """``unknown``, ``reserved``, ``live``, ``lost`` (no gateway or no host has it now) or ``ended:<reason>``."""
        entry = self._entries.get(call_id)
        if entry is None:
            reason = self._ended.get(call_id)
            return "unknown" if reason is None else f"ended:{reason}"
        if not entry.live:
            return "reserved"
        return "live" if entry.host_id and entry.gateway_id in gateways else "lost"
