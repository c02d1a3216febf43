"""espeak-ng from the wheel ``espeakng-loader``: robotic, but there wherever pip is. The library is GPL-3."""

from __future__ import annotations

import ctypes as c
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from threading import Lock
from typing import Any

import numpy as np

from engines.native_speech import CallbackGuard, NativeThread, Sink
from voice_agent.errors import ConfigError, EngineFailedError, EngineUnavailableError
from voice_agent.ports import Capabilities, SpeakRequest, SpeechChunk

logger = logging.getLogger(__name__)

# "+f3" is espeak-ng's third variant of a woman's voice; on the right what espeak-ng finds the voice by.
_VOICES = {
    "en-us": "en-us",
    "en-us+f3": "en-us+f3",
    "en-us+m3": "en-us+m3",
    "en-gb": "gmw/en",
    "en-gb+f3": "gmw/en+f3",
}
DEFAULT_VOICE = "en-us"
_SYNCHRONOUS_OUTPUT = 2
_BUFFER_MS = 100
_UTF8, _END_PAUSE = 1, 0x1000
_RATE_PARAMETER = 1
_EVENT_END, _EVENT_WORD = 0, 1
_GO_ON, _STOP = 0, 1


class _EventId(c.Union):
    """Second half of espeak_EVENT: a number for the events used here."""

    _fields_ = (("number", c.c_int), ("name", c.c_char_p), ("string", c.c_char * 8))


class _Event(c.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", c.c_int),
        ("unique_identifier", c.c_uint),
        ("text_position", c.c_int),
        ("length", c.c_int),
        ("audio_position", c.c_int),
        ("sample", c.c_int),
        ("user_data", c.c_void_p),
        ("id", _EventId),
    )


_Callback = c.CFUNCTYPE(c.c_int, c.POINTER(c.c_short), c.c_int, c.POINTER(_Event))


class EspeakEngine:
    """Speech from espeak-ng. ``voice`` is the default voice, ``words_per_minute`` the pace."""

    def __init__(self, *, voice: str = DEFAULT_VOICE, words_per_minute: int = 165) -> None:
        if not 80 <= words_per_minute <= 450:
            raise ConfigError(f"The espeak engine's option words_per_minute must be 80 to 450, got {words_per_minute}.")
        self._library = _Library.shared()
        self._words_per_minute = words_per_minute
        self._voice = _known_voice(voice, DEFAULT_VOICE)
        self._capabilities = Capabilities(name="espeak", version=self._library.version)

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return self._capabilities

    @property
    def voices(self) -> tuple[str, ...]:
        """English voices; +f and +m are variants of a woman's and a man's."""
        return tuple(_VOICES)

    async def speak(self, request: SpeakRequest) -> AsyncIterator[SpeechChunk]:
        """Stream the clause. Closing the iterator stops the synthesis within 100 ms of audio.

        Raises:
            EngineFailedError: espeak-ng failed on this text.
        """
        text = " ".join(request.text.replace("\0", "").split())
        if not any(character.isalnum() for character in text):
            yield SpeechChunk(audio=b"", last=True)
            return
        voice = _known_voice(request.voice or self._voice, self._voice)

        def render(segment: str, sink: Sink) -> tuple[int, ...]:
            return self._library.synthesise(segment, voice, self._words_per_minute, sink)

        async with aclosing(self._library.thread.speak(text, render)) as stream:
            async for chunk in stream:
                yield chunk


def _known_voice(voice: str, default: str) -> str:
    if voice in _VOICES:
        return voice
    logger.warning("voice is not known", extra={"engine": "espeak", "voice": voice, "used": default})
    return default


