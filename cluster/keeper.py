"""Starts the embedded Postgres again when it dies; what would be written meanwhile waits with the journal."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from voice_agent.errors import StorageError

logger = logging.getLogger(__name__)

LOOK_S = 0.3


class Server(Protocol):
    """``storage.embedded.EmbeddedPostgres``."""

    @property
    def pid(self) -> int | None:
        """Process id, None when it is not running."""

    def start(self) -> str:
        """Start it, or join the one that runs."""


class Keeper:
    """Watches one server from a thread of its own, from ``start`` to ``stop``."""

    def __init__(self, server: Server, look_s: float = LOOK_S) -> None:
        self._server = server
        self._look_s = look_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="postgres-keeper", daemon=True)
        self.restarts = 0

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; returns when the server is left alone."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._look_s):
            try:
                if self._server.pid is None:
                    logger.warning("postgres is dead, starting it again")
                    self._server.start()
                    self.restarts += 1
            except (StorageError, OSError) as error:
                # It may be that the disk is full or that remains of the dead one are in the way: try again.
                logger.error("postgres does not start", extra={"reason": str(error)})
