"""Simulated speech to text, language model and text to speech: a latency profile, and nothing else.

They measure the platform round the models. Nothing they say came from a model, ``capabilities.simulated`` is True, and
whatever is measured with them is labelled so. The waiting costs no CPU: sleeps on absolute deadlines, and audio that is
sliced from a loop made once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from itertools import accumulate

import numpy as np

from engines.word_sounds import word_sound
from voice_agent.audio.g711 import mulaw_decode, mulaw_encode
from voice_agent.audio.levels import loud_frames
from voice_agent.errors import ConfigError
from voice_agent.ports import (
    Capabilities,
    ReplyChunk,
    ReplyRequest,
    SpeakRequest,
    SpeechChunk,
    ToolCall,
    TranscribeResponse,
    Word,
)

VERSION = "1"
_BYTES_PER_MS = 8
_LEAST_MS = 150
_FRAME_SAMPLES = 80
_LOUD_DBFS = -50.0
_GOODS = "bikes helmets locks lights tires pedals brakes saddles bells pumps baskets gloves chains wheels racks".split()
_REVISED_SHARE = 0.1
_REVISED_MS = 200
_REPLY = (
    "This is a simulated answer which was made by no model and knows nothing. "
    "It only has the length and the pace of a real one so far. "
    "Please measure the platform with it and then plug in your model."
)
_END_CALL_WORDS = ("goodbye",)
_WORDS = "words"


class _Jitter:
    """Stretches delays by up to ``share`` either way; the same seed and key give the same delays."""

    def __init__(self, share: float, seed: int) -> None:
        if not 0 <= share < 1:
            raise ConfigError(f"The simulated engine's option jitter must be in [0, 1), got {share}.")
        self._share = share
        self.seed = seed

    def stream(self, *key: object) -> _JitterStream:
        return _JitterStream(self._share, random.Random(repr((self.seed, *key))) if self._share else None)


class _JitterStream:
    """The delays of one request, in order."""

    def __init__(self, share: float, source: random.Random | None) -> None:
        self._share = share
        self._source = source

    def seconds(self, delay_ms: float) -> float:
        factor = 1.0 if self._source is None else 1.0 + self._source.uniform(-self._share, self._share)
        return max(0.0, delay_ms * factor / 1000.0)


class SimulatedSpeechToText:
    """A word for each ``word_ms`` of speech; the final text is there ``final_ms`` after the caller's end.

    It stands for a streaming recogniser, which works while the pause is being detected: silence at the end of the
    audio counts towards ``final_ms``, since the audio came in real time.

    Text that is not flushed is neither better nor worse than that of a real one. A word is known when ``word_ms`` of
    audio have come in for it, and it is a word when it will be known ``final_ms`` after the end of speech: so the last
    one is known between 190 ms before the caller's last sound and 60 ms after it, evenly spread. One word in ten is
    another word for the first 200 ms. Less than 150 ms of audio is no speech and has no text.

    With ``texts`` an utterance has the text of its number instead, cycled, however long it lasts. Such a text is
    complete while the caller still speaks, which is fine for trying dialogs and too kind for measuring.
    ``{spoken_ms}`` in it becomes the length of what was loud in the audio, in steps of 10 ms: a test of lost audio can
    go by it.
    """

    def __init__(
        self,
        *,
        texts: Sequence[str] | None = None,
        final_ms: float = 60.0,
        word_ms: int = 250,
        confidence: float = 0.95,
        push_interval_ms: int = 0,
        jitter: float = 0.0,
        seed: int = 0,
    ) -> None:
        if texts is not None and not texts:
            raise ConfigError("The simulated stt engine's option texts must not be empty.")
        if word_ms < 100:
            raise ConfigError("The simulated stt engine needs word_ms >= 100.")
        self.texts = None if texts is None else tuple(texts)
        self.final_ms = final_ms
        self.word_ms = word_ms
        self.confidence = confidence
        self.jitter = _Jitter(jitter, seed)
        self.reloads = 0
        self._capabilities = Capabilities(
            name="simulated", version=VERSION, simulated=True, push_interval_ms=push_interval_ms, parallel=64
        )

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return self._capabilities

    def open(self, *, call_id: str, utterance: int) -> SimulatedSession:
        """Start an utterance."""
        return SimulatedSession(self, call_id, utterance)

    def reload(self) -> None:
        """There is no vocabulary; the request is counted."""
        self.reloads += 1


class SimulatedSession:
    """One simulated utterance."""

    def __init__(self, engine: SimulatedSpeechToText, call_id: str, utterance: int) -> None:
        self._engine = engine
        self._delays = engine.jitter.stream("stt", call_id, utterance)
        self._text = engine.texts[(utterance - 1) % len(engine.texts)].split() if engine.texts else None
        self._chance = random.Random(repr((engine.jitter.seed, "words", call_id, utterance)))
        self._goods: list[tuple[str, str]] = []
        self._samples = 0
        self._first_loud: int | None = None
        self._quiet_samples = 0
        self._loud_frames = 0

    def accept(self, audio: bytes) -> None:
        """Count the audio, and the silence at its ends."""
        loud = np.flatnonzero(loud_frames(mulaw_decode(audio), _FRAME_SAMPLES, _LOUD_DBFS))
        self._loud_frames += len(loud)
        if len(loud):
            self._quiet_samples = len(audio) - (int(loud[-1]) + 1) * _FRAME_SAMPLES
            if self._first_loud is None:
                self._first_loud = self._samples + int(loud[0]) * _FRAME_SAMPLES
        else:
            self._quiet_samples += len(audio)
        self._samples += len(audio)

    def result(self, *, flush: bool) -> TranscribeResponse:
        """The words known so far; with ``flush`` all of them, after the delay of the profile."""
        started = time.perf_counter()
        engine = self._engine
        heard_ms = self._samples // _BYTES_PER_MS
        if flush:
            quiet_s = max(0, self._quiet_samples) / (1000 * _BYTES_PER_MS)
            time.sleep(max(0.0, self._delays.seconds(engine.final_ms) - quiet_s))
        if heard_ms < _LEAST_MS:
            return TranscribeResponse(flushed=flush, engine_ms=_since_ms(started))
        texts = self._of_speech(flush) if self._text is None else self._of_list(self._text, flush)
        step = min(engine.word_ms, heard_ms // max(1, len(texts)))
        words = tuple(
            Word(text=word, start_ms=index * step, end_ms=(index + 1) * step, confidence=engine.confidence)
            for index, word in enumerate(texts)
        )
        return TranscribeResponse(
            text=" ".join(texts),
            words=words,
            confidence=engine.confidence if words else 0.0,
            flushed=flush,
            engine_ms=_since_ms(started),
        )

    def _of_list(self, words: list[str], flush: bool) -> list[str]:
        spoken_ms = self._loud_frames * _FRAME_SAMPLES // _BYTES_PER_MS
        known = words if flush else words[: self._samples // _BYTES_PER_MS // self._engine.word_ms]
        return [word.replace("{spoken_ms}", str(spoken_ms)) for word in known]

    def _of_speech(self, flush: bool) -> list[str]:
        """See the engine: word ``n`` is known at ``n + 1`` times ``word_ms``, if enough of it was spoken by then."""
        engine = self._engine
        if self._first_loud is None:
            return []
        since_ms = (self._samples - self._first_loud) // _BYTES_PER_MS
        spoken_ms = since_ms - max(0, self._quiet_samples) // _BYTES_PER_MS
        count = int(spoken_ms + engine.final_ms) // engine.word_ms
        if flush:
            return [word for word, _ in self._spoken(max(1, count))]
        known = self._spoken(min(count, since_ms // engine.word_ms))
        settled = (since_ms - _REVISED_MS) // engine.word_ms
        return [word if index < settled else at_first for index, (word, at_first) in enumerate(known)]

    def _spoken(self, count: int) -> list[tuple[str, str]]:
        """(word, what it is taken for at first) of the first ``count`` words."""
        while len(self._goods) < count:
            word = self._chance.choice(_GOODS)
            revised = self._chance.random() < _REVISED_SHARE
            self._goods.append((word, self._chance.choice(_GOODS) if revised else word))
        return self._goods[:count]

    def close(self) -> None:
        """Nothing is held."""


class SimulatedLanguageModel:
    """A fixed text, a word at a time. A caller who says a word of ``end_call_on`` gets the tool call that hangs up."""

    def __init__(
        self,
        *,
        text: str = _REPLY,
        first_token_ms: float = 100.0,
        word_ms: float = 15.0,
        end_call_on: Sequence[str] = _END_CALL_WORDS,
        jitter: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._text = text
        self._first_token_ms = first_token_ms
        self._word_ms = word_ms
        self._end_call_on = frozenset(end_call_on)
        self._jitter = _Jitter(jitter, seed)
        self._capabilities = Capabilities(name="simulated", version=VERSION, simulated=True)

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return self._capabilities

    async def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        """Stream the text at the pace of the profile. Closing the iterator ends the waiting."""
        delays = self._jitter.stream("llm", request.call_id, request.turn)
        due = asyncio.get_running_loop().time() + delays.seconds(self._first_token_ms)
        for index, word in enumerate(self._text.split()):
            await _sleep_until(due)
            yield ReplyChunk(text=word if index == 0 else f" {word}")
            due += delays.seconds(self._word_ms)
        yield self._last_chunk(request)

    def _last_chunk(self, request: ReplyRequest) -> ReplyChunk:
        said = request.messages[-1].content.lower().split() if request.messages else []
        if self._end_call_on.intersection(said):
            return ReplyChunk(tool_call=ToolCall("end_call"), finish_reason="tool")
        return ReplyChunk(finish_reason="stop")


class SimulatedTextToSpeech:
    """A steady chord, never speech, loud throughout: first audio after ``first_audio_ms``, then ``speed`` x real time.

    Its length is ``word_duration_ms`` a word, or ``char_duration_ms`` a character when that is set. The voice
    ``words`` is no chord: each word has a sound of its own (``engines.word_sounds``), so that a recording of a call
    tells which words were heard.
    """

    def __init__(
        self,
        *,
        first_audio_ms: float = 80.0,
        speed: float = 5.0,
        word_duration_ms: int = 350,
        char_duration_ms: int = 0,
        chunk_ms: int = 200,
        jitter: float = 0.0,
        seed: int = 0,
    ) -> None:
        if speed <= 0 or chunk_ms < 100:
            raise ConfigError("The simulated tts engine needs speed > 0 and chunk_ms >= 100.")
        self._first_audio_ms = first_audio_ms
        self._speed = speed
        self._word_duration_ms = word_duration_ms
        self._char_duration_ms = char_duration_ms
        self._chunk_ms = chunk_ms
        self._jitter = _Jitter(jitter, seed)
        self._loop_audio = {"tone": _chord(300, 450, 620), "low": _chord(200, 310, 430)}
        self._capabilities = Capabilities(name="simulated", version=VERSION, simulated=True)

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return self._capabilities

    @property
    def voices(self) -> tuple[str, ...]:
        """Two chords that can be told apart by ear, and a sound for each word."""
        return (*self._loop_audio, _WORDS)

    async def speak(self, request: SpeakRequest) -> AsyncIterator[SpeechChunk]:
        """Stream the chord at the pace of the profile. Closing the iterator ends the waiting."""
        ends_ms = self._word_ends(request.text)
        if not ends_ms:
            yield SpeechChunk(audio=b"", last=True)
            return
        tone = self._sounds(request, ends_ms)
        delays = self._jitter.stream("tts", request.call_id, request.turn, request.clause)
        due = asyncio.get_running_loop().time() + delays.seconds(self._first_audio_ms)
        total_ms = ends_ms[-1]
        for start_ms in range(0, total_ms, self._chunk_ms):
            await _sleep_until(due)
            end_ms = min(total_ms, start_ms + self._chunk_ms)
            last = end_ms == total_ms
            yield SpeechChunk(audio=_piece(tone, start_ms, end_ms), last=last, word_ends_ms=ends_ms if last else ())
            due += delays.seconds(self._chunk_ms / self._speed)

    def _sounds(self, request: SpeakRequest, ends_ms: Sequence[int]) -> bytes:
        if request.voice != _WORDS:
            return self._loop_audio.get(request.voice) or self._loop_audio["tone"]
        words = zip(request.text.split(), (0, *ends_ms), ends_ms, strict=False)
        return b"".join(word_sound(word, end_ms - start_ms) for word, start_ms, end_ms in words)

    def _word_ends(self, text: str) -> tuple[int, ...]:
        """End of each word in ms from the start."""
        per_char = self._char_duration_ms
        return tuple(accumulate(per_char * len(word) or self._word_duration_ms for word in text.split()))


def _chord(*tones_hz: int) -> bytes:
    """One second of mu-law at about -15 dBFS. Whole-numbered frequencies, so the loop has no seam."""
    at = np.arange(8000) / 8000.0
    mix = np.mean([np.sin(2 * np.pi * hz * at) for hz in tones_hz], axis=0)
    return mulaw_encode((mix * 14000).astype(np.int16))


def _piece(loop_audio: bytes, start_ms: int, end_ms: int) -> bytes:
    start = start_ms * _BYTES_PER_MS % len(loop_audio)
    length = (end_ms - start_ms) * _BYTES_PER_MS
    repeats = (start + length) // len(loop_audio) + 1
    return (loop_audio * repeats)[start : start + length]


def _since_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000.0


async def _sleep_until(due: float) -> None:
    """Sleep to a point on the loop's clock, so that late wake-ups do not add up."""
    await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
