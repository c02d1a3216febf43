"""What synthesisers share: one thread that owns the library, and a stream of telephone audio out of it.

The C libraries keep global state, and a model on a GPU does one pass after the other, so all synthesis of an engine
runs on one thread, a segment at a time. The C ones are 50 and more times faster than real time, so calls take turns
without noticing. Between segments the reader sets the pace:
a segment is synthesised when the one before it was taken, so what waits is bounded by one segment.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import numpy as np
from numpy.typing import NDArray

from voice_agent.audio.g711 import mulaw_encode
from voice_agent.audio.levels import loud_frames
from voice_agent.audio.resample import StreamingResampler
from voice_agent.errors import EngineFailedError
from voice_agent.ports import SpeechChunk

TELEPHONE_HZ = 8000
Pcm = NDArray[np.int16]
Sink = Callable[[Pcm, int], bool]
"""Takes int16 mono audio and its rate in Hz; False means stop."""
Render = Callable[[str, Sink], tuple[int, ...]]
"""Synthesises a text into a sink, blocking; returns the end of each whitespace-separated word in ms, or nothing."""

_FIRST_CHUNK_SAMPLES = 100 * 8
_CHUNK_SAMPLES = 400 * 8
_FRAME_SAMPLES = 10 * 8
_SILENCE_DBFS = -50.0
_KEPT_LEAD_SAMPLES = 20 * 8
_LONGEST_LEAD_SAMPLES = 400 * 8
_SEGMENT_CHARS = 240
_SHORT_CHARS = 40
_SENTENCE_END = re.compile(r"(?<=[.!?;:])\s+")
_QUEUE_SIZE = 512


class NativeThread:
    """The one thread that may call a library."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def speak(self, text: str, render: Render) -> AsyncGenerator[SpeechChunk, None]:
        """Stream ``text``, already cleaned for the library. Closing the iterator stops it at its next callback.

        Raises:
            EngineFailedError: the library failed.
        """
        clause = _Clause(render)
        try:
            for segment in segments(text):
                # A segment is at most some 30 s of speech or 80 chunks: a full queue is a fault of the library.
                queue: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=_QUEUE_SIZE)
                job = self._executor.submit(clause.render_segment, segment, _putter(queue))
                try:
                    job.add_done_callback(_end_of(queue))
                    while (audio := await queue.get()) is not None:
                        yield SpeechChunk(audio=audio)
                finally:
                    job.cancel()
                job.result()
            yield SpeechChunk(audio=clause.telephone.rest(), last=True, word_ends_ms=clause.telephone.word_ends_ms)
        finally:
            clause.stopped.set()


def _putter(queue: asyncio.Queue[bytes | None]) -> Callable[[bytes | None], None]:
    loop = asyncio.get_running_loop()
    return lambda item: _put(loop, queue, item)


def _end_of(queue: asyncio.Queue[bytes | None]) -> Callable[[Future[None]], None]:
    put = _putter(queue)
    return lambda _job: put(None)


def _put(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[bytes | None], item: bytes | None) -> None:
    # A reader whose loop is gone has nobody left to tell; its clause is stopped by the sink.
    if not loop.is_closed():
        loop.call_soon_threadsafe(queue.put_nowait, item)


class _Clause:
    """One text on its way: the part that runs on the library's thread."""

    def __init__(self, render: Render) -> None:
        self.telephone = _Telephone()
        self.stopped = Event()
        self._render = render

    def render_segment(self, text: str, put: Callable[[bytes], None]) -> None:
        """Synthesise one segment, blocking, and put its chunks."""

        def sink(audio: Pcm, rate_hz: int) -> bool:
            if self.stopped.is_set():
                return False
            for chunk in self.telephone.take(audio, rate_hz):
                put(chunk)
            return True

        self.telephone.end_segment(self._render(text, sink))