class _Library:
    """The C library: one per process, because espeak-ng keeps its state in globals."""

    _one: _Library | None = None
    _making = Lock()

    @classmethod
    def shared(cls) -> _Library:
        """The library of this process, loaded at first use.

        Raises:
            EngineUnavailableError: the wheel is missing or does not load.
        """
        with cls._making:
            if cls._one is None:
                cls._one = cls()
            return cls._one

    def __init__(self) -> None:
        try:
            import espeakng_loader

            self._espeak = c.CDLL(espeakng_loader.get_library_path())
            data = espeakng_loader.get_data_path()
        except (ImportError, OSError) as error:
            raise EngineUnavailableError(
                f"espeak-ng does not load: {error}; run `pip install espeakng-loader`."
            ) from error
        self._declare()
        self.rate_hz = self._espeak.espeak_Initialize(_SYNCHRONOUS_OUTPUT, _BUFFER_MS, data.encode(), 0)
        if self.rate_hz <= 0:
            raise EngineUnavailableError(f"espeak-ng cannot use its data at {data}.")
        self.version = self._espeak.espeak_Info(None).decode().split()[0]
        self._sink: CallbackGuard | None = None
        self._stopped = False
        self._words: list[tuple[int, int]] = []
        self._samples = 0
        self._callback = _Callback(self._on_audio)
        self._espeak.espeak_SetSynthCallback(self._callback)
        self.thread = NativeThread("espeak")

    def _declare(self) -> None:
        self._espeak.espeak_Initialize.argtypes = (c.c_int, c.c_int, c.c_char_p, c.c_int)
        self._espeak.espeak_Info.argtypes = (c.c_void_p,)
        self._espeak.espeak_Info.restype = c.c_char_p
        self._espeak.espeak_SetSynthCallback.argtypes = (_Callback,)
        self._espeak.espeak_SetSynthCallback.restype = None
        self._espeak.espeak_SetVoiceByName.argtypes = (c.c_char_p,)
        self._espeak.espeak_SetParameter.argtypes = (c.c_int, c.c_int, c.c_int)
        self._espeak.espeak_Synth.argtypes = (
            *(c.c_char_p, c.c_size_t, c.c_uint, c.c_int),
            *(c.c_uint, c.c_uint, c.c_void_p, c.c_void_p),
        )

    def synthesise(self, text: str, voice: str, words_per_minute: int, sink: Sink) -> tuple[int, ...]:
        """Synthesise into ``sink``, blocking; the end of each whitespace-separated word in ms.

        Raises:
            EngineFailedError: espeak-ng refused, or the sink failed.
        """
        guard = CallbackGuard(sink, "espeak-ng")
        self._sink, self._stopped, self._words, self._samples = guard, False, [], 0
        if self._espeak.espeak_SetVoiceByName(_VOICES[voice].encode()):
            raise EngineFailedError(f"espeak-ng has no voice {voice}.")
        self._espeak.espeak_SetParameter(_RATE_PARAMETER, words_per_minute, 0)
        data = text.encode(errors="replace")
        status = self._espeak.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8 | _END_PAUSE, None, None)
        guard.check()
        if status and not self._stopped:
            raise EngineFailedError(f"espeak-ng could not synthesise a text (status {status}).")
        return () if self._stopped else tuple(self._word_ends(text))

    def _on_audio(self, samples: Any, count: int, events: Any) -> int:
        position = 0
        while events[position].type != _EVENT_END:
            if events[position].type == _EVENT_WORD:
                self._words.append((events[position].text_position - 1, events[position].audio_position))
            position += 1
        if not samples or count <= 0 or self._sink is None or self._stopped:
            return _STOP if self._stopped else _GO_ON
        self._samples += count
        # The samples are espeak-ng's buffer: the sink gets a copy.
        audio = np.ctypeslib.as_array(samples, (count,)).copy()
        self._stopped = not self._sink(audio, self.rate_hz)
        return _STOP if self._stopped else _GO_ON

    def _word_ends(self, text: str) -> Iterator[int]:
        """A word ends where the next one starts: espeak-ng tells starts, by position in the text."""
        total_ms = self._samples * 1000 // self.rate_hz
        at = 0
        for word in text.split():
            at = text.index(word, at) + len(word)
            yield next((start_ms for position, start_ms in self._words if position >= at), total_ms)
