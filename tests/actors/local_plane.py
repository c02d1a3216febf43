"""A scripted model plane in this process, and a gateway's end of the link that remembers what it was sent."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque

from actors.call.kit import CallKit, DialogMachines
from actors.call.outbox import JournalOutbox
from actors.link.messages import Control, Play, Snapshot
from voice_agent.dialog.policy import AgentPhrases, TurnPolicy
from voice_agent.errors import EngineFailedError, ReplicaLostError
from voice_agent.plan import Outcome
from voice_agent.ports import (
    Capabilities,
    Passage,
    ReplyChunk,
    SearchResponse,
    SpeechChunk,
    TranscribeResponse,
)
from voice_agent.tools import Parameter, ToolSpec

PASSAGE = Passage("c1", "We open at nine.", "We open at nine.", "Hours", "hours.md", 0.9, 0.9, 1.0)

TOOLS = (
    ToolSpec("end_call", "end_call"),
    ToolSpec("send_dtmf", "send_dtmf", parameters=(Parameter("digits"),)),
    ToolSpec("transfer", "transfer", parameters=(Parameter("target", choices=("sales",)),)),
    ToolSpec("look_up_order", "sql", parameters=(Parameter("order_number"),), timeout_ms=500),
)


class Gate:
    """Blocks whoever passes until it is opened."""

    def __init__(self):
        self.event = asyncio.Event()
        self.waiting = 0

    async def __call__(self):
        self.waiting += 1
        try:
            await self.event.wait()
        finally:
            self.waiting -= 1

    def open(self):
        self.event.set()


class LocalPlane:
    """``ModelPlane`` with a script.

    ``failures[stage]`` is a queue of exceptions raised by the next requests of a stage; ``gates[stage]`` holds a stage
    up; ``closed[stage]`` counts streams closed before their end; ``transcripts`` answers flushed requests in turn.
    ``deaths[stage]`` is a queue of numbers: after so many items the replica of the next stream dies, with ``death``.
    ``speech`` is a queue of streams to be spoken instead of the same tone.
    """

    death = ReplicaLostError

    def __init__(self, push_interval_ms=0):
        self.stt_capabilities = Capabilities("scripted", "1", simulated=True, push_interval_ms=push_interval_ms)
        self.open_requests = 0
        self.failures = {stage: deque() for stage in ("transcribe", "search", "reply", "speak", "tool")}
        self.gates = {}
        self.closed = {"reply": 0, "speak": 0}
        self.requests = {stage: [] for stage in ("transcribe", "search", "reply", "speak", "tool")}
        self.load = 0.0
        self.tool_specs = {spec.name: spec for spec in TOOLS}
        self.outcomes = {}
        self.transcripts = deque()
        self.need_from = deque()
        self.reply_chunks = [ReplyChunk("We open at nine. "), ReplyChunk("Come in.", finish_reason="stop")]
        self.fail_after_first = {}
        self.deaths = {"reply": deque(), "speak": deque()}
        self.speech = deque()
        self.speech_ms = 400
        self.ends = None
        self.warmed = 0

    def health(self):
        return {}

    async def warm(self):
        self.warmed += 1

    async def _enter(self, stage, request):
        self.requests[stage].append(request)
        if self.failures[stage]:
            raise self.failures[stage].popleft()
        if stage in self.gates:
            await self.gates[stage]()

    async def transcribe(self, request):
        self.open_requests += 1
        try:
            if request.end:
                self.requests["transcribe"].append(request)
                if self.ends is not None:
                    await self.ends()
                return TranscribeResponse()
            await self._enter("transcribe", request)
            if self.need_from:
                return TranscribeResponse(need_from=self.need_from.popleft())
            if not request.flush:
                return TranscribeResponse(text="when do", confidence=0.5)
            text = self.transcripts.popleft() if self.transcripts else "when do you open"
            return TranscribeResponse(text=text, confidence=0.9, flushed=True)
        finally:
            self.open_requests -= 1

    async def search(self, request):
        self.open_requests += 1
        try:
            await self._enter("search", request)
            return SearchResponse((PASSAGE,))
        finally:
            self.open_requests -= 1

    async def reply(self, request):
        async for item in self._stream("reply", request, self.reply_chunks):
            yield item

    async def speak(self, request):
        audio = b"\x10" * (8 * self.speech_ms // 2)
        chunks = self.speech.popleft() if self.speech else [SpeechChunk(audio), SpeechChunk(audio, last=True)]
        async for item in self._stream("speak", request, chunks):
            yield item

    async def run_tool(self, request):
        self.open_requests += 1
        try:
            await self._enter("tool", request)
            return self.outcomes.get(request.name, Outcome(request.name, True, say=f"{request.name} is done."))
        finally:
            self.open_requests -= 1

    async def _stream(self, stage, request, items):
        self.open_requests += 1
        over = False
        try:
            await self._enter(stage, request)
            dies_at = self.deaths[stage].popleft() if self.deaths[stage] else None
            for index, item in enumerate(items):
                if index == dies_at:
                    raise self.death("died")
                if index and self.fail_after_first.get(stage):
                    over = True
                    raise EngineFailedError("broke off")
                if index and f"{stage}-middle" in self.gates:
                    await self.gates[f"{stage}-middle"]()
                yield item
            over = True
        except EngineFailedError:
            over = True
            raise
        finally:
            self.open_requests -= 1
            if not over:
                self.closed[stage] += 1


class ListJournal:
    """``JournalPort`` that keeps what it is given; ``away`` is raised while set."""

    def __init__(self):
        self.records = []
        self.away = None

    async def batch(self, records):
        if self.away is not None:
            raise self.away
        self.records += records

    def of(self, kind):
        return [record for record in self.records if isinstance(record, kind)]


class FakeGateway:
    """``GatewayPort`` that keeps what the call sends."""

    def __init__(self):
        self.sent = []
        self.seen = asyncio.Event()

    def send(self, message):
        self.sent.append(message)
        self.seen.set()
        return True

    def plays(self):
        return [message for message in self.sent if isinstance(message, Play)]

    def controls(self, verb):
        return [message for message in self.sent if isinstance(message, Control) and message.verb == verb]

    def snapshots(self):
        return [message for message in self.sent if isinstance(message, Snapshot)]


async def until(condition, timeout_s=5.0):
    """Wait until ``condition()``, plain or a coroutine, is true."""
    async with asyncio.timeout(timeout_s):
        while True:
            met = condition()
            if await met if inspect.isawaitable(met) else met:
                return
            await asyncio.sleep(0.002)


POLICY = TurnPolicy(endpoint_ms=120, endpoint_short_ms=100, endpoint_long_ms=150)
PHRASES = AgentPhrases()


def kit_of(plane, journal, *, patience_s=5.0, policy=POLICY, machines=None):
    """A kit with an outbox whose task the caller starts."""
    outbox = JournalOutbox(journal, batch_s=0.01)
    return CallKit(
        machines=machines or DialogMachines(policy, PHRASES),
        plane=plane,
        outbox=outbox,
        patience_s=patience_s,
        wall_clock=lambda: 1_000_000.0,
    )
