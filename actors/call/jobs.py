"""How a call runs requests to the model plane: absolute deadlines, one retry, nothing left open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from voice_agent.errors import DeadlineExceededError, VoiceAgentError

T = TypeVar("T")


async def answer_of(call: Callable[[], Awaitable[T]], give_up_at_s: float) -> T:
    """Await ``call()``; once more when it fails in a way another replica may not.

    Args:
        call: makes the request; called once or twice.
        give_up_at_s: absolute time on the event loop's clock, for both attempts together.

    Raises:
        DeadlineExceededError: no answer in time.
        VoiceAgentError: what the second attempt, or one that is not worth repeating, raised.
    """
    try:
        async with asyncio.timeout_at(give_up_at_s):
            try:
                return await call()
            except VoiceAgentError as error:
                if not error.retryable:
                    raise
            return await call()
    except TimeoutError:
        raise DeadlineExceededError("the stage gave no answer within its deadline") from None


async def items_of(open_stream: Callable[[], AsyncGenerator[T, None]], patience_s: float) -> AsyncGenerator[T, None]:
    """Items of a stream.

    A stream that fails before its first item is opened once more, within the same ``patience_s``; one that has given
    something is not, since what it gave may be playing (``clause_speech`` knows how to go on). Between items it may be
    silent for ``patience_s``.

    Raises:
        DeadlineExceededError: silent for too long.
        VoiceAgentError: the stream failed.
    """
    loop = asyncio.get_running_loop()
    give_up_at_s = loop.time() + patience_s
    retried, given = False, False
    while True:
        async with aclosing(open_stream()) as stream:
            try:
                while True:
                    item = await next_of(stream, give_up_at_s)
                    given = True
                    yield item
                    give_up_at_s = loop.time() + patience_s
            except StopAsyncIteration:
                return
            except VoiceAgentError as error:
                if given or retried or not error.retryable or loop.time() >= give_up_at_s:
                    raise
                retried = True


async def next_of(stream: AsyncGenerator[T, None], give_up_at_s: float | None) -> T:
    """The next item, by an absolute time on the event loop's clock if there is one.

    Raises:
        DeadlineExceededError: no item in time.
        StopAsyncIteration: there are no more.
    """
    try:
        async with asyncio.timeout_at(give_up_at_s):
            return await anext(stream)
    except TimeoutError:
        raise DeadlineExceededError("the stream was silent for longer than its deadline") from None
