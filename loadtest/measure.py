"""Latency as the caller hears it, from the two channels of the recording and nothing else.

Sound is looked at in steps of 5 ms; a step is loud above ``LOUD_DBFS``. A stretch of speech is loud steps with holes
of up to 500 ms (pauses between clauses are longer in dialog and shorter in speech). Up to four loud steps alone are a
click and are left out, unless others are so near that they belong to their words: the burst of the last consonant of
"shop" comes 130 ms after the vowel. It lasts 8 ms: in steps of 20 ms it is loud or not by where they happen to begin.

* **Voice-to-voice**: from the end of the caller's last loud step to the beginning of the agent's first loud step
  after it. Only stretches of the caller that the agent answers count: the agent is silent when the caller stops, and
  speaks before the caller does again.
* **Barge-in**: the caller starts while the agent is speaking, and the agent falls silent (for 300 ms or more) while the
  caller speaks or within 2 s of it. From the beginning of the caller's first loud step to the end of the agent's last.
  By audio alone, an agent that happens to end its sentence there looks the same.

The caller's channel is at the mouth: a frame is sent 20 ms after it begins, so packetisation is part of the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from loadtest.caller import LOUD_DBFS
from loadtest.playout import FRAME_MS, Underrun
from voice_agent.audio.g711 import mulaw_decode
from voice_agent.audio.levels import loud_frames

STEP_MS = 5
_STEP_SAMPLES = 40
_SPEECH_HOLE_MS = 500
_SILENT_AGENT_MS = 300
_YIELD_MS = 2000
_CLICK_STEPS = 4
_BURST_STEPS = 40
"""A click that is no further than this from other sound is part of a word."""
_NEAR_FRAMES = 3
_POWER = np.square(mulaw_decode(bytes(range(256))).astype(np.float32) / 32768.0)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Somebody speaks from ``start_ms`` (inclusive) to ``end_ms`` (the end of the last loud step)."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class TurnMeasure:
    """The caller spoke until ``caller_end_ms``; the agent answered from ``agent_start_ms`` on."""

    caller_start_ms: int
    caller_end_ms: int
    agent_start_ms: int

    @property
    def v2v_ms(self) -> int:
        """Voice-to-voice latency at the ear."""
        return self.agent_start_ms - self.caller_end_ms


@dataclass(frozen=True, slots=True)
class BargeInMeasure:
    """The caller began to speak over the agent, which was last heard until ``agent_end_ms``."""

    caller_start_ms: int
    agent_end_ms: int

    @property
    def latency_ms(self) -> int:
        """How long the agent went on."""
        return self.agent_end_ms - self.caller_start_ms


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Nearest-rank percentiles of ``count`` values; zeros when there are none."""

    count: int = 0
    p50: float = 0.0
    p95: float = 0.0
    largest: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        """Percentiles of any number of values."""
        if not values:
            return cls()
        ranked = sorted(values)
        p50, p95 = (float(ranked[ceil(share * len(ranked)) - 1]) for share in (0.50, 0.95))
        return cls(len(ranked), p50, p95, float(ranked[-1]))


@dataclass(frozen=True, slots=True)
class CallMeasures:
    """One call as heard.

    Attributes:
        greeting_ms: from answering to the agent's first loud step; None when it never spoke.
        starved: holes inside a clause (see ``playout.Underrun``), known from the emulator's buffer, not from audio.
        starved_late: those of them that are not counted in ``starved``, since the generator was late by a frame or more
            just then: what came in time may have been read too late.
        pauses: holes of less than 1.5 s after a mark: the agent between two clauses, or two short turns.
        lateness_ms: of the generator's own ticks. When its P95 is not small against the latencies, they are not
            the server's alone.
    """

    turns: tuple[TurnMeasure, ...]
    barge_ins: tuple[BargeInMeasure, ...]
    greeting_ms: int | None
    starved: tuple[Underrun, ...]
    pauses: tuple[Underrun, ...]
    lateness_ms: Percentiles
    duration_ms: int
    starved_late: tuple[Underrun, ...] = ()

    @property
    def v2v_ms(self) -> Percentiles:
        """Voice-to-voice over the turns."""
        return Percentiles.of([turn.v2v_ms for turn in self.turns])

    @property
    def barge_in_ms(self) -> Percentiles:
        """Barge-in over the interruptions."""
        return Percentiles.of([barge_in.latency_ms for barge_in in self.barge_ins])

    @property
    def starved_ms(self) -> int:
        """Silence starved by the server inside agent speech."""
        return sum(hole.gap_ms for hole in self.starved)


_SHORT_PAUSE_MS = 1500


