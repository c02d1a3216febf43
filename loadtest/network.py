"""What a network does to a call on its way to the platform: jitter, loss, cuts. Seeded, counted in frames of 20 ms.

Frames travel over TCP, so jitter delays and bunches them and never reorders them. A lost frame was lost before the
carrier made a message of it: no message comes, the stream's time goes on, its sequence numbers have no gap.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

FRAME_MS = 20


@dataclass(frozen=True, slots=True)
class Network:
    """Conditions of one call.

    Attributes:
        jitter_ms: each frame is late by up to this much.
        loss_share: of the caller's frames, [0, 1).
        cuts_ms: the socket is cut so long after the call was answered; the call comes back by its ``action`` URL.
    """

    jitter_ms: int = 0
    loss_share: float = 0.0
    cuts_ms: tuple[int, ...] = ()

    @property
    def disturbs(self) -> bool:
        """Whether frames need an ``Uplink``."""
        return self.jitter_ms > 0 or self.loss_share > 0


class Uplink:
    """The way of one stream's frames. Call ``pass_on`` once in each tick."""

    def __init__(self, network: Network, seed: int) -> None:
        self._random = random.Random(seed)
        self._loss = network.loss_share
        self._longest = network.jitter_ms // FRAME_MS
        self._under_way: deque[tuple[int, int, bytes]] = deque()
        self._tick = 0
        self._last_due = 0
        self.lost = 0

    def pass_on(self, frame: bytes) -> list[tuple[int, bytes]]:
        """Take this tick's frame; returns what arrives now: (number of the frame since the stream began, frame)."""
        if self._loss and self._random.random() < self._loss:
            self.lost += 1
        else:
            due = self._tick + (self._random.randint(0, self._longest) if self._longest else 0)
            self._last_due = max(due, self._last_due)
            self._under_way.append((self._last_due, self._tick, frame))
        arrived = []
        while self._under_way and self._under_way[0][0] <= self._tick:
            _, number, audio = self._under_way.popleft()
            arrived.append((number, audio))
        self._tick += 1
        return arrived
