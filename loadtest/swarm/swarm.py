"""A swarm of emulated calls: places a plan's calls from several generator processes and collects what they measured.

```python
async with Swarm(target, plan, folder) as swarm:
    swarm.at(10.0, kill_something)        # seconds after the first call
    result = await swarm.run()
```
The carrier places ``rate_per_s`` calls a second; a call that is due while the queue is busy waits, as at a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from loadtest.carrier import CallTarget, is_loopback
from loadtest.place import CallOutcome
from loadtest.swarm import pipe
from loadtest.swarm.plan import LoadPlan
from voice_agent.errors import ConfigError, VoiceAgentError

GENERATOR = (sys.executable, "-m", "loadtest.swarm.generator")
_READY_WITHIN_S = 60.0
_LEAVE_WITHIN_S = 30.0
Hook = Callable[["Swarm"], Awaitable[None]]


class GeneratorFailedError(VoiceAgentError):
    """A generator process ended while it had calls."""

    code = "generator_failed"


@dataclass(frozen=True, slots=True)
class SwarmCall:
    """One call of the swarm. ``at_s`` is when it was placed, in seconds after the first."""

    number: int
    at_s: float
    outcome: CallOutcome


@dataclass(slots=True)
class GeneratorCost:
    """One generator process: CPU seconds while calls were placed, ticks by tenths of a millisecond of lateness."""

    pid: int
    speech: str
    cpu_s: float = 0.0
    late: dict[int, int] = field(default_factory=dict)
    late_largest_ms: float = 0.0
    precedence: str = ""


@dataclass(frozen=True, slots=True)
class SwarmResult:
    """All calls, and what making them cost.

    Attributes:
        began_at_s: Unix time of the first call.
        full_s, steady_end_s: seconds after the first call when the last of the first ``calls`` was placed, and when no
            call was placed any more.
        wall_s: to the end of the last call.
    """

    plan: LoadPlan
    calls: tuple[SwarmCall, ...]
    generators: tuple[GeneratorCost, ...]
    began_at_s: float
    full_s: float
    steady_end_s: float
    wall_s: float


class Swarm:
    """Generator processes and the calls in them. One owner; use it as a context."""

    def __init__(self, target: CallTarget, plan: LoadPlan, out_dir: Path, *, foreign: bool = False) -> None:
        """``out_dir`` gets the recordings. ``foreign`` allows a target that is not on this machine.

        Raises:
            ConfigError: the target is another machine.
        """
        if not foreign:
            refuse_foreign(target)
        self.plan = plan
        self._target = target if foreign else replace(target, loopback_only=True)
        self._out_dir = out_dir
        self._members: list[_Member] = []
        self._stack = contextlib.AsyncExitStack()
        self._hooks: list[tuple[float, Hook]] = []
        self._observers: list[Callable[[pipe.Noted | pipe.Ended], None]] = []
        self._changed = asyncio.Event()
        self._placed_at_s: dict[int, float] = {}
        self._began_s = 0.0
        self._leaving = False
        self.calls: list[SwarmCall] = []

    async def __aenter__(self) -> Swarm:
        self._out_dir.mkdir(parents=True, exist_ok=True)
        async with contextlib.AsyncExitStack() as stack:
            setup = pipe.Setup(self._target, self.plan, str(self._out_dir))
            for _ in range(self.plan.processes):
                self._members.append(await stack.enter_async_context(_member(setup, self._take)))
            for member in self._members:
                await member.ready()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    # --- while it runs ---

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first call."""
        return time.monotonic() - self._began_s if self._began_s else 0.0

    @property
    def placed(self) -> int:
        """Calls placed so far."""
        return len(self._placed_at_s)

    @property
    def up(self) -> int:
        """Calls going on."""
        return sum(len(member.up) for member in self._members)

    @property
    def generators(self) -> tuple[GeneratorCost, ...]:
        """What the generators have cost so far."""
        return tuple(member.cost for member in self._members)

    def at(self, after_s: float, hook: Hook) -> None:
        """Run ``hook`` so long after the first call, beside the calls; what it raises ends the run."""
        self._hooks.append((after_s, hook))

    def observe(self, observer: Callable[[pipe.Noted | pipe.Ended], None]) -> None:
        """Tell ``observer`` of what happens in calls."""
        self._observers.append(observer)

    def cut(self, *numbers: int) -> None:
        """Cut the sockets of these calls; of all without a number."""
        for member in self._members:
            member.send(pipe.Cut(numbers or None))

    def leave(self) -> None:
        """No call is placed any more, and every caller hangs up when it has finished its line."""
        self._leaving = True
        for member in self._members:
            member.send(pipe.Leave())
        self._changed.set()

    # --- the run ---

    async def run(self) -> SwarmResult:
        """Place all calls of the plan and wait for their ends.

        Raises:
            GeneratorFailedError: a generator process died.
        """
        began_at_s, self._began_s = time.time(), time.monotonic()
        before = [member.cost.cpu_s for member in self._members]
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(self._later(after_s, hook)) for after_s, hook in self._hooks]
            beside += [tasks.create_task(member.watch()) for member in self._members]
            full_s = await self._fill()
            await self._keep_up(full_s)
            steady_end_s = self.elapsed_s
            await self._drain()
            wall_s = self.elapsed_s
            for task in beside:
                task.cancel()
        await self._stack.aclose()
        for member, cpu_s in zip(self._members, before, strict=True):
            member.cost.cpu_s -= cpu_s
        return SwarmResult(
            plan=self.plan,
            calls=tuple(sorted(self.calls, key=lambda call: call.number)),
            generators=self.generators,
            began_at_s=began_at_s,
            full_s=full_s,
            steady_end_s=steady_end_s,
            wall_s=wall_s,
        )

    async def _later(self, after_s: float, hook: Hook) -> None:
        await asyncio.sleep(max(0.0, after_s - self.elapsed_s))
        await hook(self)

    async def _fill(self) -> float:
        """The ramp: until as many calls have been placed as are wanted at once."""
        plan = self.plan
        while self.placed < min(plan.calls, plan.most_calls) and not self._leaving:
            await self._place_next()
        return self.elapsed_s

    async def _keep_up(self, full_s: float) -> None:
        """The steady state: a call that ends is followed by another."""
        plan = self.plan
        end_s = full_s + plan.steady_s
        while plan.steady_s and not self._leaving and self.elapsed_s < end_s:
            if self.up < plan.calls and self.placed < plan.most_calls:
                await self._place_next()
            else:
                await self._change(end_s - self.elapsed_s)
        if plan.steady_s:
            self.leave()

    async def _place_next(self) -> None:
        """One call, when the carrier's queue lets it go."""
        last_s = max(self._placed_at_s.values(), default=-1e9)
        await asyncio.sleep(max(0.0, last_s + 1 / self.plan.rate_per_s - self.elapsed_s))
        number = self.placed
        member = min(self._members, key=lambda member: len(member.up))
        member.up.add(number)
        self._placed_at_s[number] = self.elapsed_s
        every = max(1, self.plan.total_calls // max(1, self.plan.sample_audio))
        keep = bool(self.plan.sample_audio) and (number < self.plan.sample_audio or not number % every)
        member.send(pipe.Place(number, keep))

    async def _drain(self) -> None:
        deadline_s = self.elapsed_s + self._longest_s()
        while self.up:
            if self.elapsed_s > deadline_s:
                raise GeneratorFailedError(f"{self.up} calls did not end within {self._longest_s():.0f} s")
            await self._change(1.0)

    def _longest_s(self) -> float:
        if self._leaving:
            return _LEAVE_WITHIN_S
        return _LEAVE_WITHIN_S + max(
            max(kind.script.max_call_ms / 1000, kind.call_s[1] + 60) for kind in self.plan.callers
        )

    async def _change(self, within_s: float) -> None:
        """Wait until a call has ended, but not longer than this."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, within_s)):
                await self._changed.wait()

    def _take(self, message: pipe.Noted | pipe.Ended) -> None:
        if isinstance(message, pipe.Ended):
            self.calls.append(SwarmCall(message.number, self._placed_at_s[message.number], message.outcome))
            self._changed.set()
        for observer in self._observers:
            observer(message)


class _Member:
    """One generator process."""

    def __init__(self, process: asyncio.subprocess.Process, take: Callable[[pipe.Noted | pipe.Ended], None]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._take = take
        self._ready = asyncio.Event()
        self._gone = asyncio.Event()
        self.cost = GeneratorCost(process.pid, "")
        self.up: set[int] = set()

    def send(self, message: pipe.ToGenerator) -> None:
        self._stdin.write(pipe.pack(message))

    async def ready(self) -> None:
        reading = asyncio.create_task(self._ready.wait())
        gone = asyncio.create_task(self._gone.wait())
        await asyncio.wait((reading, gone), timeout=_READY_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, gone):
            task.cancel()
        if not self._ready.is_set():
            raise GeneratorFailedError("a generator process did not start; its standard error says why")

    async def listen(self) -> None:
        """Until the process ends."""
        while (message := await pipe.read(self._stdout)) is not None:
            if isinstance(message, pipe.Ready):
                self.cost.pid, self.cost.speech, self.cost.cpu_s = message.pid, message.speech, message.cpu_s
                self.cost.precedence = message.precedence
                self._ready.set()
            elif isinstance(message, pipe.Pulse):
                self.cost.cpu_s, self.cost.late = message.cpu_s, dict(message.late)
                self.cost.late_largest_ms = message.late_largest_ms
            else:
                if isinstance(message, pipe.Ended):
                    self.up.discard(message.number)
                self._take(message)
        self._gone.set()

    async def watch(self) -> None:
        """Raises when the process ends before the run does."""
        await self._gone.wait()
        raise GeneratorFailedError(f"generator process {self.cost.pid} ended with {len(self.up)} calls going on")


@contextlib.asynccontextmanager
async def _member(setup: pipe.Setup, take: Callable[[pipe.Noted | pipe.Ended], None]) -> AsyncIterator[_Member]:
    """A generator process that ends with the block."""
    process = await asyncio.create_subprocess_exec(
        *GENERATOR, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=_environment()
    )
    member = _Member(process, take)
    listening = asyncio.create_task(member.listen())
    member.send(setup)
    try:
        yield member
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_LEAVE_WITHIN_S):
                await process.wait()
                await listening
        except TimeoutError:
            process.kill()
            await process.wait()
            listening.cancel()


def _environment() -> dict[str, str]:
    """Numerical libraries with one thread: the generator must not take more cores than it says."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def refuse_foreign(target: CallTarget) -> None:
    """Load is for one's own machine: an address that is not loopback is refused.

    Raises:
        ConfigError: webhook or media URL lead to another machine.
    """
    for url in (target.webhook_url, target.media_url):
        if url and not is_loopback(url):
            raise ConfigError(f"{url} is not on this machine; --i-own-this-target says that you may load it")
