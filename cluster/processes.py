"""Which processes belong to one stack, found by a mark in their environment, and how they end."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable

import psutil

from cluster import forking

MARK = "VOICE_AGENT_STACK"
"""Environment variable every process of a stack inherits; its value is the stack's own random mark."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Many processes share the cores: a second thread for matrices as small as ours makes them five times slower."""

FEW_HEAPS = {"MALLOC_ARENA_MAX": "2"}
"""glibc gives each of a worker's thirty threads a heap of its own otherwise: 4 MB in each process."""

_SERVE_REPLICA = re.compile(r"^ray::ServeReplica:([^:]+):")
_RAY_TITLE = re.compile(r"^ray::(\w+)")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_RAY_SYSTEM = (
    ("cluster.forking.server", forking.KIND),
    ("gcs_server", "ray_gcs"),
    ("raylet/raylet", "ray_raylet"),
    ("autoscaler", "ray_monitor"),
    ("dashboard/dashboard.py", "ray_dashboard"),
    ("dashboard/agent.py", "ray_agent"),
    ("runtime_env/agent", "ray_agent"),
    ("log_monitor.py", "ray_log_monitor"),
    ("default_worker.py", "ray_idle_worker"),
    ("ray::IDLE", "ray_idle_worker"),
)


def new_mark(run_id: str) -> str:
    """The value of ``MARK`` for a stack run by this process."""
    return f"{run_id}/{os.getpid()}"


def marked(mark: str) -> list[psutil.Process]:
    """Living processes that carry ``mark``, this one excepted. Those we may not look into are not ours."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def kind_of(process: psutil.Process) -> str:
    """What a process of a stack is: ``call_host``, ``stt``, ``ray_raylet``, ``postgres`` ..."""
    try:
        line = " ".join(process.cmdline()).strip()
        name = process.name()
    except psutil.Error:
        return "gone"
    if "cluster.guard" in line:
        return "guard"
    if name.startswith("postgres"):
        return "postgres"
    replica = _SERVE_REPLICA.match(line)
    if replica:
        return replica.group(1)
    for needle, kind in _RAY_SYSTEM:
        if needle in line:
            return kind
    actor = _RAY_TITLE.match(line)
    return _CAMEL.sub("_", actor.group(1)).lower() if actor else "other"


def by_kind(processes: Iterable[psutil.Process]) -> dict[str, list[int]]:
    """Process ids grouped by kind, for the ready line and for benchmarks."""
    kinds: dict[str, list[int]] = {}
    for process in processes:
        kinds.setdefault(kind_of(process), []).append(process.pid)
    return {kind: sorted(pids) for kind, pids in sorted(kinds.items()) if kind != "gone"}


def end(processes: list[psutil.Process], *, grace_s: float) -> list[int]:
    """Ask processes to end, kill what is left after ``grace_s``, and return the ids that had to be killed."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=2.0)
    return [process.pid for process in alive]


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
