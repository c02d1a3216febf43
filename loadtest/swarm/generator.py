"""``python -m loadtest.swarm.generator``: one generator process, told over its standard input what to do.

It places the calls it is told to, measures each when it ends, and tells its own cost and lateness once a second. It
ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from pathlib import Path

import uvloop

from loadtest.caller import ScriptedCaller
from loadtest.carrier import CallTrace, EmulatedCall
from loadtest.place import carrier_http, outcome_of
from loadtest.speech import CallerSpeech
from loadtest.swarm import pipe
from loadtest.swarm.plan import draw
from loadtest.ticker import Ticker

_PULSE_S = 1.0
_NICE = -5
"""A generator that shares its machine with the stack goes before it where the user may say so: what it is late by would
be measured as the stack's. It uses a fraction of a core, and how late it was is told either way."""

_TOLD = ("agent_speaks", "caller_says", "unanswered")


class Generator:
    """Owner of this process's calls. ``tell`` sends a message to the swarm."""

    def __init__(self, setup: pipe.Setup, speech: CallerSpeech, out: asyncio.StreamWriter) -> None:
        self._setup = setup
        self._speech = speech
        self._out = out
        self._http = carrier_http()
        self._ticker = Ticker()
        self._calls: dict[int, tuple[EmulatedCall, ScriptedCaller]] = {}

    async def run(self, inbox: asyncio.StreamReader) -> None:
        """Do what comes in until the stream ends; then whatever is going on ends too."""
        async with self._http, asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._ticker.run()), tasks.create_task(self._pulse())]
            while (message := await pipe.read(inbox)) is not None:
                if isinstance(message, pipe.Place):
                    running = [task for task in running if not task.done()]
                    running.append(tasks.create_task(self._place(message)))
                elif isinstance(message, pipe.Cut):
                    self._cut(message)
                elif isinstance(message, pipe.Leave):
                    for _, caller in self._calls.values():
                        caller.leave()
            for task in running:
                task.cancel()

    async def _place(self, order: pipe.Place) -> None:
        number = order.number
        drawn = draw(self._setup.plan, number)
        sid = ""

        def note(at_ms: int, kind: str, text: str) -> None:
            if kind in _TOLD:
                waited_ms = caller.take_wait_ms() if kind == "agent_speaks" else None
                self._tell(pipe.Noted(number, sid, at_ms, kind, waited_ms))

        caller = ScriptedCaller(drawn.script, await self._speech.lines(drawn.script.lines), note)
        call = EmulatedCall(self._setup.target, caller, self._http, self._ticker, drawn.network)
        sid = call.trace.call_sid
        self._calls[number] = call, caller
        try:
            trace = await call.run()
        finally:
            del self._calls[number]
        await self._finish(order, caller, trace)

    async def _finish(self, order: pipe.Place, caller: ScriptedCaller, trace: CallTrace) -> None:
        wav = Path(self._setup.out_dir) / f"call-{order.number:05d}.wav" if order.keep_audio else None
        # numpy lets go of the interpreter for most of it: the clock of the other calls goes on.
        outcome = await asyncio.to_thread(outcome_of, caller, trace, wav, self._speech.description)
        self._tell(pipe.Ended(order.number, outcome))

    def _cut(self, order: pipe.Cut) -> None:
        for number, (call, _) in self._calls.items():
            if order.numbers is None or number in order.numbers:
                call.cut()

    async def _pulse(self) -> None:
        while True:
            await asyncio.sleep(_PULSE_S)
            self.pulse()

    def pulse(self) -> None:
        """Tell cost and lateness so far."""
        late = self._ticker.lateness
        self._tell(pipe.Pulse(_cpu_s(), dict(late.tenths), late.largest_ms))

    def _tell(self, message: pipe.FromGenerator) -> None:
        self._out.write(pipe.pack(message))


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    inbox = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(inbox), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    out = asyncio.StreamWriter(transport, protocol, None, loop)
    setup = await pipe.read(inbox)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    if not isinstance(setup, pipe.Setup):
        return
    speech = await asyncio.to_thread(CallerSpeech.open)
    for kind in setup.plan.callers:
        await speech.lines(kind.script.lines)
    # What is there now stays: collecting it again and again would only make ticks late.
    gc.collect()
    gc.freeze()
    generator = Generator(setup, speech, out)
    out.write(pipe.pack(pipe.Ready(os.getpid(), speech.description, _cpu_s())))
    await generator.run(inbox)
    generator.pulse()
    await out.drain()
    out.close()


if __name__ == "__main__":
    uvloop.run(_serve())
