"""What a started process does: nothing of its start is collected again, and memory it has freed is given back."""

from __future__ import annotations

import ctypes
import gc
import platform
import re
import subprocess
import sys
import weakref
from collections.abc import Iterator

import psutil
import pytest

from configs.process import settle, settled_at_start


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_a_constructor_settles_its_process() -> None:
    class Thing:
        def __init__(self, size: int, *, name: str) -> None:
            assert gc.get_freeze_count() == 0, "what the constructor loads is not there yet"
            self.told = (size, name)

    made = settled_at_start(Thing)
    gc.unfreeze()
    assert made(3, name="x").told == (3, "x")
    assert gc.get_freeze_count() > 1000
    assert made.__name__ == "Thing"


def test_what_is_left_in_cycles_does_not_wait_until_it_is_as_much_as_was_frozen() -> None:
    frozen: list[list[object]] = [[] for _ in range(500_000)]
    settle()
    left = Left()
    left.itself = left
    gone = weakref.ref(left)
    gc.collect(1)  # it grows old, as a call does
    del left
    kept: list[list[object]] = [[] for _ in range(100_000)]
    assert gone() is None, (len(frozen), len(kept))


_TIDY = """
import gc, threading, types, weakref
from queue import Queue
from configs import process

class Left:
    pass

rounds = Queue()
process.time = types.SimpleNamespace(sleep=lambda _: rounds.get())
process.keep_tidy()
process.keep_tidy()
left, gone = Left(), threading.Event()
left.itself = left
weakref.finalize(left, gone.set)
gc.collect(1)
del left
assert not gone.is_set()
rounds.put(None)
assert gone.wait(10)
assert [thread.name for thread in threading.enumerate()].count("tidy") == 1
"""


def test_a_process_that_is_kept_tidy_needs_nobody_to_make_garbage() -> None:
    subprocess.run([sys.executable, "-c", _TIDY], check=True, timeout=60)


class Left:
    itself: Left | None = None


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_holes_in_the_heap_go_back() -> None:
    blocks = [bytes(2000) for _ in range(30_000)]
    # The last one is at the top of the heap: what is below it is not given back by freeing it.
    del blocks[:-1]
    before = psutil.Process().memory_info().rss
    settle()
    assert before - psutil.Process().memory_info().rss > 30e6


_RESERVE = """
import sys, psutil
from configs.process import touch_heap
if sys.argv[1] == "reserved":
    touch_heap(4.0)
def grown(size, count):
    before = psutil.Process().memory_info().rss
    taken = [b"." * size for _ in range(count)]
    return psutil.Process().memory_info().rss - before
print(grown(5000, 600), grown(300, 2500))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_work_finds_the_memory_that_was_reserved() -> None:
    def grown(how: str) -> list[int]:
        told = subprocess.run(
            [sys.executable, "-c", _RESERVE, how], check=True, timeout=60, capture_output=True, text=True
        )
        return [int(size) for size in told.stdout.split()]

    assert all(size > least for size, least in zip(grown("new"), (2e6, 5e5), strict=True))
    assert all(size < 1e5 for size in grown("reserved"))


_GIVEN_BACK = """
import ctypes, psutil
from configs.process import touch_again, touch_heap
def rss():
    return psutil.Process().memory_info().rss
touch_heap(4.0)
touched = rss()
ctypes.CDLL(None).malloc_trim(0)
trimmed = rss()
touch_again()
print(touched - trimmed, touched - rss())
"""


def _populates() -> bool:
    """Linux from 5.14 on, with glibc."""
    release = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    return sys.platform == "linux" and release >= (5, 14) and hasattr(ctypes.CDLL(None), "malloc_trim")


@pytest.mark.skipif(not _populates(), reason="no MADV_POPULATE_WRITE")
def test_memory_that_a_library_gives_back_is_touched_again() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _GIVEN_BACK], check=True, timeout=60, capture_output=True, text=True
    ).stdout.split()
    given_back, missing = map(int, told)
    assert given_back > 3e6
    assert missing < 2e5
