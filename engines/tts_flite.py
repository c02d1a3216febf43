"""flite through its C library: five English voices, streamed, stopped at any moment, with the end of every word.

The library comes from the system (``apt-get install libflite1``), or from a folder of its own, where the package's
``*.so`` files lie side by side: ``<environment prefix>/lib/flite``, or what VOICE_AGENT_FLITE_DIR or the option
``library_dir`` names.
"""

from __future__ import annotations

import ctypes as c
import logging
import os
import re
import sys
import unicodedata
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np

from engines.native_speech import CallbackGuard, NativeThread, Sink
from voice_agent.errors import ConfigError, EngineFailedError, EngineUnavailableError
from voice_agent.ports import Capabilities, SpeakRequest, SpeechChunk

logger = logging.getLogger(__name__)

VOICES = ("slt", "rms", "awb", "kal16", "kal")
DEFAULT_VOICE = "slt"
LIBRARY_DIR_VARIABLE = "VOICE_AGENT_FLITE_DIR"
_VERSION = "2.2"
_LIBRARY = "libflite.so.1"
_NEEDED_FIRST = ("libasound.so.2", _LIBRARY, "libflite_cmulex.so.1", "libflite_usenglish.so.1")
_STOP, _GO_ON = -1, 0
_CALLBACK_SAMPLES = 1600
_WORD_END = b"daughtern.R:SylStructure.daughtern.daughtern.R:Segment.end"
# flite reads ASCII. What has no ASCII form and no entry here is left out.
_SPELLED = str.maketrans(
    {
        **{"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "."},
        **{
            "&": " and ",
            "%": " percent ",
            "+": " plus ",
            "@": " at ",
            "°": " degrees ",
            "€": " euros ",
            "£": " pounds ",
        },
        **{"°": " degrees ", "ß": "ss", "ø": "o", "æ": "ae", "œ": "oe", "ł": "l"},
    }
)
_SAYABLE = re.compile(r"[A-Za-z0-9]")


class _Wave(c.Structure):
    """cst_wave: 16-bit PCM."""

    _fields_ = (
        ("type", c.c_char_p),
        ("sample_rate", c.c_int),
        ("num_samples", c.c_int),
        ("num_channels", c.c_int),
        ("samples", c.POINTER(c.c_short)),
    )


_Callback = c.CFUNCTYPE(c.c_int, c.POINTER(_Wave), c.c_int, c.c_int, c.c_int, c.c_void_p)


class _StreamingInfo(c.Structure):
    """cst_audio_streaming_info: whom to call with audio."""

    _fields_ = (
        ("min_buffsize", c.c_int),
        ("asc", _Callback),
        ("utt", c.c_void_p),
        ("item", c.c_void_p),
        ("userdata", c.c_void_p),
    )


def find_library(library_dir: str = "") -> str | None:
    """Where flite is: the path of its library, its bare name when the system's loader knows it, or None.

    Looked for in ``library_dir``, $VOICE_AGENT_FLITE_DIR, ``<environment prefix>/lib/flite``, then the loader's path.
    """
    folders = (library_dir, os.environ.get(LIBRARY_DIR_VARIABLE, ""), str(Path(sys.prefix) / "lib" / "flite"))
    for folder in folders:
        path = Path(folder) / _LIBRARY
        if folder and path.is_file():
            return str(path)
    try:
        c.CDLL(_LIBRARY)
    except OSError:
        return None
    return _LIBRARY


class FliteEngine:
    """Speech from flite. ``voice`` is the default voice, ``stretch`` > 1 speaks slower."""

    def __init__(self, *, voice: str = DEFAULT_VOICE, stretch: float = 1.0, library_dir: str = "") -> None:
        if not 0.5 <= stretch <= 2.0:
            raise ConfigError(f"The flite engine's option stretch must be 0.5 to 2, got {stretch}.")
        self._library = _Library(library_dir, stretch)
        self._voice = _known_voice(voice, DEFAULT_VOICE)
        self._library.voice(self._voice)
        self._thread = NativeThread("flite")
        self._capabilities = Capabilities(name="flite", version=_VERSION)

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return self._capabilities

    @property
    def voices(self) -> tuple[str, ...]:
        """English voices: slt (woman), rms, awb (Scottish), kal16 and kal (robotic)."""
        return VOICES

    async def speak(self, request: SpeakRequest) -> AsyncIterator[SpeechChunk]:
        """Stream the clause. Closing the iterator stops the synthesis within 100 ms of audio.

        Raises:
            EngineFailedError: flite failed on this text.
        """
        voice = _known_voice(request.voice or self._voice, self._voice)
        words = [spoken(word) for word in request.text.split()]
        text = " ".join(word for word in words if word)
        if not text:
            yield SpeechChunk(audio=b"", last=True)
            return

        def render(segment: str, sink: Sink) -> tuple[int, ...]:
            return self._library.synthesise(segment, voice, sink)

        async with aclosing(self._thread.speak(text, render)) as stream:
            async for chunk in stream:
                yield _with_ends_of(chunk, words) if chunk.last else chunk


def spoken(word: str) -> str:
    """A word as flite can read it: ASCII, symbols spelled out; empty when nothing of it can be said."""
    plain = unicodedata.normalize("NFKD", word.translate(_SPELLED)).encode("ascii", "ignore").decode()
    return " ".join(plain.split()) if _SAYABLE.search(plain) else ""


def _with_ends_of(chunk: SpeechChunk, words: list[str]) -> SpeechChunk:
    """Word ends as of the words asked for; none when flite has counted them in another way."""
    tokens = [len(word.split()) for word in words]
    if len(chunk.word_ends_ms) != sum(tokens):
        return SpeechChunk(audio=chunk.audio, last=True)
    ends: list[int] = []
    taken = 0
    for count in tokens:
        taken += count
        end = chunk.word_ends_ms[taken - 1] if taken else 0
        ends.append(max(end, ends[-1] if ends else 0))
    return SpeechChunk(audio=chunk.audio, last=True, word_ends_ms=tuple(ends))


def _known_voice(voice: str, default: str) -> str:
    name = voice.removeprefix("cmu_us_")
    if name in VOICES:
        return name
    logger.warning("voice is not known", extra={"engine": "flite", "voice": voice, "used": default})
    return default


class _Library:
    """The C library. Not thread-safe after construction: one thread calls ``synthesise``."""

    def __init__(self, library_dir: str, stretch: float) -> None:
        found = find_library(library_dir)
        if found is None:
            raise EngineUnavailableError(
                "flite's library is not there: run `apt-get install libflite1`, or put its *.so files into a folder"
                f" and name it in {LIBRARY_DIR_VARIABLE}."
            )
        self._folder = Path(found).parent if os.sep in found else None
        self._stretch = stretch
        self._voices: dict[str, int] = {}
        # A private folder is not on the loader's path: what the voices link to is loaded first, by name.
        for name in _NEEDED_FIRST:
            if self._folder is not None and (self._folder / name).is_file():
                c.CDLL(str(self._folder / name), mode=c.RTLD_GLOBAL)
        try:
            self._flite = c.CDLL(found, mode=c.RTLD_GLOBAL)
            self._declare()
        except (OSError, AttributeError) as error:
            raise EngineUnavailableError(f"flite's library {found} does not load: {error}.") from error
        self._flite.flite_init()

    def _declare(self) -> None:
        pointer, integer, text = c.c_void_p, c.c_int, c.c_char_p
        for name, result, arguments in (
            ("flite_init", integer, ()),
            ("new_utterance", pointer, ()),
            ("delete_utterance", None, (pointer,)),
            ("utt_set_input_text", integer, (pointer, text)),
            ("flite_do_synth", pointer, (pointer, pointer, pointer)),
            ("new_audio_streaming_info", c.POINTER(_StreamingInfo), ()),
            ("audio_streaming_info_val", pointer, (pointer,)),
            ("flite_feat_set", None, (pointer, text, pointer)),
            ("flite_feat_set_float", None, (pointer, text, c.c_float)),
            ("utt_relation_present", integer, (pointer, text)),
            ("utt_relation", pointer, (pointer, text)),
            ("relation_head", pointer, (pointer,)),
            ("item_next", pointer, (pointer,)),
            ("flite_ffeature_float", c.c_float, (pointer, text)),
        ):
            function = getattr(self._flite, name)
            function.restype = result
            function.argtypes = arguments
        self._synth = c.cast(self._flite.utt_synth, c.c_void_p)

    def voice(self, name: str) -> int:
        """Pointer to a voice, loaded at first use.

        Raises:
            EngineUnavailableError: the voice's library is missing.
        """
        if name not in self._voices:
            file = f"libflite_cmu_us_{name}.so.1"
            try:
                library = c.CDLL(str(self._folder / file) if self._folder else file)
            except OSError as error:
                raise EngineUnavailableError(f"flite's voice {name} does not load: {error}.") from error
            register = getattr(library, f"register_cmu_us_{name}")
            register.restype, register.argtypes = c.c_void_p, (c.c_void_p,)
            self._voices[name] = register(None)
            features = c.cast(self._voices[name], c.POINTER(c.c_void_p))[1]
            self._flite.flite_feat_set_float(features, b"duration_stretch", self._stretch)
        return self._voices[name]

    def synthesise(self, text: str, voice: str, sink: Sink) -> tuple[int, ...]:
        """Synthesise into ``sink``, blocking; the end of each token in ms.

        Raises:
            EngineFailedError: flite gave nothing, or the sink failed.
        """
        guard = CallbackGuard(sink, "flite")
        going = True

        def on_audio(wave: Any, start: int, size: int, _last: int, _info: int | None) -> int:
            nonlocal going
            # The samples are flite's, and freed by it: the sink gets a copy.
            samples = np.ctypeslib.as_array(wave.contents.samples, (start + size,))[start:].copy()
            going = going and guard(samples, wave.contents.sample_rate)
            return _GO_ON if going else _STOP

        callback = _Callback(on_audio)
        utterance = self._utterance(text, callback)
        done = self._flite.flite_do_synth(utterance, self.voice(voice), self._synth)
        guard.check()
        if not done:  # flite has deleted the utterance
            if going:
                raise EngineFailedError("flite could not synthesise a text.")
            return ()
        try:
            return self._word_ends(done) if going else ()
        finally:
            self._flite.delete_utterance(done)

    def _utterance(self, text: str, callback: Any) -> Any:
        """A new utterance with its own streaming info, which is freed with it; the voices stay untouched."""
        info = self._flite.new_audio_streaming_info()
        info.contents.min_buffsize = _CALLBACK_SAMPLES
        info.contents.asc = callback
        utterance = self._flite.new_utterance()
        self._flite.utt_set_input_text(utterance, text.encode("ascii"))
        features = c.cast(utterance, c.POINTER(c.c_void_p))[0]
        value = self._flite.audio_streaming_info_val(c.cast(info, c.c_void_p))
        self._flite.flite_feat_set(features, b"streaming_info", value)
        return utterance

    def _word_ends(self, utterance: int) -> tuple[int, ...]:
        if not self._flite.utt_relation_present(utterance, b"Token"):
            return ()
        ends = []
        token = self._flite.relation_head(self._flite.utt_relation(utterance, b"Token"))
        while token:
            ends.append(round(self._flite.flite_ffeature_float(token, _WORD_END) * 1000))
            token = self._flite.item_next(token)
        return tuple(ends)
