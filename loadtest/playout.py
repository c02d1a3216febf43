"""The carrier's playout buffer: what was received is played 20 ms at a time, and marks come back when it was.

Pure: it knows ticks of 20 ms, no clock. The same tick that plays a frame sends a frame of the caller.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from voice_agent.audio.g711 import SILENCE

FRAME_MS = 20
FRAME_BYTES = 160
_SILENT_FRAME = SILENCE * FRAME_BYTES


@dataclass(frozen=True, slots=True)
class Underrun:
    """The buffer ran dry between two pieces of audio.

    Attributes:
        at_ms: when the last audio before it had been played, on the playout clock.
        gap_ms: how long there was nothing to play.
        starved: no mark and no ``clear`` came between the audio before and the audio after: the server was in the
            middle of a clause (it marks the end of each) and did not deliver. Otherwise it is a pause between clauses,
            between turns, or the hole a ``clear`` made.
        cleared: a ``clear`` came in between.
    """

    at_ms: int
    gap_ms: int
    starved: bool
    cleared: bool

    def moved(self, by_ms: int) -> Underrun:
        """The same on a clock that was at ``by_ms`` when the playout clock was at 0."""
        return replace(self, at_ms=self.at_ms + by_ms)


@dataclass(slots=True)
class PlayoutBuffer:
    """One stream's buffer. Positions count bytes of mu-law since the stream began; one owner.

    Attributes:
        ticks: frames played, silent ones included.
        played_bytes: handed to the ear, the frame that sounds now included.
        underruns: holes between audio, closed ones only.
        clears: how often ``clear`` came.
        cleared_bytes: audio that was never heard because of ``clear``.
    """

    ticks: int = 0
    played_bytes: int = 0
    underruns: list[Underrun] = field(default_factory=list)
    clears: int = 0
    cleared_bytes: int = 0
    _audio: bytearray = field(default_factory=bytearray)
    _received: int = 0
    _finished: int = 0
    _marks: deque[tuple[int, str]] = field(default_factory=deque)
    _dry_since: int | None = None
    _marked_since_audio: bool = True
    _cleared_since_audio: bool = False

    @property
    def queued_ms(self) -> int:
        """Audio waiting to be played, in ms."""
        return len(self._audio) * 1000 // 8000

    def media(self, payload: bytes) -> None:
        """Queue audio behind what is there."""
        if not payload:
            return
        if self._dry_since is not None:
            self._close_hole(self._dry_since)
            self._dry_since = None
        self._audio += payload
        self._received += len(payload)
        self._marked_since_audio = False
        self._cleared_since_audio = False

    def mark(self, name: str) -> list[str]:
        """Queue a mark; returns it when it is to be echoed at once, because nothing before it is still to be played."""
        self._marked_since_audio = True
        if self._received <= self._finished:
            return [name]
        self._marks.append((self._received, name))
        return []

    def clear(self) -> list[str]:
        """Drop what is queued; returns all outstanding marks, to be echoed at once."""
        self.clears += 1
        self.cleared_bytes += len(self._audio)
        self._received -= len(self._audio)
        self._audio.clear()
        self._cleared_since_audio = True
        names = [name for _, name in self._marks]
        self._marks.clear()
        return names

    def tick(self) -> tuple[bytes, list[str]]:
        """Go on by one frame: the 160 bytes that sound from now on, and the marks whose audio has just ended."""
        self._finished = self.played_bytes
        names = []
        while self._marks and self._marks[0][0] <= self._finished:
            names.append(self._marks.popleft()[1])
        frame = bytes(self._audio[:FRAME_BYTES])
        del self._audio[: len(frame)]
        self.played_bytes += len(frame)
        if len(frame) < FRAME_BYTES and self._dry_since is None and self.played_bytes:
            self._dry_since = self.ticks * FRAME_MS + len(frame) * 1000 // 8000
        self.ticks += 1
        return (frame if len(frame) == FRAME_BYTES else frame + _SILENT_FRAME[len(frame) :]), names

    def _close_hole(self, since_ms: int) -> None:
        """New audio came: it sounds from the next tick on."""
        starved = not self._marked_since_audio and not self._cleared_since_audio
        gap_ms = self.ticks * FRAME_MS - since_ms
        self.underruns.append(Underrun(since_ms, gap_ms, starved, self._cleared_since_audio))
