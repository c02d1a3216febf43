"""Watches the two processes without which a local Ray is none: the GCS is started again, the raylet cannot be.

The GCS keeps its tables on disk (RocksDB), so that another one on the same port knows the actors of the dead one. Until
it is back calls go on, since actors speak to each other without it; no actor is made or found by name.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from voice_agent.errors import VoiceAgentError

logger = logging.getLogger(__name__)

STORAGE: Final = "RAY_gcs_storage"
STORAGE_PATH: Final = "RAY_gcs_storage_path"
ON_DISK: Final = "rocksdb"
MOST_STARTS: Final = 5
"""A GCS that dies more often than this within ``WINDOW_S`` cannot run here: Ray's processes end by themselves when they
have not reached one for a minute."""
WINDOW_S: Final = 60.0


class RayDiedError(VoiceAgentError):
    """The stack's own Ray is gone, and its calls with it."""

    code = "ray_died"
    retryable = True


class Head(Protocol):
    """The processes of a Ray that this process has started."""

    @property
    def raylet_alive(self) -> bool:
        """Whether the raylet runs; its workers end with it."""

    @property
    def gcs_alive(self) -> bool:
        """Whether the GCS runs."""

    def start_gcs(self) -> int:
        """Start the GCS anew where the dead one was. Its process id."""


class HeadWatch:
    """``look`` is to be called on the thread that started Ray, again and again: a GCS dies with the one that forks it.

    Args:
        head: is watched.
        persistent: whether a new GCS would know what the dead one knew.
        clock: seconds, a monotonic one.
    """

    def __init__(self, head: Head, persistent: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._head = head
        self._persistent = persistent
        self._clock = clock
        self._starts_s: deque[float] = deque(maxlen=MOST_STARTS)

    def look(self) -> None:
        """Start the GCS again if it is dead.

        Raises:
            RayDiedError: the raylet is dead, or the GCS is and cannot be started again.
        """
        if not self._head.raylet_alive:
            raise RayDiedError("ray_raylet has died, and all actors with it; its logs are in the run folder")
        if self._head.gcs_alive:
            return
        if not self._persistent:
            raise RayDiedError(f"ray_gcs has died, and what it knew with it: {STORAGE} is not {ON_DISK}")
        now_s = self._clock()
        if len(self._starts_s) == MOST_STARTS and now_s - self._starts_s[0] < WINDOW_S:
            raise RayDiedError(f"ray_gcs has died {MOST_STARTS + 1} times in a minute; its logs are in the run folder")
        self._starts_s.append(now_s)
        logger.warning("ray's GCS is dead, starting it again; calls go on")
        logger.warning("ray's GCS runs again", extra={"pid": self._head.start_gcs()})


class LocalHead:
    """``Head`` of the Ray that ``ray.init`` has started in this process."""

    def __init__(self) -> None:
        import ray

        self._node: Any = ray._private.worker._global_node

    @property
    def raylet_alive(self) -> bool:
        """Its workers end with it."""
        return self._alive("raylet")

    @property
    def gcs_alive(self) -> bool:
        """Whether it runs."""
        return self._alive("gcs_server")

    def _alive(self, kind: str) -> bool:
        return all(info.process.poll() is None for info in self._node.all_processes[kind])

    def start_gcs(self) -> int:
        """With the same command line, on the port of the dead one, which Ray has kept."""
        self._node.kill_gcs_server(check_alive=False)
        self._node.start_gcs_server()
        return int(self._node.all_processes["gcs_server"][0].process.pid)


def keep_on_disk(folder: Path) -> None:
    """Let the GCS that this process starts keep its tables below ``folder``. A flag of the user wins."""
    os.environ.setdefault(STORAGE, ON_DISK)
    os.environ[STORAGE_PATH] = str(folder)


def on_disk() -> bool:
    """Whether it does."""
    return os.environ.get(STORAGE) == ON_DISK
