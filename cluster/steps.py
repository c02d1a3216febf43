"""Told while a stack starts and stops: one line a step on standard error, with its time."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO


class Steps:
    """Prints steps as they end; several may run at once. Never writes to standard output, which carries the ready line.

    Attributes:
        times_s: seconds each step took, by name.
    """

    def __init__(self, out: TextIO | None = None, *, quiet: bool = False) -> None:
        self._out = out or sys.stderr
        self._quiet = quiet
        self._lock = threading.Lock()
        self._start_s = time.monotonic()
        self.times_s: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and print it when it ends; a step that fails is printed as failed and its error goes on."""
        began_s = time.monotonic()
        try:
            yield
        except BaseException:
            self.line(f"{name}: failed after {time.monotonic() - began_s:.1f} s", mark="x")
            raise
        took_s = time.monotonic() - began_s
        self.times_s[name] = round(took_s, 3)
        self.line(f"{name}  {took_s:.1f} s", mark="+")

    def line(self, text: str, *, mark: str = " ") -> None:
        """Print a line with the seconds since the start."""
        if self._quiet:
            return
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._out.write(f"{time.monotonic() - self._start_s:6.1f} {mark} {text}\n")
            self._out.flush()
