"""``voice-agent up``."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.common import ConfigOption, DataDirOption, ProfileOption, SetOption, resolved

if TYPE_CHECKING:
    from types import FrameType

    from cluster.stack import Stack

_STOP_WITHIN_S = 40.0
_SAME_SIGNAL_S = 1.0
_LOOK_S = 0.5


def up(
    profile: ProfileOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    data_dir: DataDirOption = None,
    leash: Annotated[
        bool, typer.Option("--leash", hidden=True, help="Stop when standard input closes: for programs that start us.")
    ] = False,
) -> None:
    """Start the platform here, in the foreground. Ctrl-C stops all it started, and nothing else.

    When calls may come, one line of JSON goes to standard output; all else goes to standard error.
    """
    from cluster.stack import Stack
    from cluster.steps import Steps
    from configs import logs

    settings = resolved(profile, config, overrides, data_dir).settings
    logs.set_up(settings.telemetry.log_level)
    stopper = _Stopper()
    stopper.install()
    if leash:
        threading.Thread(target=_follow_stdin, daemon=True).start()
    steps = Steps()
    stack = Stack(settings, steps)
    # Ray prints its warnings to standard output, from threads of its own and at any time.
    output, sys.stdout = sys.stdout, sys.stderr
    try:
        ready = stack.start()
        stopper.install()  # ray.init has put its own handler for SIGTERM there
        steps.line("ready; Ctrl-C stops it")
        output.write(json.dumps(ready.as_dict()) + "\n")
        output.flush()
        _watch(stack)
    except KeyboardInterrupt:
        steps.line("stopping")
    finally:
        stopper.stopping()
        stack.stop()
        steps.line("stopped")
        sys.stdout = output


class _Stopper:
    """The first SIGINT or SIGTERM ends the start or the run; one more while stopping leaves the rest to the guard."""

    def __init__(self) -> None:
        self._stopping_since_s: float | None = None

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)

    def stopping(self) -> None:
        """A clean stop has begun; it is given a bounded time."""
        self._stopping_since_s = self._stopping_since_s or time.monotonic()
        self.install()
        timer = threading.Timer(_STOP_WITHIN_S, lambda: os._exit(1))
        timer.daemon = True
        timer.start()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._stopping_since_s is None:
            self._stopping_since_s = time.monotonic()
            raise KeyboardInterrupt
        # `timeout` and some supervisors send a signal to the process and at once to its group as well.
        if time.monotonic() - self._stopping_since_s > _SAME_SIGNAL_S:
            os._exit(128 + number)


def _watch(stack: Stack) -> None:
    """Look after it until a signal comes, or until a process without which there is no stack has died."""
    while True:
        time.sleep(_LOOK_S)
        stack.look()


def _follow_stdin() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
