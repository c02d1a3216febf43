"""Whisper by faster-whisper, on short windows and in batches: features in, text with confidence out.

faster-whisper's own ``transcribe`` encodes 30 s whatever the length of the audio, and one file at a time. Here the
encoder gets a window just longer than the audio, and the windows of several calls go through the model together.
"""

from __future__ import annotations

import ctypes
import logging
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.optional import need
from voice_agent.errors import ConfigError, EngineUnavailableError
from voice_agent.ports import Word

logger = logging.getLogger(__name__)

MODEL_HZ = 16000
SAMPLES_PER_MS = MODEL_HZ // 1000
# Silence after the audio, so that the last word does not end at the window's edge.
_TAIL_SAMPLES = 200 * SAMPLES_PER_MS
# Thresholds of Whisper's authors (openai/whisper, transcribe.py): below this log probability a window that looks like
# no speech has none; text that compresses better than this is a loop.
_NO_SPEECH_LOGPROB = -1.0
_LOOP_COMPRESSION = 2.4
# A window may grow by this many tokens a second: two to three times what fast speech needs, and an end to a loop that
# would hold up every call of the batch.
_TOKENS_PER_S, _TOKENS_MORE = 12, 16
_LONGEST_PROMPT_TOKENS = 223
_CUBLAS = ("libcublasLt.so.12", "libcublas.so.12")
_OPENING, _CLOSING = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"


@dataclass(frozen=True, slots=True)
class WhisperOptions:
    """What a decoder is made with; see ``engines.stt_faster_whisper`` for the meaning of each."""

    model: str
    device: str
    compute_type: str
    language: str
    beam_size: int
    prompt: str
    window_step_s: float
    word_times: bool
    no_speech_threshold: float
    cpu_threads: int
    download_dir: str
    local_files_only: bool


@dataclass(frozen=True, slots=True)
class Window:
    """Audio ready for the model: log-mel features float32, shape (mels, frames of 10 ms), and its length without
    the padding in samples at 16 kHz.
    """

    features: NDArray[np.float32]
    samples: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text of a window; word times in ms from its start, none unless asked for. Empty when there is no speech."""

    text: str = ""
    confidence: float = 0.0
    words: tuple[Word, ...] = ()


class WhisperDecoder:
    """One model. ``window`` may be called from any thread, ``decode`` from one.

    Raises:
        ConfigError: an option is out of range.
        EngineUnavailableError: the library, the model or the device is not there.
    """

    def __init__(self, options: WhisperOptions) -> None:
        library = need("faster_whisper", "faster-whisper", "gpu-stt")
        if options.device != "cpu":
            load_cublas()
        self._options = options
        self._model = _load(library, options)
        self._tokenizer_of = need("faster_whisper.tokenizer", "faster-whisper", "gpu-stt").Tokenizer
        self._merge = need("faster_whisper.transcribe", "faster-whisper", "gpu-stt").merge_punctuations
        languages = self._model.supported_languages
        if options.language not in ("", *languages):
            raise ConfigError(
                f"The faster-whisper engine's option language must be one of {', '.join(languages)}, or empty where"
                f" the model is to find out; got {options.language!r}."
            )
        extractor = self._model.feature_extractor
        self.max_samples: int = extractor.n_samples
        """Longest window of the model, in samples at 16 kHz."""
        # The encoder halves the frames, so a window has an even number of them.
        step = max(1, round(options.window_step_s * 50)) * 2 * extractor.hop_length
        self._step_samples = min(step, self.max_samples)
        self._prompts: dict[str, list[int]] = {}

    def window(self, audio: NDArray[np.int16]) -> Window:
        """Features of int16 mono 16 kHz audio, at most ``max_samples`` long, padded to a multiple of the step.

        Steps, and not the exact length, so that windows of different calls fit into one batch, and so that a
        caller's text does not depend on who else is in it.
        """
        steps = math.ceil((len(audio) + _TAIL_SAMPLES) / self._step_samples)
        padded = np.zeros(min(steps * self._step_samples, self.max_samples), dtype=np.float32)
        padded[: len(audio)] = audio[: len(padded)].astype(np.float32) / 32768.0
        features = self._model.feature_extractor(padded, padding=0)
        return Window(np.ascontiguousarray(features, dtype=np.float32), len(audio))

    def decode(self, windows: Sequence[Window]) -> list[Decoded]:
        """Texts of windows of one size, blocking.

        Raises:
            RuntimeError: the model failed, for instance for lack of GPU memory.
        """
        encoded = self._model.encode(np.stack([window.features for window in windows]))
        prompts = self._prompts_for(encoded, len(windows))
        # By the size of the window, which all of them share: company does not change a text.
        window_s = windows[0].features.shape[1] * self._model.feature_extractor.time_per_frame
        budget = math.ceil(window_s * _TOKENS_PER_S) + _TOKENS_MORE
        results = self._model.model.generate(
            encoded,
            prompts,
            beam_size=self._options.beam_size,
            # CTranslate2 gives half of this, or what the prompt leaves of it, to the text.
            max_length=min(self._model.max_length, max(2 * budget, len(prompts[0]) + budget)),
            return_scores=True,
            return_no_speech_prob=True,
        )
        decoded = [self._decoded(result) for result in results]
        if self._options.word_times and any(item.text for item in decoded):
            decoded = self._with_words(encoded, windows, results, decoded)
        return decoded

    def _decoded(self, result: Any) -> Decoded:
        tokens = result.sequences_ids[0]
        # The score is the mean over the tokens; the end token was scored too but is not among them.
        logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
        text = self._tokenizer(self._options.language or "en").decode(tokens).strip()
        silent = result.no_speech_prob > self._options.no_speech_threshold and logprob < _NO_SPEECH_LOGPROB
        if silent or not text:
            return Decoded()
        return Decoded(text, 0.0 if _loops(text) else min(1.0, math.exp(logprob)))

    def _with_words(
        self, encoded: Any, windows: Sequence[Window], results: Sequence[Any], decoded: Sequence[Decoded]
    ) -> list[Decoded]:
        """Word times and probabilities by the model's cross-attention, one more pass over the tokens."""
        tokenizer = self._tokenizer(self._options.language)
        tokens = [[token for token in result.sequences_ids[0] if token < tokenizer.eot] for result in results]
        hop = self._model.feature_extractor.hop_length
        frames = [min(window.features.shape[1], math.ceil(window.samples / hop)) for window in windows]
        timed = self._model.find_alignment(tokenizer, tokens, encoded, frames)
        for words in timed:
            self._merge(words, _OPENING, _CLOSING)
        return [
            Decoded(item.text, item.confidence, tuple(_words(words, window))) if item.text else item
            for item, words, window in zip(decoded, timed, windows, strict=True)
        ]

    def _prompts_for(self, encoded: Any, count: int) -> list[list[int]]:
        if self._options.language or not self._model.model.is_multilingual:
            return [self._prompt(self._options.language or "en")] * count
        found = self._model.model.detect_language(encoded)
        if not all(found):
            raise RuntimeError("its config.json has no lang_ids, without which it cannot find out the language")
        return [self._prompt(likely[0][0].strip("<|>")) for likely in found]

    def _prompt(self, language: str) -> list[int]:
        """Start of the token sequence; as long in every language, as a batch needs it."""
        if language not in self._prompts:
            tokenizer = self._tokenizer(language)
            before = tokenizer.encode(f" {self._options.prompt.strip()}")[-_LONGEST_PROMPT_TOKENS:]
            self._prompts[language] = [
                *([tokenizer.sot_prev, *before] if self._options.prompt.strip() else ()),
                *tokenizer.sot_sequence,
                tokenizer.no_timestamps,
            ]
        return self._prompts[language]

    def _tokenizer(self, language: str) -> Any:
        return self._tokenizer_of(
            self._model.hf_tokenizer, self._model.model.is_multilingual, task="transcribe", language=language
        )


