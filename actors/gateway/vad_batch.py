"""Voice activity for all calls of a gateway, in micro-batches on the event loop.

A window alone costs about three times what it costs in a batch. The sockets of all calls are read in one beat of the
gateway's pulse, and what they brought is judged right behind it, together. A batch of 100 takes 2-3 ms, so it runs
inline: a thread would cost more in hand-over than it gives back, and audio would come out of order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from voice_agent.audio.g711 import mulaw_to_float
from voice_agent.ports import VoiceActivityEngine

logger = logging.getLogger(__name__)

FRAMES_PER_WINDOW: Final = 4
LARGEST_BATCH: Final = 128
NOTHING_DB: Final = -62.0
"""While the caller is silent, a window without a frame this loud counts as no speech and the model is not asked.

That holds for speech at the levels of telephony, some 30 dB above it: on read speech with background noise no onset
moved by more than two windows (at -55 dB it lost some). A caller so faint that no frame reaches it is not heard.
Neither is the model asked about a window that does not stand out of the caller's background
(``VadSource.worth_judging``).
"""
_SILENT_POWER: Final = 1e-12
_POWER: Final[NDArray[np.float32]] = np.square(mulaw_to_float(bytes(range(256))))
"""Power of each mu-law code."""


class VadSource(Protocol):
    """A call as the batch sees it."""

    vad_state: Any

    @property
    def speaking(self) -> bool:
        """The caller speaks."""

    def worth_judging(self, loudest_db: float) -> bool:
        """Whether a window whose loudest frame has this level may be speech."""

    def has_window(self) -> bool:
        """A whole window is there."""

    def next_window(self) -> bytes:
        """The next whole window of mu-law audio."""

    def judged(self, probability: float, frames_db: list[float]) -> None:
        """The window's speech probability and the levels of its frames in dBFS. Must not raise."""


@dataclass(slots=True)
class VadStatistics:
    """Counters since the start. ``silent_windows`` were too quiet to ask the engine; ``busy_s`` is time spent in
    batches, judgement of the calls included.
    """

    batches: int = 0
    windows: int = 0
    silent_windows: int = 0
    largest_batch: int = 0
    failed_windows: int = 0
    inference_s: float = 0.0
    busy_s: float = 0.0
    slowest_ms: float = 0.0


class VadBatch:
    """Collects calls that have a window and judges them together."""

    def __init__(self, engine: VoiceActivityEngine) -> None:
        self.statistics = VadStatistics()
        self._engine = engine
        self._ready: dict[VadSource, None] = {}
        self._next: asyncio.Handle | None = None

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return self._engine.window_samples

    def initial_state(self) -> Any:
        """State of a new call."""
        return self._engine.initial_state()

    def warm(self) -> None:
        """Run the engine once for a few batch sizes, so that no caller pays for its first allocation."""
        for count in (1, 8, LARGEST_BATCH):
            windows = np.zeros((count, self.window_samples), dtype=np.float32)
            self._engine.batch(windows, [self.initial_state() for _ in range(count)])

    def submit(self, source: VadSource) -> None:
        """The call has at least one window."""
        self._ready[source] = None
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._run)

    def forget(self, source: VadSource) -> None:
        """The call is gone."""
        self._ready.pop(source, None)

    def close(self) -> None:
        """Judge nothing more."""
        self._ready.clear()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _run(self) -> None:
        """One window of every ready call; a call that has more waits for the next round."""
        self._next = None
        began_s = time.perf_counter()
        sources, windows = self._collect()
        if sources:
            self._judge(sources, windows)
            taken_s = time.perf_counter() - began_s
            self.statistics.busy_s += taken_s
            self.statistics.slowest_ms = max(self.statistics.slowest_ms, taken_s * 1000)
        if self._ready and self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._run)

    def _collect(self) -> tuple[list[VadSource], list[bytes]]:
        sources: list[VadSource] = []
        windows: list[bytes] = []
        for source in list(self._ready)[:LARGEST_BATCH]:
            sources.append(source)
            windows.append(source.next_window())
            del self._ready[source]
            if source.has_window():
                # To the end of the line, so that a call with a backlog does not starve the rest.
                self._ready[source] = None
        return sources, windows

    def _judge(self, sources: list[VadSource], windows: list[bytes]) -> None:
        count, statistics = len(sources), self.statistics
        levels: list[list[float]] = levels_db(b"".join(windows), count, FRAMES_PER_WINDOW)
        asked = [n for n, frames_db in enumerate(levels) if _worth_asking(sources[n], max(frames_db))]
        probabilities = [0.0] * count
        if asked:
            self._ask(asked, sources, windows, probabilities)
        statistics.batches += 1
        statistics.windows += count
        statistics.silent_windows += count - len(asked)
        statistics.largest_batch = max(statistics.largest_batch, len(asked))
        for source, probability, frames_db in zip(sources, probabilities, levels, strict=True):
            source.judged(probability, frames_db)

    def _ask(
        self, asked: list[int], sources: list[VadSource], windows: list[bytes], probabilities: list[float]
    ) -> None:
        """Run the engine on some of the windows and fill in what it says."""
        began_s = time.perf_counter()
        audio = mulaw_to_float(b"".join(windows[n] for n in asked)).reshape(len(asked), self.window_samples)
        try:
            found, states = self._engine.batch(audio, [sources[n].vad_state for n in asked])
        except Exception:
            # The border to a native library: one broken batch is heard as silence, and counted.
            logger.exception("voice activity detection failed")
            self.statistics.failed_windows += len(asked)
            return
        for n, probability, state in zip(asked, found.tolist(), states, strict=True):
            probabilities[n] = probability
            sources[n].vad_state = state
        self.statistics.inference_s += time.perf_counter() - began_s


def levels_db(audio: bytes, *frames: int) -> list[Any]:
    """Levels in dBFS of equal frames of mu-law audio, nested lists of the shape ``frames``.

    By a table of powers: most windows are needed for nothing else.
    """
    power = _POWER.take(np.frombuffer(audio, dtype=np.uint8)).reshape(*frames, -1)
    mean = np.add.reduce(power, axis=-1) / power.shape[-1]
    levels: list[Any] = (10.0 * np.log10(np.maximum(mean, _SILENT_POWER))).tolist()
    return levels


def _worth_asking(source: VadSource, loudest_db: float) -> bool:
    return source.worth_judging(loudest_db) if loudest_db >= NOTHING_DB else source.speaking
