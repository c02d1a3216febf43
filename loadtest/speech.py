"""The caller's voice: synthesised by flite, another voice than the agent's, and made to sound like a telephone.

Where flite is not installed, clips rendered from it are used that ship with the package; a line that has no clip is
spoken by espeak-ng, which recognisers understand much worse. ``CallerSpeech.description`` says which it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import struct
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines import registry
from loadtest import sounds
from voice_agent.audio.g711 import SILENCE, mulaw_decode, mulaw_encode
from voice_agent.audio.levels import loud_frames, rms_dbfs
from voice_agent.errors import ConfigError, EngineUnavailableError
from voice_agent.ports import SpeakRequest, TextToSpeechEngine

logger = logging.getLogger(__name__)

CLIPS = Path(__file__).parent / "clips"
_RATE_HZ = 8000
_FRAME = 160
_NOISE_S = 4
_MULAW_FORMAT = 7


class CallerSpeech:
    """Where a caller's lines come from. ``description`` is for the user; ``used`` collects it line by line."""

    def __init__(self, flite: TextToSpeechEngine | None, clips: Path = CLIPS) -> None:
        self._flite = flite
        self._clips = clips
        self._espeak: TextToSpeechEngine | None = None
        self._spoken: dict[tuple[str, str], bytes] = {}
        self.used: dict[str, int] = {}

    @classmethod
    def open(cls, clips: Path = CLIPS) -> CallerSpeech:
        """The best there is on this machine. Blocking: loads a library."""
        try:
            return cls(registry.load("tts", "flite", {}), clips)
        except EngineUnavailableError:
            logger.info("caller speech comes from shipped clips")
            return cls(None, clips)

    @property
    def description(self) -> str:
        """What spoke the lines so far, e.g. ``flite (5 lines)``."""
        return ", ".join(f"{name} ({count} lines)" for name, count in self.used.items())

    async def lines(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
        """Mu-law 8 kHz of each (text, voice), whole frames, band-limited. Every line is synthesised once.

        Raises:
            ConfigError: flite does not have the voice.
            EngineUnavailableError: there is no flite, no clip and no espeak-ng.
        """
        found = {}
        for key in wanted:
            if key not in self._spoken:
                self._spoken[key] = await self._line(*key)
            found[key] = self._spoken[key]
        return found

    async def _line(self, text: str, voice: str) -> bytes:
        """A line with its pauses and noises; plain words are one piece."""
        if not sounds.has_marks(text):
            return await self._speak(text, voice)
        audio = b""
        for piece in sounds.pieces(text):
            if piece.words:
                audio += sounds.trimmed(await self._speak(piece.words, voice))
            else:
                audio += sounds.noise_of(piece.noise) if piece.noise else sounds.silence(piece.pause_ms)
        return audio

    async def _speak(self, text: str, voice: str) -> bytes:
        clip = self._clips / clip_name(text, voice)
        if self._flite is not None:
            if voice not in self._flite.voices:
                raise ConfigError(f"caller voice {voice!r} is not there; allowed: {', '.join(self._flite.voices)}")
            self._count("flite")
            return telephone(await _synthesise(self._flite, text, voice))
        if clip.exists():
            self._count("shipped clips of flite")
            return read_mulaw_wav(clip)
        if self._espeak is None:
            self._espeak = await asyncio.to_thread(_load_espeak)
        self._count("espeak-ng, which is harder to understand; install flite")
        return telephone(await _synthesise(self._espeak, text, ""))

    def _count(self, name: str) -> None:
        self.used[name] = self.used.get(name, 0) + 1


def _load_espeak() -> TextToSpeechEngine:
    engine: TextToSpeechEngine = registry.load("tts", "espeak", {})
    return engine


async def _synthesise(engine: TextToSpeechEngine, text: str, voice: str) -> NDArray[np.int16]:
    request = SpeakRequest(call_id="caller", turn=0, clause=0, text=text, voice=voice)
    return mulaw_decode(b"".join([chunk.audio async for chunk in engine.speak(request)]))


@lru_cache(maxsize=1)
def _phone_band() -> NDArray[np.float64]:
    """Band-pass 300-3400 Hz at 8 kHz, linear phase, 161 taps."""
    position = np.arange(-80, 81)
    low, high = 2 * 300 / _RATE_HZ, 2 * 3400 / _RATE_HZ
    taps: NDArray[np.float64] = (high * np.sinc(position * high) - low * np.sinc(position * low)) * np.blackman(161)
    return taps


def telephone(audio: NDArray[np.int16]) -> bytes:
    """What a handset makes of speech: 300-3400 Hz, about -20 dBFS while speaking, mu-law, whole 20 ms frames."""
    if not len(audio):
        return b""
    band = np.convolve(audio.astype(np.float64), _phone_band(), mode="same")
    limited = np.clip(band, -32768, 32767).astype(np.int16)
    loud = loud_frames(limited, _FRAME, rms_dbfs(limited) - 15.0)
    speech = limited[: len(loud) * _FRAME].reshape(-1, _FRAME)[loud].reshape(-1)
    gain = 10.0 ** ((sounds.SPEECH_DBFS - rms_dbfs(speech)) / 20.0) if len(speech) else 1.0
    return _whole_frames(mulaw_encode(np.clip(band * gain, -32768, 32767).astype(np.int16)))


@lru_cache(maxsize=128)
def background(level_dbfs: float | None, seed: int, kind: str = "white") -> bytes:
    """Four seconds of line noise in mu-law, to be repeated: of a kind, in the phone band; digital silence for None."""
    if level_dbfs is None:
        return SILENCE * _FRAME
    if kind == "babble":
        voices = sounds.babble(level_dbfs, seed, _NOISE_S)
        return mulaw_encode(np.clip(np.rint(voices), -32768, 32767).astype(np.int16))
    white = np.random.default_rng(seed).standard_normal(_NOISE_S * _RATE_HZ)
    # Circular, so that the end fits the beginning.
    spectrum = np.fft.rfft(white) * np.fft.rfft(_phone_band(), len(white))
    shaped = np.fft.irfft(spectrum, len(white))
    shaped *= 32768.0 * 10.0 ** (level_dbfs / 20.0) / np.sqrt(np.mean(np.square(shaped)))
    return mulaw_encode(np.clip(np.rint(shaped), -32768, 32767).astype(np.int16))


def with_noise(speech: bytes, noise: bytes) -> bytes:
    """Speech on top of line noise; same length as ``speech``, whole frames."""
    speech = _whole_frames(speech)
    if set(noise) == set(SILENCE) or not speech:
        return speech
    under = np.resize(mulaw_decode(noise), len(speech)).astype(np.int32)
    return mulaw_encode(np.clip(mulaw_decode(speech) + under, -32768, 32767).astype(np.int16))


def _whole_frames(audio: bytes) -> bytes:
    return audio + SILENCE * (-len(audio) % _FRAME)


# --- clips ----------------------------------------------------------------------------------------------------


def clip_name(text: str, voice: str) -> str:
    """File name of the shipped clip of a line."""
    return f"{voice}-{hashlib.sha256(f'{voice}|{text}'.encode()).hexdigest()[:12]}.wav"


def write_mulaw_wav(path: Path, audio: bytes) -> None:
    """Mu-law mono 8 kHz WAV (format tag 7)."""
    chunk = struct.pack("<4sIHHIIHHH", b"fmt ", 18, _MULAW_FORMAT, 1, _RATE_HZ, _RATE_HZ, 1, 8, 0)
    fact = struct.pack("<4sII", b"fact", 4, len(audio))
    data = struct.pack("<4sI", b"data", len(audio)) + audio + b"\0" * (len(audio) % 2)
    body = b"WAVE" + chunk + fact + data
    path.write_bytes(struct.pack("<4sI", b"RIFF", len(body)) + body)


def read_mulaw_wav(path: Path) -> bytes:
    """The samples of a mu-law mono 8 kHz WAV.

    Raises:
        ConfigError: it is not one.
    """
    content = path.read_bytes()
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ConfigError(f"{path}: is not a WAV file")
    at, form = 12, b""
    while at + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        body = content[at + 8 : at + 8 + size]
        if name == b"fmt ":
            form = body[:8]
        if name == b"data" and form == struct.pack("<HHI", _MULAW_FORMAT, 1, _RATE_HZ):
            return body
        at += 8 + size + size % 2
    raise ConfigError(f"{path}: is not mu-law mono 8 kHz")