def measure(
    caller: NDArray[np.int16],
    agent: NDArray[np.int16],
    *,
    underruns: Sequence[Underrun] = (),
    lateness_ms: Sequence[float] = (),
) -> CallMeasures:
    """Measure one call; both channels int16 mono 8 kHz on one clock."""
    return measure_loud(
        loud_frames(caller, _STEP_SAMPLES, LOUD_DBFS),
        loud_frames(agent, _STEP_SAMPLES, LOUD_DBFS),
        underruns=underruns,
        lateness_ms=lateness_ms,
    )


def measure_loud(
    caller: NDArray[np.bool_],
    agent: NDArray[np.bool_],
    *,
    underruns: Sequence[Underrun] = (),
    lateness_ms: Sequence[float] = (),
) -> CallMeasures:
    """Measure one call by which steps of ``STEP_MS`` are loud; both channels on one clock, shape (steps,)."""
    starved = [hole for hole in underruns if hole.starved]
    spoken = _stretches(caller, _SPEECH_HOLE_MS)
    heard = _stretches(agent, _SPEECH_HOLE_MS)
    return CallMeasures(
        turns=tuple(_turns(spoken, heard)),
        barge_ins=tuple(_barge_ins(spoken, _stretches(agent, _SILENT_AGENT_MS))),
        greeting_ms=heard[0].start_ms if heard else None,
        starved=tuple(hole for hole in starved if not _late_near(hole, lateness_ms)),
        starved_late=tuple(hole for hole in starved if _late_near(hole, lateness_ms)),
        pauses=tuple(
            hole for hole in underruns if not hole.starved and not hole.cleared and hole.gap_ms < _SHORT_PAUSE_MS
        ),
        lateness_ms=Percentiles.of(lateness_ms),
        duration_ms=max(len(caller), len(agent)) * STEP_MS,
    )


def _late_near(hole: Underrun, lateness_ms: Sequence[float]) -> bool:
    begin, end = hole.at_ms // FRAME_MS - _NEAR_FRAMES, (hole.at_ms + hole.gap_ms) // FRAME_MS + _NEAR_FRAMES
    return max(lateness_ms[max(0, begin) : end], default=0.0) >= FRAME_MS


def loud_mulaw(audio: bytes | bytearray) -> NDArray[np.bool_]:
    """Which steps of ``STEP_MS`` of mu-law 8 kHz are loud: bool, shape (len(audio) // 40,)."""
    steps = len(audio) // _STEP_SAMPLES
    power = _POWER[np.frombuffer(audio, dtype=np.uint8, count=steps * _STEP_SAMPLES)].reshape(steps, _STEP_SAMPLES)
    loud: NDArray[np.bool_] = power.mean(axis=1) > 10.0 ** (LOUD_DBFS / 10.0)
    return loud


def stretches(audio: NDArray[np.int16], hole_ms: int) -> list[Stretch]:
    """Stretches of speech in int16 mono 8 kHz; holes of up to ``hole_ms`` are part of one."""
    return _stretches(loud_frames(audio, _STEP_SAMPLES, LOUD_DBFS), hole_ms)


def _stretches(loud: NDArray[np.bool_], hole_ms: int) -> list[Stretch]:
    edges = np.flatnonzero(np.diff(loud.astype(np.int8), prepend=0, append=0))
    runs = edges.reshape(-1, 2)
    holes = np.concatenate(([len(loud)], runs[1:, 0] - runs[:-1, 1], [len(loud)]))
    near = np.minimum(holes[:-1], holes[1:]) <= _BURST_STEPS
    found: list[Stretch] = []
    for start, end in runs[near | (runs[:, 1] - runs[:, 0] > _CLICK_STEPS)].tolist():
        if found and start * STEP_MS - found[-1].end_ms <= hole_ms:
            found[-1] = Stretch(found[-1].start_ms, end * STEP_MS)
        else:
            found.append(Stretch(start * STEP_MS, end * STEP_MS))
    return found


def _turns(spoken: Sequence[Stretch], heard: Sequence[Stretch]) -> list[TurnMeasure]:
    turns = []
    for number, words in enumerate(spoken):
        if any(reply.start_ms <= words.end_ms < reply.end_ms for reply in heard):
            continue  # the agent was speaking when the caller stopped: nothing to wait for
        again_ms = spoken[number + 1].start_ms if number + 1 < len(spoken) else None
        reply_ms = next((reply.start_ms for reply in heard if reply.start_ms >= words.end_ms), None)
        if reply_ms is not None and (again_ms is None or reply_ms < again_ms):
            turns.append(TurnMeasure(words.start_ms, words.end_ms, reply_ms))
    return turns


def _barge_ins(spoken: Sequence[Stretch], heard: Sequence[Stretch]) -> list[BargeInMeasure]:
    barge_ins = []
    for words in spoken:
        over = next((speech for speech in heard if speech.start_ms < words.start_ms < speech.end_ms), None)
        if over is not None and over.end_ms <= words.end_ms + _YIELD_MS:
            barge_ins.append(BargeInMeasure(words.start_ms, over.end_ms))
    return barge_ins
