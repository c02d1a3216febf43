"""Workers of Ray that are forked from a process which has imported already what each of them would import."""

from __future__ import annotations

import ctypes
import os
import shlex
import sys
from pathlib import Path
from typing import Final

from cluster.forking.client import FOLDER as FOLDER

_SET_CHILD_SUBREAPER: Final = 36
"""``PR_SET_CHILD_SUBREAPER`` of ``<linux/prctl.h>``."""

KIND: Final = "fork_server"
"""Kind of its process among those of a stack."""


def possible() -> bool:
    """Whether this system can: the server watches its raylet through a ``pidfd``, which newer kernels of Linux have."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def adopt() -> None:
    """Let a server, which is started by a client that ends, become a child of this process, with all its workers.

    Raises:
        OSError: the kernel refuses.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def python() -> str:
    """What Ray is to run in place of Python to start a worker."""
    return shlex.join([sys.executable, "-S", "-E", str(Path(__file__).with_name("client.py"))])