class _Telephone:
    """PCM of one clause to mu-law chunks: resampled, leading silence cut, 100 ms first and 400 ms after.

    A synthesiser opens with 170 to 290 ms of silence, which the caller would take for thinking time.
    """

    def __init__(self) -> None:
        self.word_ends_ms: tuple[int, ...] = ()
        self._resampler: StreamingResampler | None = None
        self._rate_hz = 0
        self._buffer: Pcm = np.zeros(0, dtype=np.int16)
        self._leading = True
        self._cut_samples = 0
        self._segment_start_samples = 0
        self._samples = 0
        self._next_chunk = _FIRST_CHUNK_SAMPLES

    def take(self, audio: Pcm, rate_hz: int) -> list[bytes]:
        """More audio of the library; the chunks that are complete."""
        if self._rate_hz != rate_hz:
            self._rate_hz = rate_hz
            self._resampler = None if rate_hz == TELEPHONE_HZ else StreamingResampler(rate_hz, TELEPHONE_HZ)
        self._append(audio if self._resampler is None else self._resampler.process(audio))
        chunks = []
        while not self._leading and len(self._buffer) >= self._next_chunk:
            chunks.append(mulaw_encode(self._buffer[: self._next_chunk]))
            self._buffer = self._buffer[self._next_chunk :]
            self._next_chunk = _CHUNK_SAMPLES
        return chunks

    def end_segment(self, word_ends_ms: tuple[int, ...]) -> None:
        """The library has given all audio of a segment."""
        if self._resampler is not None:
            self._append(self._resampler.flush())
            self._resampler.reset()
        shift_ms = (self._segment_start_samples - self._cut_samples) // 8
        self.word_ends_ms += tuple(max(0, end + shift_ms) for end in word_ends_ms)
        self._segment_start_samples = self._samples

    def rest(self) -> bytes:
        """What is left at the end of the clause."""
        audio = mulaw_encode(self._buffer)
        self._buffer = self._buffer[:0]
        return audio

    def _append(self, audio: Pcm) -> None:
        self._samples += len(audio)
        self._buffer = np.concatenate((self._buffer, audio))
        if self._leading:
            self._cut_lead()

    def _cut_lead(self) -> None:
        loud = np.flatnonzero(loud_frames(self._buffer, _FRAME_SAMPLES, _SILENCE_DBFS))
        if len(loud):
            onset = int(loud[0]) * _FRAME_SAMPLES
        elif len(self._buffer) > _LONGEST_LEAD_SAMPLES:
            onset = 0  # not silence before speech but a quiet text: leave it alone
        else:
            return
        self._leading = False
        self._cut_samples = max(0, onset - _KEPT_LEAD_SAMPLES)
        self._buffer = self._buffer[self._cut_samples :]


def segments(text: str, longest: int = _SEGMENT_CHARS) -> list[str]:
    """Cut a text at sentence ends into pieces of at most ``longest`` characters, longer sentences at a space.

    Short pieces stay together, so that "No. 5" is not read as two sentences; a whole paragraph does not, because the
    library plans a piece completely before its first sound. No word is lost or divided, so word times add up.
    """
    pieces: list[str] = []
    for sentence in _SENTENCE_END.split(text.strip()):
        for part in _wrapped(sentence, longest):
            if pieces and len(pieces[-1]) < _SHORT_CHARS and len(pieces[-1]) + 1 + len(part) <= longest:
                pieces[-1] = f"{pieces[-1]} {part}"
            else:
                pieces.append(part)
    return pieces


def _wrapped(sentence: str, longest: int) -> list[str]:
    lines: list[str] = []
    for word in sentence.split():
        if lines and len(lines[-1]) + 1 + len(word) <= longest:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    return lines


class CallbackGuard:
    """Runs a sink inside a C callback, where no exception may pass: it is kept, and raised when C has returned."""

    def __init__(self, sink: Sink, engine: str) -> None:
        self._sink = sink
        self._engine = engine
        self._error: Exception | None = None

    def __call__(self, audio: Pcm, rate_hz: int) -> bool:
        """What the sink says; False when it fails."""
        try:
            return self._sink(audio, rate_hz)
        except Exception as error:  # noqa: BLE001 - it goes on in check(), on the other side of the C frames
            self._error = error
            return False

    def check(self) -> None:
        """Raise what the sink raised.

        Raises:
            EngineFailedError: always with the cause.
        """
        if self._error is not None:
            raise EngineFailedError(f"{self._engine} could not hand over its audio: {self._error}") from self._error
