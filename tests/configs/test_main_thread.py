"""A main thread that only looks for signals sleeps instead, again and again; other signals still reach it."""

from __future__ import annotations

import signal
import subprocess
import sys

from configs import main_thread

WORKER = """
import os, signal, threading, time, types
from configs import main_thread

main_thread.install()
naps = []

def nap(pause_s):
    naps.append(pause_s)
    if len(naps) == 3:
        os.kill(os.getpid(), signal.SIGTERM)

def stop(number, frame):
    print(*naps, flush=True)
    os._exit(0)

main_thread.time = types.SimpleNamespace(sleep=nap)
signal.signal(signal.SIGTERM, stop)
thread = threading.Thread(target=main_thread.rest)
thread.start()
while True:
    time.sleep(0.001)  # as Ray's loop does
"""


def test_the_main_thread_sleeps_again_and_again_until_another_signal_comes() -> None:
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=True, timeout=60)
    assert [float(nap) for nap in done.stdout.split()] == [main_thread.PAUSE_S] * 3


def test_without_its_handler_no_signal_is_ordered() -> None:
    """The default of that signal is to end the process."""
    before_s, _ = signal.getitimer(signal.ITIMER_REAL)  # that of a test's time limit
    assert not main_thread.rest()
    assert signal.getitimer(signal.ITIMER_REAL)[0] >= min(before_s, 1.0)


def test_the_name_that_ray_is_given_is_the_function() -> None:
    module, _, name = main_thread.INSTALL.rpartition(".")
    assert getattr(sys.modules[module], name) is main_thread.install
