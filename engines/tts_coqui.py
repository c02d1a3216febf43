"""Coqui TTS (the maintained fork ``coqui-tts``): VITS, a whole clause at once, and XTTS, streamed while it is made.

With the extra ``gpu-tts``; torchaudio and torchcodec must be of the same build as the machine's torch. Models with
phonemes (``vctk/vits``) need the program ``espeak-ng`` on the node.

Licences: the library is MPL-2.0, and every model has its own. **The XTTS weights are under the Coqui Public Model
License, which allows no commercial use**; coqui-tts asks for consent, which a server gives with COQUI_TOS_AGREED=1.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from engines.native_speech import NativeThread, Pcm, Sink, segments
from engines.optional import need
from voice_agent.errors import ConfigError, EngineFailedError, EngineUnavailableError
from voice_agent.ports import Capabilities, SpeakRequest, SpeechChunk

logger = logging.getLogger(__name__)

CONSENT_VARIABLE = "COQUI_TOS_AGREED"
CLONED = "cloned"
"""Voice made from ``speaker_wav``."""
_WARM_UP = "Hello, how can I help you?"
# What the models raise for a text they cannot say, or for lack of memory.
_FAILURES = (RuntimeError, ValueError, AssertionError, IndexError, KeyError)


@dataclass(kw_only=True)
class CoquiEngine:
    """Speech of one model on one thread; its fields are the engine's options.

    Clauses of different calls take turns, one model pass after the other: replicas are what makes calls parallel.

    Attributes:
        model: hub name ("tts_models/en/vctk/vits", "tts_models/multilingual/multi-dataset/xtts_v2"), or a checkpoint
            file, or a folder that holds one.
        config_path: its config.json; empty: the one beside the checkpoint.
        voice: speaker of a model with several, where a request names none; empty: its first.
        speaker_wav: XTTS only: recordings of a voice, 3 s and more, which becomes the voice "cloned" and the default.
        language: of a model with several; empty: English.
        device: "cpu", "cuda", "cuda:1", ...; "auto" takes a GPU when there is one.
        stream_chunk_tokens: XTTS only: tokens (47 ms each) per chunk. Fewer: sound comes sooner, and costs more.

    Raises:
        ConfigError: an option does not fit the model.
        EngineUnavailableError: the library, the model or the device is not there.
    """

    model: str = "tts_models/en/vctk/vits"
    config_path: str = ""
    voice: str = ""
    speaker_wav: str | Sequence[str] = ()
    language: str = ""
    device: str = "auto"
    stream_chunk_tokens: int = 20

    def __post_init__(self) -> None:
        if self.stream_chunk_tokens < 5:
            raise ConfigError("The coqui engine's option stream_chunk_tokens must be at least 5.")
        synthesizer = _load(self.model, self.config_path, self.device)
        wavs = [self.speaker_wav] if isinstance(self.speaker_wav, str) else list(self.speaker_wav)
        self._model: _Model
        if hasattr(synthesizer.tts_model, "inference_stream"):
            self._model = _Xtts(synthesizer, self.language or "en", wavs, self.stream_chunk_tokens)
        elif wavs:
            raise ConfigError(f"The coqui engine's option speaker_wav needs an XTTS model, and {self.model} is none.")
        else:
            self._model = _Vits(synthesizer, self.language)
        if self.voice and self.voice not in self._model.voices:
            raise ConfigError(
                f"The coqui engine's option voice must be one of {', '.join(self._model.voices) or 'none'};"
                f" got {self.voice!r}."
            )
        self._voice = self.voice or next(iter(self._model.voices), "")
        self._thread = NativeThread("coqui")
        self._capabilities = Capabilities(name="coqui", version=f"{version('coqui-tts')} {self.model}")
        self._warm_up()

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return self._capabilities

    @property
    def voices(self) -> tuple[str, ...]:
        """Speakers of the model; none when it has one voice only."""
        return self._model.voices

    async def speak(self, request: SpeakRequest) -> AsyncIterator[SpeechChunk]:
        """Stream the clause. Closing the iterator stops the synthesis: XTTS at its next chunk, VITS at its next
        sentence.

        Word ends come with VITS, where its text cleaner keeps the words as they are written.

        Raises:
            EngineFailedError: the model failed on this text.
        """
        voice = self._known(request.voice)
        words = request.text.split()
        text = sayable(request.text)
        if not text:
            yield SpeechChunk(audio=b"", last=True)
            return

        def render(segment: str, sink: Sink) -> tuple[int, ...]:
            try:
                return self._model.render(segment, voice, sink)
            except _FAILURES as error:
                raise EngineFailedError(f"{self.model} could not say a clause: {error}") from error

        async with aclosing(self._thread.speak(text, render)) as stream:
            async for chunk in stream:
                complete = len(chunk.word_ends_ms) == len(words)
                yield chunk if not chunk.last or complete else SpeechChunk(audio=chunk.audio, last=True)

    def _known(self, voice: str) -> str:
        if not voice or voice in self._model.voices:
            return voice or self._voice
        logger.warning("voice is not known", extra={"engine": "coqui", "voice": voice, "used": self._voice})
        return self._voice

    def _warm_up(self) -> None:
        """Speak once, so that what is missing is told now and the first caller does not wait for a GPU's start."""
        try:
            self._model.render(_WARM_UP, self._voice, lambda _audio, _rate_hz: True)
        except _FAILURES as error:
            raise EngineUnavailableError(f"coqui-tts cannot run {self.model!r} on {self.device}: {error}") from error


