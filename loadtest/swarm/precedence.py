"""Which process goes first where a generator shares its machine with the stack.

A carrier's clock does not wait for the platform it calls, and on a machine of its own a generator's would not either.
Niceness does not give it that: with autogroups (``sched_autogroup_enabled``) it counts only among the processes of one
session, and the stack has a session of its own. A real-time policy does. It changes when the generator gets its
processor, not how much of it: the same work is done a moment later otherwise, and told as lateness.
"""

from __future__ import annotations

import os
import sys

_NICE = -5
_PRIORITY = 1
"""The lowest of the real-time ones: the kernel's own threads stay in front."""


def go_first() -> str:
    """Put this process, with all threads it starts from now on, before ordinary ones; returns what was granted."""
    if sys.platform == "linux":
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))
        except PermissionError:
            pass  # told below: what is granted instead
        else:
            return f"real time (SCHED_RR {_PRIORITY})"
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    except PermissionError:
        return "ordinary: neither a real-time policy nor a higher priority was granted"
    return f"nice {_NICE}; no real-time policy was granted"
