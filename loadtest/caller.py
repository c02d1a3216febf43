"""The emulated caller: follows its script by what it *hears*, 20 ms at a time. Pure: ticks in, frames out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from loadtest.playout import FRAME_BYTES, FRAME_MS
from loadtest.script import After, AgentSilent, AwaitHangUp, CallerScript, HangUp, Press, Say, When
from loadtest.sounds import EchoPath, has_words
from loadtest.speech import background, with_noise
from voice_agent.audio.g711 import SILENCE, mulaw_decode

LEFT = "left"
"""Reason of a caller who was told to leave."""
LOUD_DBFS = -45.0
"""A frame above this is loud: well above comfort noise, well below speech."""

_POWER = np.square(mulaw_decode(bytes(range(256))).astype(np.float64) / 32768.0)
_LOUD_POWER = 10.0 ** (LOUD_DBFS / 10.0)
_SILENT_FRAME = SILENCE * FRAME_BYTES
_SPOKE_FRAMES = 3
_PAUSE_IN_SPEECH_MS = 500
_STILL_SPEAKING_MS = 200
_KEY_TICKS = 10
_NOISES = 16
"""Different stretches of noise of a kind and level; more would only cost the making."""


@lru_cache(maxsize=64)
def _frames(audio: bytes) -> tuple[bytes, ...]:
    return tuple(audio[at : at + FRAME_BYTES] for at in range(0, len(audio) - FRAME_BYTES + 1, FRAME_BYTES))


@lru_cache(maxsize=1024)
def _frame_pairs(audio: bytes, noise: bytes, words: bool) -> tuple[tuple[bytes, bytes], ...]:
    """A line as it is sent and as it counts, frame by frame: on top of the noise, and without. Callers share it."""
    sent = _frames(with_noise(audio, noise))
    clean = _frames(audio.ljust(len(sent) * FRAME_BYTES, SILENCE)) if words else (_SILENT_FRAME,) * len(sent)
    return tuple(zip(sent, clean, strict=True))


@lru_cache(maxsize=1024)
def _loud_end_ms(line: tuple[tuple[bytes, bytes], ...]) -> int:
    """Where the sound of a line ends, in steps of half a frame."""
    halves = [half for _, clean in line for half in (clean[: FRAME_BYTES // 2], clean[FRAME_BYTES // 2 :])]
    return next((at for at in range(len(halves), 0, -1) if is_loud(halves[at - 1])), 0) * FRAME_MS // 2


def is_loud(frame: bytes) -> bool:
    """Whether a mu-law frame is above ``LOUD_DBFS``."""
    if frame == _SILENT_FRAME:  # most frames are, and this is most of what an idle caller costs
        return False
    power = np.add.reduce(_POWER.take(np.frombuffer(frame, dtype=np.uint8)))
    return bool(power > _LOUD_POWER * len(frame))


@dataclass(frozen=True, slots=True)
class CallerAction:
    """What the caller does in this tick: 160 bytes of mu-law into the microphone, maybe a key, maybe the end."""

    frame: bytes
    digit: str = ""
    hang_up: str = ""


@dataclass(frozen=True, slots=True)
class SpokenLine:
    """A line as it was spoken, on the call's clock: from its first frame to the end of its last.

    ``over_agent``: the agent was speaking when it began.
    """

    text: str
    start_ms: int
    end_ms: int
    over_agent: bool


@dataclass(slots=True)
class _Ear:
    """What the caller has heard of the agent, counted since ``forget``."""

    now_ms: int = 0
    loud_frames: int = 0
    last_loud_ms: int | None = None
    onset_ms: int | None = None
    speaking: bool = False

    def hear(self, frame: bytes) -> str:
        """Take the next frame. Returns ``agent_speaks`` or ``agent_silent`` when that has changed."""
        self.now_ms += FRAME_MS
        if is_loud(frame):
            if self.onset_ms is None:
                self.onset_ms, self.loud_frames = self.now_ms, 0
            self.loud_frames += 1
            self.last_loud_ms = self.now_ms
        elif self.last_loud_ms is not None and self.silent_ms >= _PAUSE_IN_SPEECH_MS:
            self.onset_ms = None
        speaking = self.onset_ms is not None and self.loud_frames >= _SPOKE_FRAMES
        changed = speaking != self.speaking
        self.speaking = speaking
        if not changed:
            return ""
        return "agent_speaks" if speaking else "agent_silent"

    @property
    def silent_ms(self) -> int:
        return self.now_ms - self.last_loud_ms if self.last_loud_ms is not None else 0


class ScriptedCaller:
    """Plays a script. One owner; call ``tick`` once for each 20 ms of the call."""

    def __init__(
        self,
        script: CallerScript,
        lines: Mapping[tuple[str, str], bytes],
        note: Callable[[int, str, str], None] | None = None,
    ) -> None:
        """``lines`` holds mu-law 8 kHz for each of ``script.lines``; ``note`` is told (at_ms, kind, text)."""
        self.script = script
        noise = background(script.noise_dbfs, script.seed % _NOISES, script.noise_kind)
        self._noise = _frames(noise)
        self._lines = {key: _frame_pairs(audio, noise, has_words(key[0])) for key, audio in lines.items()}
        self._echo = EchoPath(script.echo) if script.echo is not None else None
        self._clean = _SILENT_FRAME
        self._note = note or (lambda at_ms, kind, text: None)
        self._ear = _Ear()
        self._step = 0
        self._since_ms = 0
        self._spoke_since_own_line = False
        self._speech: tuple[tuple[bytes, bytes], ...] = ()
        self._at = 0
        self._keys: list[str] = []
        self._key_wait = 0
        self._over = False
        self._leaving = False
        self._own_loud_ms = 0
        self.unanswered = 0
        self.spoken: list[SpokenLine] = []
        self.mouth = bytearray()
        """The caller's words alone, mu-law, frame by frame as sent: without noise, echo and coughs."""

    def tick(self, heard: bytes) -> CallerAction:
        """Hear the agent's last frame, say the next one."""
        self._clean = _SILENT_FRAME
        action = self._act(heard)
        self.mouth += self._clean
        return action if self._echo is None else replace(action, frame=self._echo.mix(action.frame, heard))

    def take_wait_ms(self) -> int | None:
        """Once for each line: the time from its last loud frame to the agent's first; None when there is none."""
        onset_ms = self._ear.onset_ms
        if onset_ms is None or self._speech or not 0 < self._own_loud_ms < onset_ms:
            return None
        waited_ms = onset_ms - FRAME_MS - self._own_loud_ms
        self._own_loud_ms = 0
        return waited_ms

    def leave(self) -> None:
        """Hang up as soon as the line that is being spoken is over."""
        self._leaving = True

    def _act(self, heard: bytes) -> CallerAction:
        change = self._ear.hear(heard)
        if change:
            self._note(self._ear.now_ms, change, "")
        if self._ear.speaking:
            self._spoke_since_own_line = True
        if self._over:
            return CallerAction(self._quiet())
        if self._ear.now_ms >= self.script.max_call_ms:
            return self._hang_up("gave_up")
        if self._speech:
            return CallerAction(self._speak())
        if self._keys:
            return self._press()
        return self._hang_up(LEFT) if self._leaving else self._next()

    def _next(self) -> CallerAction:
        """Start the current step if it is time."""
        if self._step >= len(self.script.steps):
            return self._hang_up("script_done")
        step = self.script.steps[self._step]
        if isinstance(step, AwaitHangUp):
            if self._ear.now_ms - self._since_ms >= step.timeout_ms:
                return self._hang_up("agent_did_not_hang_up")
            return CallerAction(self._quiet())
        if not self._is_time(step.when):
            return CallerAction(self._quiet())
        if 0 < self.script.hang_up_after_ms <= self._ear.now_ms:
            return self._hang_up("script_done")
        return self._begin(step)

    def _begin(self, step: Say | Press | HangUp) -> CallerAction:
        if isinstance(step, HangUp):
            return self._hang_up("script_done")
        if isinstance(step, Press):
            self._note(self._ear.now_ms, "caller_presses", step.digits)
            self._keys = list(step.digits)
            return self._press()
        self._note(self._ear.now_ms, "caller_says", step.text)
        start_ms = self._ear.now_ms - FRAME_MS
        self.spoken.append(SpokenLine(step.text, start_ms, start_ms, self._ear.speaking))
        line = self._lines[step.text, step.voice or self.script.voice]
        self._speech, self._at = line[: step.cut_ms // FRAME_MS or len(line)], 0
        over = self._ear.onset_ms is not None and self._ear.silent_ms <= 2 * FRAME_MS
        self._own_loud_ms = 0 if over else start_ms + _loud_end_ms(self._speech)
        return CallerAction(self._speak())

    def _is_time(self, when: When) -> bool:
        waited_ms = self._ear.now_ms - self._since_ms
        if isinstance(when, After):
            return waited_ms >= when.ms
        if isinstance(when, AgentSilent):
            ready = self._spoke_since_own_line and self._ear.silent_ms >= when.ms
        else:
            ready = self._speaking_for_ms() >= when.ms
        heard_ms = self._ear.last_loud_ms or 0
        if not ready and self._ear.now_ms - max(heard_ms, self._since_ms) >= when.patience_ms:
            self.unanswered += 1
            self._note(self._ear.now_ms, "unanswered", "")
            return True
        return ready

    def _speaking_for_ms(self) -> int:
        """How long the agent has been speaking; -1 when it is not, or began before the last step was done."""
        onset_ms = self._ear.onset_ms
        if onset_ms is None or onset_ms <= self._since_ms or self._ear.silent_ms > _STILL_SPEAKING_MS:
            return -1
        return self._ear.now_ms - onset_ms

    def _speak(self) -> bytes:
        frame, self._clean = self._speech[self._at]
        self._at += 1
        if self._at == len(self._speech):
            self._speech = ()
            self.spoken[-1] = replace(self.spoken[-1], end_ms=self._ear.now_ms)
            self._done()
        return frame

    def _press(self) -> CallerAction:
        if self._key_wait:
            self._key_wait -= 1
            return CallerAction(self._quiet())
        self._key_wait = _KEY_TICKS
        digit = self._keys.pop(0)
        if not self._keys:
            self._done()
        return CallerAction(self._quiet(), digit=digit)

    def _done(self) -> None:
        self._step += 1
        self._since_ms = self._ear.now_ms
        self._spoke_since_own_line = False

    def _hang_up(self, reason: str) -> CallerAction:
        self._over = True
        self._note(self._ear.now_ms, "caller_hangs_up", reason)
        return CallerAction(self._quiet(), hang_up=reason)

    def _quiet(self) -> bytes:
        return self._noise[self._ear.now_ms // FRAME_MS % len(self._noise)]
