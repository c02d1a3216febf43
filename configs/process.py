"""What a process of the stack does when it has started."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import threading
import time
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from configs import grpc_batches, main_thread

K = TypeVar("K")

TIDY_S: Final = 60.0
HEAP_MB: Final = 0.5
"""What the work of a process takes of its heap in half an hour of a hundred calls, if it does not hold calls itself."""

_TIDY: Final = "tidy"
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_NEVER: Final = 1 << 30
# glibc maps larger blocks one by one. What a process frees raises its own limit, 128 KB, until its trimming is set.
_MMAP_BYTES: Final = 4 << 20
# Python has a heap of its own for objects of up to 512 bytes, in arenas that it gives back when nothing is in them.
_ARENA_BYTES: Final = 1 << 20
_SMALL_BYTES: Final = 460
_LARGE_BYTES: Final = 60_000
_POPULATE_WRITE: Final = 23
_kept: Final[list[bytes]] = []
_touched: Final[list[tuple[int, int]]] = []
"""Address and length of what ``touch_heap`` has touched of the C library's heap, in whole pages."""


def begin_work(heap_mb: float = HEAP_MB) -> None:
    """All that a process of the stack does between its start and its work: see the three below. May be called again."""
    settle()
    touch_heap(heap_mb)
    keep_tidy()


def settle() -> None:
    """Take what is there, most of it libraries, out of garbage collections, and give back what the start has freed.

    A full collection of a process that holds Ray and Serve takes 50-100 ms, in which all its calls stand still; of what
    calls leave behind, under 1 ms. Loading a model leaves holes in the heaps of the C library, 11 MB in the retriever,
    which glibc keeps until it is asked; other C libraries have no such call.
    """
    gc.collect()
    gc.freeze()
    # Python looks at old objects again when a quarter as many are new. It counts the frozen ones until it has looked
    # once more, and what a thousand calls leave behind (media buffers, in cycles of references) would wait for that.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def touch_heap(megabytes: float) -> None:
    """Touch ``megabytes`` of the heap of the calling thread, and one more for small objects, before work begins.

    What lives for seconds leaves holes in a heap, and each moment busier than all before adds some: it grows for
    hours, ever more slowly, though nothing is kept. In memory that is there already this takes no more of the machine,
    and no call waits for a page. From now on glibc keeps what it has. Does nothing when called again.
    """
    if _kept:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
    large = [b"." * _LARGE_BYTES for _ in range(int(megabytes * 1e6) // _LARGE_BYTES)]
    small = [b"." * _SMALL_BYTES for _ in range(int(2.5 * _ARENA_BYTES) // _SMALL_BYTES)]
    _touched.extend(_stretches(map(id, large)))
    # The last block stays, so that what is below is not the end of the heap. The small one in the middle lies in an
    # arena that is touched throughout, and keeps it.
    _kept.extend((max(large, key=id), small[len(small) // 2]))
    del large, small


def touch_again() -> None:
    """Touch what ``touch_heap`` did where it was given back since; Linux from 5.14 on, nothing elsewhere.

    Protobuf's C code asks glibc to give back all free memory (``malloc_trim``) with each ten thousandth message that it
    lets go, in a call actor every few minutes.
    """
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is not None:
        for start, length in _touched:
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _POPULATE_WRITE)


def _stretches(addresses: Iterable[int]) -> list[tuple[int, int]]:
    """Blocks of ``_LARGE_BYTES`` as pages: address and length, those that follow each other as one."""
    ends: dict[int, int] = {}
    start = end = 0
    for address in sorted(addresses):
        first = address // mmap.PAGESIZE * mmap.PAGESIZE
        start = start if first <= end else first
        end = ends[start] = -(-(address + _LARGE_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
    return [(start, end - start) for start, end in ends.items()]


def keep_tidy() -> None:
    """From now on keep nothing of requests that are over, and collect garbage every ``TIDY_S``, once in a process.

    Python waits until a quarter of what has survived is new. What ended calls leave behind in cycles of references then
    grows with each of them, in a gateway for 900 calls and by 34 MB. After ``settle`` a collection takes a few
    milliseconds.
    """
    grpc_batches.free_batches()
    if not any(thread.name == _TIDY for thread in threading.enumerate()):
        threading.Thread(target=_tidy, name=_TIDY, daemon=True).start()


def _tidy() -> None:
    while True:
        time.sleep(TIDY_S)
        gc.collect()
        touch_again()


def settled_at_start(kind: type[K]) -> type[K]:
    """``kind`` for a process of its own, which is settled when its constructor has loaded all.

    Its main thread may sleep then, where requests come to a replica by gRPC and not through that thread.
    """

    def construct(self: Any, *arguments: Any, **named: Any) -> None:
        kind.__init__(self, *arguments, **named)
        begin_work()
        if os.environ.get("RAY_SERVE_THROUGHPUT_OPTIMIZED") == "1":
            main_thread.rest()

    made: type[K] = type(kind.__name__, (kind,), {"__init__": construct, "__doc__": kind.__doc__})
    return made
