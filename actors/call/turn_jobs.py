"""The jobs of a call: utterances on their way to text, and per turn retrieval, reply, speech and tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from actors.call.clause_speech import speech_of
from actors.call.jobs import answer_of, items_of
from actors.call.kit import CallKit
from actors.call.tool_jobs import outcome_of
from actors.call.turn_audio import TurnAudio
from actors.call.utterance import Utterance, UtteranceLink
from voice_agent.audio.dtmf import mulaw_tones
from voice_agent.dialog.commands import Generate, Retrieve, RunTool, Synthesise, Transcribe
from voice_agent.dialog.events import (
    Event,
    HangUpRequested,
    JobFailed,
    PassagesReady,
    ReplyReceived,
    SpeechSynthesised,
    ToolFinished,
)
from voice_agent.errors import EngineFailedError, VoiceAgentError
from voice_agent.ports import ReplyChunk, ReplyRequest, SearchRequest, SpeakRequest, SpeechChunk
from voice_agent.tools import END_CALL

T = TypeVar("T")

Emit = Callable[[Event], None]
RECORDED: Final = "recorded"
"""The engine of a phrase that was played from its recording."""

SendPlay = Callable[[int, int, bytes, bool, bool], None]
"""Called with turn, clause, audio, last, interruptible."""


@dataclass(frozen=True, slots=True)
class JobContext:
    """Whose jobs these are. ``spawn`` gives a task an owner; ``emit`` takes a result; ``play`` sends audio."""

    call_id: str
    epoch: int
    traceparent: str
    kit: CallKit
    spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
    emit: Emit
    play: SendPlay


@dataclass(slots=True)
class _Turn:
    audio: TurnAudio
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    dropped: bool = False


class TurnJobs:
    """Retrieval, reply, speech, tools: each job ends by results, one ``JobFailed``, or in silence after ``cancel``."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._turns: dict[int, _Turn] = {}

    @property
    def open(self) -> int:
        """Tasks that are not over."""
        return sum(len(turn.tasks) for turn in self._turns.values())

    def retrieve(self, command: Retrieve) -> None:
        """Search the knowledge base."""
        self._start("retrieve", command.turn, 0, lambda emit: self._retrieve(command, emit))

    def generate(self, command: Generate) -> None:
        """Stream a reply."""
        self._start("generate", command.turn, 0, lambda emit: self._generate(command, emit))

    def synthesise(self, command: Synthesise) -> None:
        """Speak a clause; its audio waits for ``release``."""
        audio = self._turn(command.turn).audio
        audio.open(command.clause, ahead=command.recorded)
        self._start("synthesise", command.turn, command.clause, lambda emit: self._synthesise(command, audio, emit))

    def run_tool(self, command: RunTool) -> None:
        """Run a tool."""
        self._start("tool", command.turn, command.index, lambda emit: self._run_tool(command, emit))

    def release(self, turn: int, *, interruptible: bool) -> None:
        """Let the audio of a turn out."""
        self._turn(turn).audio.release(interruptible=interruptible)

    def cancel(self, turn: int) -> None:
        """End the jobs of a turn down to the engines, and drop its audio."""
        record = self._turns.pop(turn, None)
        if record is not None:
            record.dropped = True
            for task in record.tasks:
                task.cancel()

    def cancel_all(self) -> None:
        """End everything."""
        for turn in tuple(self._turns):
            self.cancel(turn)

    def _turn(self, number: int) -> _Turn:
        record = self._turns.get(number)
        if record is None:

            def send(clause: int, audio: bytes, last: bool, interruptible: bool) -> None:
                self._context.play(number, clause, audio, last, interruptible)

            record = self._turns[number] = _Turn(TurnAudio(send))
        return record

    def _start(self, stage: str, number: int, key: int, job: Callable[[Emit], Coroutine[Any, Any, None]]) -> None:
        turn = self._turn(number)

        def emit(event: Event) -> None:
            # A result may already be under way when its turn is cancelled: silence after cancel means this one too.
            if not turn.dropped:
                self._context.emit(event)

        async def run() -> None:
            try:
                await job(emit)
            except VoiceAgentError as error:
                if stage == "synthesise":
                    turn.audio.fail(key)
                emit(JobFailed(stage=stage, turn=number, key=key, code=error.code))

        task = self._context.spawn(run(), f"{stage}-{number}-{key}")
        turn.tasks.add(task)
        task.add_done_callback(turn.tasks.discard)

    async def _retrieve(self, command: Retrieve, emit: Emit) -> None:
        kit = self._context.kit
        request = SearchRequest(
            call_id=self._context.call_id,
            query=command.query,
            top_k=kit.top_k,
            traceparent=self._context.traceparent,
        )
        give_up_at_s = asyncio.get_running_loop().time() + kit.patience_s
        response = await answer_of(lambda: kit.plane.search(request), give_up_at_s)
        emit(PassagesReady(command.turn, response.passages))

    async def _generate(self, command: Generate, emit: Emit) -> None:
        kit = self._context.kit
        request = ReplyRequest(
            call_id=self._context.call_id,
            turn=command.turn,
            messages=command.messages,
            passages=command.passages,
            confidence=command.confidence,
            speculative=command.speculative,
            traceparent=self._context.traceparent,
            cheap=kit.cheap("llm"),
        )

        def take(chunk: ReplyChunk) -> bool:
            emit(ReplyReceived(command.turn, chunk))
            return bool(chunk.finish_reason)

        await _consume(items_of(lambda: kit.plane.reply(request), kit.patience_s), take)

    async def _synthesise(self, command: Synthesise, audio: TurnAudio, emit: Emit) -> None:
        if command.keys:
            duration_ms = audio.add(command.clause, mulaw_tones(command.keys), last=True)
            emit(SpeechSynthesised(command.turn, command.clause, duration_ms, True))
            return
        kit = self._context.kit
        if command.recorded and self._play_recording(command, audio, emit):
            return
        request = SpeakRequest(
            call_id=self._context.call_id,
            turn=command.turn,
            clause=command.clause,
            text=command.text,
            voice=kit.voice,
            traceparent=self._context.traceparent,
            ahead_ms=audio.ahead_ms,
            cheap=kit.cheap("tts"),
            again=command.again,
        )

        def take(chunk: SpeechChunk) -> bool:
            duration_ms = audio.add(command.clause, chunk.audio, last=chunk.last)
            emit(
                SpeechSynthesised(
                    command.turn, command.clause, duration_ms, chunk.last, chunk.word_ends_ms, chunk.engine
                )
            )
            return chunk.last

        try:
            await _consume(speech_of(kit, request, lambda: audio.ahead_ms), take)
        except VoiceAgentError:
            # The end of the ladder: no engine speaks, but this may be a phrase of which there is a recording.
            if audio.given(command.clause) or not self._play_recording(command, audio, emit):
                raise

    def _play_recording(self, command: Synthesise, audio: TurnAudio, emit: Emit) -> bool:
        """Play the recording of a clause; False when there is none."""
        recording = self._context.kit.recordings.of(command.text)
        if recording is None:
            return False
        duration_ms = audio.add(command.clause, recording, last=True)
        emit(SpeechSynthesised(command.turn, command.clause, duration_ms, True, engine=RECORDED))
        return True

    async def _run_tool(self, command: RunTool, emit: Emit) -> None:
        context = self._context
        outcome = await outcome_of(
            context.kit.plane, context.call_id, context.traceparent, command, epoch=context.epoch
        )
        emit(ToolFinished(command.turn, command.index, outcome))
        if command.name == END_CALL and outcome.ok:
            emit(HangUpRequested("goodbye"))


