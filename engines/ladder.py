"""What the fallback engines of all ports share: rungs with a breaker each, and when a stream counts as stalled."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from engines import registry
from voice_agent.breaker import Breaker, BreakerSettings
from voice_agent.errors import ConfigError, DeadlineExceededError, EngineFailedError, VoiceAgentError
from voice_agent.ports import Capabilities

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class Rung:
    """One engine. ``last`` is never skipped and knows no deadline: there is nothing behind it."""

    name: str
    engine: Any
    last: bool
    breaker: Breaker
    used: int = 0
    faults: dict[str, int] = field(default_factory=dict)


class Ladder:
    """Engines of one port, best first. ``clock`` gives seconds.

    Args:
        port: stt, llm or tts.
        engines: mappings with ``engine`` and, where wanted, ``options``; two or more.
        breaker: ``faults``, ``window_s`` and ``cool_down_s``; see ``BreakerSettings``.
    """

    def __init__(
        self,
        port: str,
        engines: Sequence[Mapping[str, Any]],
        breaker: Mapping[str, float] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if len(engines) < 2 or not all(item.get("engine") for item in engines):
            raise ConfigError(f"The {port} engine 'fallback' needs two or more engines, each with its name in engine.")
        settings = _breaker_settings(port, breaker or {})
        self._port = port
        self._clock = clock
        self._probes: set[asyncio.Task[None]] = set()
        loaded = [registry.load(port, str(item["engine"]), item.get("options")) for item in engines]
        self.rungs = [
            Rung(_name(loaded, number), engine, last=number == len(loaded) - 1, breaker=Breaker(settings))
            for number, engine in enumerate(loaded)
        ]

    def usable(self, *, cheap: bool = False) -> list[Rung]:
        """The rungs to try now, in order; ``cheap`` puts the last one first."""
        found = [rung for rung in self.rungs if rung.last or rung.breaker.allows]
        return [found[-1], *found[:-1]] if cheap else found

    def due(self) -> Rung | None:
        """A rung that is to be probed now; its outcome must be told with ``probe=True``."""
        now_ms = self._now_ms()
        return next((rung for rung in self.rungs if not rung.last and rung.breaker.may_probe(now_ms)), None)

    def succeeded(self, rung: Rung, *, probe: bool = False) -> None:
        """The engine did well."""
        rung.used += not probe
        if rung.breaker.success(self._now_ms(), probe=probe):
            logger.info("engine is back", extra={"port": self._port, "engine": rung.name})

    def failed(self, rung: Rung, error: VoiceAgentError, *, probe: bool = False) -> None:
        """The engine failed, hung, trickled or gave silence."""
        rung.faults[error.code] = rung.faults.get(error.code, 0) + 1
        fields = {"port": self._port, "engine": rung.name, "code": error.code, "reason": error.message}
        logger.warning("engine at fault", extra=fields | {"probe": probe})
        if not rung.last and rung.breaker.fault(self._now_ms(), probe=probe):
            logger.warning("engine is skipped", extra=fields)

    def probe(self, rung: Rung, work: Coroutine[Any, Any, None]) -> None:
        """Run a probe beside the request that is answered by another rung; nobody waits for it."""

        async def run() -> None:
            try:
                await work
            except VoiceAgentError as error:
                self.failed(rung, error, probe=True)
            else:
                self.succeeded(rung, probe=True)

        task = asyncio.create_task(run(), name=f"probe-{self._port}-{rung.name}")
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    def states(self) -> dict[str, dict[str, Any]]:
        """By engine: the state of its breaker, times it was used, faults by code."""
        return {
            rung.name: {
                "breaker": rung.breaker.state.value,
                "opened": rung.breaker.opened,
                "used": rung.used,
                "faults": dict(rung.faults),
            }
            for rung in self.rungs
        }

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _name(engines: Sequence[Any], number: int) -> str:
    """The engine's own name; the second of the same name is told apart by its place."""
    names = [engine.capabilities.name for engine in engines]
    name = str(names[number])
    return f"{name}-{number + 1}" if name in names[:number] else name


def _breaker_settings(port: str, given: Mapping[str, float]) -> BreakerSettings:
    known = {"faults": 3, "window_s": 30.0, "cool_down_s": 5.0}
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(f"The {port} engine's breaker has no {', '.join(unknown)}; allowed: {', '.join(known)}.")
    values = known | dict(given)
    return BreakerSettings(
        round(values["faults"]), round(values["window_s"] * 1000), round(values["cool_down_s"] * 1000)
    )


def joint_capabilities(ladder: Ladder) -> Capabilities:
    """Those of the first engine; simulated when any is, and as parallel as the least of them."""
    every: list[Capabilities] = [rung.engine.capabilities for rung in ladder.rungs]
    simulated = any(one.simulated for one in every)
    return replace(every[0], simulated=simulated, parallel=min(one.parallel for one in every))


async def timed(
    stream: AsyncIterator[T], patience_s: Callable[[int, T | None, float], float | None], port: str
) -> AsyncGenerator[T, None]:
    """Items of an engine's stream, each within its deadline; whatever an engine raises becomes one of our errors.

    Args:
        stream: closed at the end, or left to close by itself when it does not react: a hung engine must not hang us.
        patience_s: called with the number of items so far, the last one, and the seconds since the first; gives the
            seconds to wait for the next, None for ever.
        port: named in errors.

    Raises:
        DeadlineExceededError: no item in time.
        EngineFailedError: the engine failed.
    """
    loop = asyncio.get_running_loop()
    items: Any = stream
    given, last, first_s = 0, None, loop.time()
    pending: asyncio.Future[T] | None = None
    try:
        while True:
            pending = asyncio.ensure_future(anext(items))
            wait_s = patience_s(given, last, loop.time() - first_s)
            await asyncio.wait((pending,), timeout=wait_s)
            if not pending.done():
                raise DeadlineExceededError(f"the {port} engine stalled after {given} items")
            try:
                last = pending.result()
            except StopAsyncIteration:
                return
            if not given:
                first_s = loop.time()
            given += 1
            yield last
    except VoiceAgentError:
        raise
    except Exception as error:  # the border to an engine of any library
        raise EngineFailedError(f"the {port} engine failed: {type(error).__name__}: {error}") from error
    finally:
        await _let_go(items, pending)


CLOSING: set[asyncio.Task[None]] = set()
"""Streams that are being closed while nobody waits for them any more."""
CLOSE_S = 0.1


async def _let_go(items: Any, pending: asyncio.Future[Any] | None) -> None:
    """Close a stream; wait a moment for it, not for ever."""

    async def close() -> None:
        if pending is not None and not pending.done():
            pending.cancel()
            await asyncio.wait((pending,))
        if pending is not None and not pending.cancelled():
            pending.exception()  # seen, whatever it was
        await items.aclose()

    task = asyncio.ensure_future(close())
    CLOSING.add(task)
    task.add_done_callback(_closed)
    await asyncio.wait((task,), timeout=CLOSE_S)


def _closed(task: asyncio.Task[None]) -> None:
    CLOSING.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.info("an engine failed while its stream was closed", exc_info=error)
