"""What the processes of a running stack cost: CPU seconds and memory (PSS), by kind of process.

PSS divides each shared page among those who share it, so the sum over processes is what the machine really holds;
the sum of RSS counts the libraries of every Ray worker again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil

_SERVE_REPLICA = re.compile(r"^ray::ServeReplica:([^:]+):")
_RAY_ACTOR = re.compile(r"^ray::(\w+)")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
CALL_ACTOR = "call_actor"
"""Kind of the processes that host calls (Ray title ``ray::CallActor``)."""
GCS = "ray_gcs"
"""Kind of Ray's process that knows which actors there are."""


def kind_of(process: psutil.Process) -> str:
    """Kind of a process that the stack did not name itself, from its title."""
    try:
        title = " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return "gone"
    replica = _SERVE_REPLICA.match(title)
    if replica:
        return replica.group(1)
    actor = _RAY_ACTOR.match(title)
    if actor:
        return "ray_idle_worker" if actor.group(1) == "IDLE" else _CAMEL.sub("_", actor.group(1)).lower()
    if "/gcs_server " in title:
        return GCS
    return "postgres" if "postgres" in title[:80] else "other"


@dataclass(frozen=True, slots=True)
class Usage:
    """All processes at one moment, by kind. CPU counts processes that have ended since the sampler began too."""

    cpu_s: Mapping[str, float]
    pss_mb: Mapping[str, float]
    processes: Mapping[str, int]

    @property
    def total_cpu_s(self) -> float:
        """CPU seconds, user and system."""
        return sum(self.cpu_s.values())

    @property
    def total_pss_mb(self) -> float:
        """Memory of the whole stack."""
        return sum(self.pss_mb.values())


@dataclass(slots=True)
class _Seen:
    process: psutil.Process
    kind: str
    cpu_s: float = 0.0


@dataclass(slots=True)
class StackSampler:
    """Follows the processes of one stack, and what they start. One owner.

    ``without`` are processes that do not belong to it although it may have started them: a load test that runs as a
    Ray job of the stack is no part of it. ``unreadable`` counts processes whose memory this user may not see; their PSS
    is missing.
    """

    pids: Mapping[int, str]
    unreadable: int = 0
    without: set[int] = field(default_factory=set)
    _seen: dict[int, _Seen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for pid, kind in self.pids.items():
            self._add(pid, kind)

    @classmethod
    def of_ready_line(cls, pids: Mapping[str, list[int]]) -> StackSampler:
        """For the ``pids`` of the ready line: kind to process ids."""
        return cls({pid: kind for kind, members in pids.items() for pid in members})

    def cpu(self, *, discover: bool = True) -> dict[str, float]:
        """CPU seconds by kind. No memory is read; without ``discover`` processes started since are not looked for."""
        if discover:
            self._discover()
        totals: dict[str, float] = {}
        for seen in self._seen.values():
            try:
                times = seen.process.cpu_times()
                seen.cpu_s = times.user + times.system
            except psutil.Error:
                pass  # it has ended: what it had used last stays counted
            totals[seen.kind] = totals.get(seen.kind, 0.0) + seen.cpu_s
        return totals

    def usage(self, rest_s: float = 0.0) -> Usage:
        """CPU and memory. Reading PSS walks the page tables: some ms for each process, so not during a measurement.

        A process that allocates memory waits while its own are walked. ``rest_s`` is slept after each process, so that
        the stack is not held up in many places at once.
        """
        cpu_s = self.cpu()
        pss_mb: dict[str, float] = {}
        count: dict[str, int] = {}
        self.unreadable = 0
        for seen in self._seen.values():
            try:
                if not seen.process.is_running():
                    continue
                memory = seen.process.memory_full_info()
            except psutil.NoSuchProcess:
                continue
            except psutil.AccessDenied:
                self.unreadable += 1
                continue
            count[seen.kind] = count.get(seen.kind, 0) + 1
            pss_mb[seen.kind] = pss_mb.get(seen.kind, 0.0) + memory.pss / 1e6
            if rest_s:
                time.sleep(rest_s)
        return Usage(cpu_s, pss_mb, count)

    def _discover(self) -> None:
        """Processes started since: children of those we know. One pass over all processes, whatever they are."""
        parents = {process.pid: process.info["ppid"] for process in psutil.process_iter(["ppid"])}
        found = {pid for pid in parents if pid not in self._seen and pid not in self.without}
        while born := {pid for pid in found if parents[pid] in self._seen}:
            for pid in born:
                self._add(pid)
            found -= born
        for seen in self._seen.values():
            # A warm worker gets its title when its actor is made.
            if seen.kind in ("other", "ray_idle_worker"):
                kind = kind_of(seen.process)
                seen.kind = seen.kind if kind in ("other", "gone") else kind

    def _add(self, pid: int, kind: str = "") -> None:
        try:
            process = psutil.Process(pid)
        except psutil.Error:
            return
        self._seen[pid] = _Seen(process, kind or kind_of(process))
