"""Lets the main thread of a Ray worker sleep, where Ray wakes it a hundred times a second.

Ray runs the tasks of an actor from a loop on the main thread, which also looks for signals every 10 ms; there is no
setting for it. An actor on an event loop needs that loop only to take calls of its methods. So the handler of a signal,
which Python runs on the main thread when Ray looks for signals, sleeps for ``PAUSE_S`` and orders the next signal.
Calls of methods wait for it, ``PAUSE_S`` at the most; the event loop, Ray's other threads and other signals do not.
"""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Final

INSTALL: Final = "configs.main_thread.install"
"""What Ray is to run on the main thread of each worker when it starts: only there handlers can be set."""

PAUSE_S: Final = 0.2

_NEXT_S: Final = 0.004
"""Before Ray looks again, so that it looks for nothing only once in ``PAUSE_S``."""


def install() -> None:
    """Make ``rest`` possible in this process. It changes nothing by itself. On the main thread only."""
    signal.signal(signal.SIGALRM, _sleep)


def rest() -> bool:
    """From now on let the main thread sleep; from any thread. False where ``install`` has not run, as in tests."""
    if signal.getsignal(signal.SIGALRM) is not _sleep:
        return False
    signal.setitimer(signal.ITIMER_REAL, _NEXT_S)
    return True


def _sleep(_number: int, _frame: FrameType | None) -> None:
    time.sleep(PAUSE_S)
    signal.setitimer(signal.ITIMER_REAL, _NEXT_S)
