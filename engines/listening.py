"""Listening to a voice: silence, or next to nothing, for words is a fault of the engine that gives it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

from voice_agent.audio.g711 import mulaw_decode
from voice_agent.audio.levels import loud_frames
from voice_agent.errors import EngineFailedError
from voice_agent.ports import SpeechChunk

LOUD_DBFS: Final = -50.0
FRAME_SAMPLES: Final = 80
QUIET_BYTES: Final = 8 * 1000
"""Speech that is not loud within its first second is silence; real voices begin within 0.3 s."""
PAUSE_BYTES: Final = 8 * 1500
"""No pause between words is as long, and none may be; the slowest voices pause for 1 s at the end of a paragraph."""
LEAST_BYTES_PER_LETTER: Final = 8 * 8
LEAST_BYTES: Final = 8 * 100
"""Speech shorter than 8 ms a letter, up to 100 ms, is not of its text; the fastest voices take 40 ms a letter."""

_LOUD_ALONE: Final = 32768 * 10 ** (LOUD_DBFS / 20) * FRAME_SAMPLES**0.5
_FAINT: Final = bytes(code for code, at in enumerate(mulaw_decode(bytes(range(256)))) if abs(int(at)) < _LOUD_ALONE)
"""Mu-law codes of which one alone does not make its frame loud. Most speech has others, and needs no levels."""


async def listened(speech: AsyncIterator[SpeechChunk], text: str) -> AsyncGenerator[SpeechChunk, None]:
    """Pass the speech of a text on; silent pieces wait for the next that is not, or for the end of the clause.

    So silence that turns out to be a fault is not given, and whoever plays the speech is as late as the words are. A
    text without letters may be silent, and is passed on as it comes.

    Args:
        speech: mu-law mono 8 kHz; closed at the end.
        text: what is to be said.

    Raises:
        EngineFailedError: for text that has letters: silence at the begin or in the middle, nothing but silence, or
            next to no audio.
    """
    letters = sum(letter.isalnum() for letter in text)
    ear = _Ear()
    held: list[SpeechChunk] = []
    closing: Any = speech
    async with aclosing(closing):
        async for chunk in speech:
            if letters:
                held.append(chunk)
                loud = ear.hears(chunk.audio)
                ear.judge(letters, last=chunk.last)
                if not loud and not chunk.last:
                    continue
                chunk, held = joined(held), []
            yield chunk


@dataclass(slots=True)
class _Ear:
    """What was heard of a clause: bytes of it, bytes since the last sound, and those too few for a frame."""

    total_bytes: int = 0
    quiet_bytes: int = 0
    heard: bool = False
    rest: bytes = b""

    def hears(self, audio: bytes) -> bool:
        """Is there a sound in this piece?"""
        whole = self.rest + audio
        loud = _is_loud(whole)
        self.rest = b"" if loud else whole[len(whole) // FRAME_SAMPLES * FRAME_SAMPLES :]
        self.total_bytes += len(audio)
        self.quiet_bytes = 0 if loud else self.quiet_bytes + len(audio)
        self.heard = self.heard or loud
        return loud

    def judge(self, letters: int, *, last: bool) -> None:
        """Is this still the speech of so many letters? ``last``: it is all of it."""
        if self.quiet_bytes >= (PAUSE_BYTES if self.heard else QUIET_BYTES) or (last and not self.heard):
            raise EngineFailedError("the tts engine gave silence for words")
        if last and self.total_bytes < min(letters * LEAST_BYTES_PER_LETTER, LEAST_BYTES):
            raise EngineFailedError("the tts engine gave next to nothing for words")


def _is_loud(audio: bytes) -> bool:
    if audio.translate(None, _FAINT):
        return True
    return bool(loud_frames(mulaw_decode(audio), FRAME_SAMPLES, LOUD_DBFS).any()) if audio else False


def joined(chunks: Sequence[SpeechChunk]) -> SpeechChunk:
    """One chunk of several, in order; the last says where the words end."""
    return replace(chunks[-1], audio=b"".join(chunk.audio for chunk in chunks))
