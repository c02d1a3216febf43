"""Lets ``grpc.aio`` free what it has allocated for a request that is cancelled.

Its ``execute_batch`` allocates 80 bytes for each operation of a batch, and what it sends, and frees both when it goes
on after Core is done. It never goes on if its task is cancelled meanwhile, or if the batch fails, as all do on a
request that is cancelled: 100 to 1,000 bytes for good, at both ends (grpc/grpc issue 43360). Calls cancel requests turn
by turn. Here ``execute_batch`` waits for Core alone and goes on whatever Core says; whoever began the batch waits for a
future beside it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

KEEPS: Final = ((1, 69), (1, 86))
"""Versions of gRPC, from the first to before the last, in which this has been seen and no release frees it."""

_CORE: Final = "grpc._cython.cygrpc"
_ARGUMENTS: Final = ("grpc_call_wrapper", "operations", "loop")


def free_batches() -> bool:
    """From now on free them, once in a process; what runs already ends as it began.

    Returns:
        False where gRPC has not been imported, or is not one that keeps them: nothing is changed then.
    """
    core: Any = sys.modules.get(_CORE)
    if core is None:
        return False
    execute = core.execute_batch
    if execute.__module__ != __name__:
        version = tuple(int(number) for number in sys.modules["grpc"].__version__.split(".")[:2])
        code = execute.__code__
        if not KEEPS[0] <= version < KEEPS[1] or code.co_varnames[: code.co_argcount] != _ARGUMENTS:
            return False
        core.execute_batch = _freeing(execute)
    return True


def _freeing(execute: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    async def execute_batch(call: Any, operations: tuple[Any, ...], loop: asyncio.AbstractEventLoop) -> None:
        batch = _Batch(loop)
        batch.begin(execute(call, operations, batch))
        await batch.over

    return execute_batch


class _Batch:
    """The loop of ``execute_batch``, and the future in which Core tells it the end of a batch."""

    __slots__ = ("_loop", "_rest", "over")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._rest: Coroutine[Any, Any, None] | None = None
        self.over: asyncio.Future[None] = loop.create_future()

    def begin(self, execute: Coroutine[Any, Any, None]) -> None:
        """Hand the operations to Core, which holds this object until it is done with them."""
        self._rest = execute
        execute.send(None)

    def create_future(self) -> _Batch:
        """Called by ``execute_batch``."""
        return self

    def __await__(self) -> Generator[_Batch, None, None]:
        yield self

    def call_soon_threadsafe(self, told: Callable[..., None], *arguments: Any) -> None:
        """Called by the loop that hears from Core, since this is not that loop."""
        if asyncio.get_running_loop() is self._loop:
            told(*arguments)
        else:
            self._loop.call_soon_threadsafe(told, *arguments)

    def cancelled(self) -> bool:
        """Never: the cancelled one is ``over``, and Core's word is still to be taken."""
        return False

    def set_result(self, _: None) -> None:
        """The batch is done."""
        self._end(None)

    def set_exception(self, failure: BaseException) -> None:
        """The batch has failed."""
        self._end(failure)

    def _end(self, failure: BaseException | None) -> None:
        rest, self._rest = self._rest, None
        if rest is None:
            return
        try:
            rest.send(None)
        except StopIteration:
            pass
        except (ValueError, RuntimeError) as error:  # what has been received cannot be read
            failure = failure or error
        if self.over.done():
            return
        if failure is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(failure)
