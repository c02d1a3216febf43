"""What a generator was granted before other processes is what it says."""

import subprocess
import sys

import pytest

ASK = """
import os, sys
from unittest import mock
from loadtest.swarm.precedence import go_first
refuse = mock.Mock(side_effect=PermissionError)
real_time, nice = sys.argv[1:]
if real_time == "refused":
    os.sched_setscheduler = refuse
if nice == "refused":
    os.setpriority = refuse
else:
    os.setpriority = lambda which, who, priority: None
print(go_first(), os.sched_getscheduler(0) == os.SCHED_RR, sep="|")
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="real-time policies are asked for on Linux only")


def asked(real_time, nice):
    done = subprocess.run([sys.executable, "-c", ASK, real_time, nice], capture_output=True, text=True, check=True)
    return done.stdout.strip().split("|")


@linux
def test_real_time_is_told_where_it_was_granted():
    told, is_real_time = asked("asked for", "refused")
    assert (told == "real time (SCHED_RR 1)") == (is_real_time == "True")


@linux
@pytest.mark.parametrize(
    ("nice", "told"),
    [("granted", "nice -5; no real-time policy was granted"), ("refused", "ordinary: neither")],
)
def test_less_is_told_as_less(nice, told):
    found, is_real_time = asked("refused", nice)
    assert found.startswith(told)
    assert is_real_time == "False"