def sayable(text: str) -> str:
    """The text without what no model can say: control characters, half characters; empty when no letter is left."""
    plain = "".join(char if char.isprintable() else " " for char in text.encode(errors="replace").decode())
    return " ".join(plain.split()) if any(char.isalnum() for char in plain) else ""


class _Model(Protocol):
    """What the two kinds of models have in common."""

    voices: tuple[str, ...]

    def render(self, text: str, voice: str, sink: Sink) -> tuple[int, ...]:
        """Synthesise into the sink, blocking; the end of each word in ms, or nothing."""


class _Vits:
    """A model that gives the sound of a clause at once."""

    def __init__(self, synthesizer: Any, language: str) -> None:
        self._model = synthesizer.tts_model
        self._rate_hz = int(synthesizer.output_sample_rate)
        self.voices = _speakers(self._model)
        languages = list(getattr(self._model.language_manager, "language_names", ()) or ())
        if language and language not in languages:
            raise ConfigError(
                f"The coqui engine's option language must be one of {', '.join(languages) or 'none'}; got {language!r}."
            )
        self._language = language or ("en" if "en" in languages else next(iter(languages), None))

    def render(self, text: str, voice: str, sink: Sink) -> tuple[int, ...]:
        """One pass of the model; its durations of the letters give the ends of the words."""
        tokenizer = self._model.tokenizer
        if not tokenizer.use_phonemes and not tokenizer.text_to_ids(text, language=self._language):
            return ()  # no letter that it knows
        said = self._model.synthesize(text, speaker=voice or None, language=self._language)
        if said["wav"] is None:
            raise ValueError("it gives a spectrogram, and only models that give sound are supported")
        audio = np.atleast_1d(np.asarray(said["wav"], dtype=np.float32).squeeze())
        if not sink(_pcm(audio), self._rate_hz):
            return ()
        return self._word_ends(said, len(audio) * 1000 / self._rate_hz)

    def _word_ends(self, said: Any, length_ms: float) -> tuple[int, ...]:
        """Where the spaces between the words begin, and the end of the last word."""
        durations = said["outputs"].get("durations")
        space = self._space()
        if durations is None or space is None:
            return ()
        frames = durations.detach().cpu().numpy().reshape(-1)
        ids = said["text_inputs"].detach().cpu().numpy().reshape(-1)
        if len(frames) != len(ids) or not frames.sum():
            return ()
        ends_ms = np.cumsum(frames) / frames.sum() * length_ms
        gaps = [at for at in np.flatnonzero(ids == space) if 0 < at < len(ids) - 1]
        return (*(round(float(ends_ms[at - 1])) for at in gaps), round(length_ms))

    def _space(self) -> int | None:
        try:
            return int(self._model.tokenizer.characters.char_to_id(" "))
        except KeyError:
            return None


