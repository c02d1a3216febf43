"""``python -m loadtest.swarm.generator``: one generator process, told over its standard input what to do.

It places the calls it is told to, measures each when it ends, and tells its own cost and lateness once a second. It
ends with its standard input.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from loadtest.caller import ScriptedCaller
from loadtest.carrier import CallTrace, EmulatedCall
from loadtest.place import outcome_of
from loadtest.speech import CallerSpeech
from loadtest.swarm import pipe
from loadtest.swarm.plan import LoadPlan, draw
from loadtest.swarm.precedence import go_first
from loadtest.ticker import Ticker
from loadtest.webhooks import WebhookClient

_PULSE_S = 1.0
_SWITCH_S = 0.0005
"""How long the clock waits at most for the interpreter while an ended call is measured beside it."""
_DRAWN = 200
"""Callers that are made once before the first call; what they say over their line's noise is kept for all."""
_TOLD = ("agent_speaks", "caller_says", "unanswered")


class Generator:
    """Owner of this process's calls. ``tell`` sends a message to the swarm."""

    def __init__(self, setup: pipe.Setup, speech: CallerSpeech, out: asyncio.StreamWriter) -> None:
        self._setup = setup
        self._speech = speech
        self._out = out
        self._http = WebhookClient()
        self._ticker = Ticker()
        self._calls: dict[int, tuple[EmulatedCall, ScriptedCaller]] = {}
        self._leaving = False
        # One, so that a hundred calls that end together are measured one after the other.
        self._measuring = ThreadPoolExecutor(1)

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
                    self._leaving = True
                    for _, caller in self._calls.values():
                        caller.leave()
            for task in running:
                task.cancel()
        self._measuring.shutdown()

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
        if self._leaving:
            caller.leave()
        try:
            trace = await call.run()
        finally:
            del self._calls[number]
        await self._finish(order, caller, trace)

    async def _finish(self, order: pipe.Place, caller: ScriptedCaller, trace: CallTrace) -> None:
        wav = Path(self._setup.out_dir) / f"call-{order.number:05d}.wav" if order.keep_audio else None
        outcome = await asyncio.get_running_loop().run_in_executor(
            self._measuring, outcome_of, caller, trace, wav, self._speech.description
        )
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


async def _make_callers(plan: LoadPlan, speech: CallerSpeech) -> None:
    """So that none of this has to be done while calls go on."""
    for number in range(min(plan.total_calls, _DRAWN)):
        script = draw(plan, number).script
        ScriptedCaller(script, await speech.lines(script.lines))


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    inbox = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(inbox), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    out = asyncio.StreamWriter(transport, protocol, None, loop)
    setup = await pipe.read(inbox)
    if not isinstance(setup, pipe.Setup):
        return
    speech = await asyncio.to_thread(CallerSpeech.open)
    await _make_callers(setup.plan, speech)
    # What is there now stays: collecting it again and again would only make ticks late.
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(_SWITCH_S)
    precedence = go_first()
    generator = Generator(setup, speech, out)
    out.write(pipe.pack(pipe.Ready(os.getpid(), speech.description, _cpu_s(), precedence)))
    await generator.run(inbox)
    generator.pulse()
    await out.drain()
    out.close()


if __name__ == "__main__":
    uvloop.run(_serve())
