"""The agent's own voice in the caller's microphone: how loud can it be right now?

What the gateway sends and when it is heard is known to the sample, so the level at which it may come back is known too,
once its return loss is. That is learnt from levels alone: in a block of the agent's speech the loudest frame that came
back is the loudest that was sent less the loss, or louder, if the caller spoke or the line is noisy. So each block
gives a lower bound of the loss, and the best of the last blocks is near the truth, whatever the caller did in the
others. No delay has to be known, only how long an echo may take at most.

Sound up to ``EchoGuard.limit_db`` may be an echo, and is no reason to stop the agent; a caller over it is louder.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from voice_agent.audio.g711 import mulaw_to_float

ECHO_WITHIN_MS: Final = 600
"""The longest way of an echo: to the telephone, through its loudspeaker and microphone, and back."""
MARGIN_DB: Final = 6.0
"""Frames of 8 ms do not fall on the same samples twice, and a room adds up what it reflects."""
USUAL_LOSS_DB: Final = 20.0
"""Taken until the line has shown more. Telephones that lose less (G.131 asks for far more) show that soon."""
LEAST_LOSS_DB: Final = 12.0
"""A line that loses less is not believed: the caller must be able to interrupt. There the words have to decide."""
QUIET_DB: Final = -45.0
"""An agent that is softer than this tells nothing about the line."""

_BLOCK_MS: Final = ECHO_WITHIN_MS + 300
_BLOCKS: Final = 8
_BLOCKS_TO_DOUBT: Final = 3
_FRAME_SAMPLES: Final = 64
_SAMPLES_PER_MS: Final = 8
_PIECE_SAMPLES: Final = 800
"""Audio is kept in pieces of 100 ms, for only those that lie whole in a block tell something about the line."""
_MOST_UNMEASURED: Final = 8
_WHOLE_FRAMES: Final = _PIECE_SAMPLES // _FRAME_SAMPLES * _FRAME_SAMPLES
_NOTHING_DB: Final = -120.0
_POWER: Final[NDArray[np.float32]] = np.square(mulaw_to_float(bytes(range(256))))


class EchoGuard:
    """Echo of one call. Times are ms on the call's clock; levels are dBFS of frames of 8 ms."""

    def __init__(self) -> None:
        self._sent: deque[tuple[int, int, float]] = deque()
        self._unmeasured: list[tuple[int, bytes]] = []
        self._losses: deque[float] = deque(maxlen=_BLOCKS)
        self._block_ms: int | None = None
        self._back_db = _NOTHING_DB

    @property
    def expected(self) -> bool:
        """The agent spoke lately, or is about to be heard."""
        return bool(self._sent or self._unmeasured)

    @property
    def loss_db(self) -> float:
        """By how much softer the agent's voice comes back, at least; what is usual while nothing is known."""
        bounds = sorted(self._losses)
        if len(bounds) < _BLOCKS_TO_DOUBT:
            # Little came back louder than usual: that may have been the caller.
            return max([USUAL_LOSS_DB, *bounds])
        # The best bound but one: a block in which the microphone was off proves nothing.
        return max(bounds[-2], LEAST_LOSS_DB)

    def limit_db(self, at_ms: int) -> float:
        """Up to this level sound that comes in at ``at_ms`` may be an echo; far below silence when nothing was said."""
        loudest = self._loudest_sent(at_ms - ECHO_WITHIN_MS, at_ms)
        return loudest - self.loss_db + MARGIN_DB if loudest > _NOTHING_DB else _NOTHING_DB

    def sent(self, at_ms: int, audio: bytes) -> None:
        """The agent's audio (mu-law 8 kHz) that is heard from ``at_ms`` on; in order.

        It is measured when its level is asked for: with the windows of all calls, when the code for it is in the
        processor's caches. Alone it takes six times as long.
        """
        self._unmeasured.append((at_ms, audio))
        if len(self._unmeasured) >= _MOST_UNMEASURED:
            self._measure()

    def cut(self, now_ms: int) -> None:
        """What was not heard yet never will be."""
        self._measure()
        while self._sent and self._sent[-1][0] >= now_ms:
            self._sent.pop()
        if self._sent and self._sent[-1][1] > now_ms:
            start_ms, _, level = self._sent.pop()
            self._sent.append((start_ms, now_ms, level))

    def heard(self, start_ms: int, end_ms: int, loudest_db: float) -> None:
        """A stretch of the caller's line; in order. Not needed while no echo is ``expected``."""
        self._measure()
        if self._block_ms is None:
            self._block_ms = start_ms
        self._back_db = max(self._back_db, loudest_db)
        if end_ms - self._block_ms >= _BLOCK_MS:
            self._learn(self._block_ms, end_ms)
        while self._sent and self._sent[0][1] < end_ms - _BLOCK_MS - ECHO_WITHIN_MS:
            self._sent.popleft()

    def _learn(self, start_ms: int, end_ms: int) -> None:
        """Close the block: all that was sent in it, but for its end, has come back in it."""
        said = [level for begin, end, level in self._sent if begin >= start_ms and end <= end_ms - ECHO_WITHIN_MS]
        if said and max(said) >= QUIET_DB:
            self._losses.append(max(said) - self._back_db)
        self._block_ms, self._back_db = None, _NOTHING_DB

    def _measure(self) -> None:
        for at_ms, audio in self._unmeasured:
            for number, level_db in enumerate(_loudest_db(audio)):
                samples = min(_PIECE_SAMPLES, len(audio) - number * _PIECE_SAMPLES)
                begin_ms = at_ms + number * _PIECE_SAMPLES // _SAMPLES_PER_MS
                self._sent.append((begin_ms, begin_ms + samples // _SAMPLES_PER_MS, level_db))
        self._unmeasured.clear()

    def _loudest_sent(self, start_ms: int, end_ms: int) -> float:
        self._measure()
        levels = [level for begin, end, level in self._sent if begin <= end_ms and end >= start_ms]
        return max(levels, default=_NOTHING_DB)


def _loudest_db(audio: bytes) -> list[float]:
    """Level of the loudest whole frame of each piece; of all of it where a piece is shorter than a frame."""
    power = _POWER.take(np.frombuffer(audio, dtype=np.uint8))
    pieces = len(power) // _PIECE_SAMPLES
    whole = power[: pieces * _PIECE_SAMPLES].reshape(pieces, _PIECE_SAMPLES)[:, :_WHOLE_FRAMES]
    sums = np.add.reduce(whole.reshape(pieces, -1, _FRAME_SAMPLES), axis=2) if pieces else None
    loudest = (np.maximum.reduce(sums, axis=1) / _FRAME_SAMPLES).tolist() if sums is not None else []
    rest = power[pieces * _PIECE_SAMPLES :]
    if len(rest):
        frames = rest[: len(rest) // _FRAME_SAMPLES * _FRAME_SAMPLES] if len(rest) >= _FRAME_SAMPLES else rest
        loudest.append(float(frames.reshape(-1, min(_FRAME_SAMPLES, len(rest))).mean(axis=1).max()))
    return [10.0 * math.log10(max(level, 1e-12)) for level in loudest]