class _Xtts:
    """A model that gives sound while it makes more of it."""

    def __init__(self, synthesizer: Any, language: str, wavs: list[str], chunk_tokens: int) -> None:
        self._model = synthesizer.tts_model
        self._rate_hz = int(synthesizer.output_sample_rate)
        self._chunk_tokens = chunk_tokens
        config = self._model.config
        if language not in config.languages:
            raise ConfigError(
                f"The coqui engine's option language must be one of {', '.join(config.languages)}; got {language!r}."
            )
        self._language = language
        self._longest = int(self._model.tokenizer.char_limits.get(language, 250)) - 1
        names = ("temperature", "length_penalty", "repetition_penalty", "top_k", "top_p")
        self._settings = {name: config[name] for name in names}
        self._latents = self._known_latents() | ({CLONED: self._cloned(wavs)} if wavs else {})
        if not self._latents:
            raise ConfigError(
                "The XTTS model has no voices of its own (speakers_xtts.pth): name a recording in the coqui engine's"
                " option speaker_wav."
            )
        self.voices = tuple(sorted(self._latents, key=lambda name: name != CLONED))

    def render(self, text: str, voice: str, sink: Sink) -> tuple[int, ...]:
        """Sound in chunks; the model tells no word times."""
        condition, embedding = self._latents[voice]
        for piece in _cut(text, self._longest):
            stream = self._model.inference_stream(
                piece,
                self._language,
                condition,
                embedding,
                stream_chunk_size=self._chunk_tokens,
                **self._settings,
            )
            try:
                for chunk in stream:
                    if not sink(_pcm(chunk.detach().float().cpu().numpy().reshape(-1)), self._rate_hz):
                        return ()
            finally:
                stream.close()
        return ()

    def _known_latents(self) -> dict[str, tuple[Any, Any]]:
        manager = self._model.speaker_manager
        known = manager.speakers if manager is not None else {}
        return {name: (voice["gpt_cond_latent"], voice["speaker_embedding"]) for name, voice in known.items()}

    def _cloned(self, wavs: list[str]) -> tuple[Any, Any]:
        config = self._model.config
        for wav in wavs:
            if not Path(wav).is_file():
                raise ConfigError(f"The coqui engine's option speaker_wav names {wav}, which is no file.")
        try:
            condition, embedding = self._model.get_conditioning_latents(
                audio_path=wavs,
                max_ref_length=config.max_ref_len,
                gpt_cond_len=config.gpt_cond_len,
                gpt_cond_chunk_len=config.gpt_cond_chunk_len,
                sound_norm_refs=config.sound_norm_refs,
            )
        except (*_FAILURES, OSError, ImportError) as error:
            raise EngineUnavailableError(f"coqui-tts cannot take a voice from {', '.join(wavs)}: {error}") from error
        return condition, embedding


def _cut(text: str, longest: int) -> list[str]:
    """Pieces of at most ``longest`` characters: at sentences, at words, and where a script has no spaces, anywhere."""
    return [
        piece[start : start + longest] for piece in segments(text, longest) for start in range(0, len(piece), longest)
    ]


def _speakers(model: Any) -> tuple[str, ...]:
    manager = getattr(model, "speaker_manager", None)
    names = list(getattr(manager, "speaker_names", ()) or ())
    return tuple(names) if len(names) > 1 else ()


def _pcm(audio: Any) -> Pcm:
    samples: Pcm = np.rint(np.clip(audio, -1.0, 1.0) * 32767.0).astype(np.int16)
    return samples


def _load(model: str, config_path: str, device: str) -> Any:
    """Coqui's synthesizer with the model on its device."""
    path = Path(model).expanduser()
    if not path.exists() and "xtts" in model and os.environ.get(CONSENT_VARIABLE) != "1":
        raise ConfigError(
            f"{model} may not be used commercially (Coqui Public Model License); whoever agrees to that licence sets"
            f" {CONSENT_VARIABLE}=1 on the nodes that run it."
        )
    torch = need("torch", "PyTorch", "gpu-tts")
    library = need("TTS.api", "coqui-tts", "gpu-tts").TTS
    # The library's warnings quote the text that is said.
    logging.getLogger("TTS").setLevel(logging.ERROR)
    try:
        if path.exists():
            beside = (path if path.is_dir() else path.parent) / "config.json"
            loaded = library(model_path=str(path), config_path=config_path or str(beside), progress_bar=False)
        else:
            loaded = library(model, progress_bar=False)
        where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        loaded = loaded.to(where)
    except (*_FAILURES, OSError, TypeError, EOFError) as error:  # EOFError: it asks a terminal that is not there
        raise EngineUnavailableError(f"coqui-tts cannot load {model!r}: {error}") from error
    return loaded.synthesizer
