"""Workers of Ray that are forked from a process which has imported already what each of them would import."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Final

from cluster.forking.client import FOLDER as FOLDER

KIND: Final = "fork_server"
"""Kind of its process among those of a stack."""


def possible() -> bool:
    """Whether this system can: the server watches its raylet through a ``pidfd``, which Linux has."""
    return sys.platform == "linux"


def python() -> str:
    """What Ray is to run in place of Python to start a worker."""
    return shlex.join([sys.executable, "-S", "-E", str(Path(__file__).with_name("client.py"))])