def load_cublas() -> bool:
    """Load cuBLAS 12 out of the package ``nvidia-cublas-cu12``, if it is installed; whether it was.

    CTranslate2 opens ``libcublas.so.12`` by name, which the loader does not find inside a package, but it takes what is
    loaded already.
    """
    try:
        spec = find_spec("nvidia.cublas")
    except ModuleNotFoundError:
        return False
    for place in spec.submodule_search_locations or () if spec is not None else ():
        paths = [Path(place) / "lib" / name for name in _CUBLAS]
        if all(path.is_file() for path in paths):
            try:
                for path in paths:
                    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                logger.warning("cublas does not load", extra={"reason": str(error)})
                return False
            return True
    return False


def _load(library: Any, options: WhisperOptions) -> Any:
    try:
        return library.WhisperModel(
            options.model,
            device=options.device,
            compute_type=options.compute_type,
            cpu_threads=options.cpu_threads,
            download_root=options.download_dir or None,
            local_files_only=options.local_files_only,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise EngineUnavailableError(
            f"faster-whisper cannot load {options.model!r} on {options.device} ({options.compute_type}): {error}"
        ) from error


def _loops(text: str) -> bool:
    data = text.encode()
    return len(data) / len(zlib.compress(data)) > _LOOP_COMPRESSION


def _words(alignment: Sequence[dict[str, Any]], window: Window) -> list[Word]:
    """Words in order and inside the audio; attention may wander a little, time does not go back."""
    length_ms = window.samples // SAMPLES_PER_MS
    words: list[Word] = []
    for item in alignment:
        if not item["word"].strip():
            continue
        start_ms = min(max(round(item["start"] * 1000), words[-1].end_ms if words else 0), length_ms)
        end_ms = min(max(round(item["end"] * 1000), start_ms), length_ms)
        words.append(Word(item["word"].strip(), start_ms, end_ms, min(1.0, max(0.0, float(item["probability"])))))
    return words