async def _consume(stream: AsyncGenerator[T, None], take: Callable[[T], bool]) -> None:
    """Give items to ``take`` until it says that one was the last; what a stream does after that is its own affair.

    Raises:
        EngineFailedError: the stream ended without a last item.
    """
    finished = False
    async with aclosing(stream):
        try:
            async for item in stream:
                finished = finished or take(item)
        except VoiceAgentError:
            if not finished:
                raise
    if not finished:
        raise EngineFailedError("the stream broke off before its last item")


class Utterances:
    """The open utterances of a call, each with its one task."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._open: dict[int, Utterance] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._closed_to = 0

    @property
    def open(self) -> int:
        """Utterances that are not closed."""
        return len(self._open)

    def audio(self, number: int, offset: int, audio: bytes) -> None:
        """Take caller audio; audio of a closed utterance, still on its way, is dropped."""
        if number > self._closed_to:
            self._get(number).add(offset, audio)

    def transcribe(self, command: Transcribe) -> None:
        """Ask for the text of an utterance."""
        if command.utterance <= self._closed_to:
            self._context.emit(JobFailed("transcribe", command.utterance, command.pause, "closed"))
            return
        self._get(command.utterance).ask(command.pause, flush=command.flush)

    def close(self, number: int) -> None:
        """The utterance is over: open requests end, and the replica forgets it."""
        self._closed_to = max(self._closed_to, number)
        for known in [key for key in self._open if key <= number]:
            utterance = self._drop(known)
            self._context.spawn(utterance.forget(), f"forget-{known}")

    def drop_all(self, *, forget: bool) -> None:
        """End everything; ``forget`` tells the replicas, which a hand-over must not."""
        for number in tuple(self._open):
            if forget:
                self.close(number)
            else:
                self._drop(number)

    def _drop(self, number: int) -> Utterance:
        self._tasks.pop(number).cancel()
        return self._open.pop(number)

    def _get(self, number: int) -> Utterance:
        utterance = self._open.get(number)
        if utterance is None:
            context = self._context
            link = UtteranceLink(
                call_id=context.call_id,
                epoch=context.epoch,
                traceparent=context.traceparent,
                plane=context.kit.plane,
                patience_s=context.kit.patience_s,
                emit=lambda event: self._emit(number, event),
            )
            utterance = self._open[number] = Utterance(number, link)
            self._tasks[number] = context.spawn(utterance.run(), f"utterance-{number}")
        return utterance

    def _emit(self, number: int, event: Event) -> None:
        if number in self._open:
            self._context.emit(event)
