"""faster-whisper: Whisper on CTranslate2, with the utterances of all calls of a replica decoded in batches.

Whisper is no streaming model: a text while the caller speaks is a decoding of the utterance from its start. With the
extra ``gpu-stt``, which also brings the cuBLAS 12 that CTranslate2 needs on a GPU, beside a torch for CUDA 13 too; it
needs no cuDNN. faster-whisper, CTranslate2 and the Whisper models are MIT.
"""

from __future__ import annotations

import time
from concurrent.futures import CancelledError
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from engines.micro_batch import BatchLimits, BatchStatistics, MicroBatcher
from engines.whisper_decoder import MODEL_HZ, SAMPLES_PER_MS, Decoded, WhisperDecoder, WhisperOptions, Window
from voice_agent.audio.g711 import mulaw_decode
from voice_agent.audio.levels import frame_dbfs, loud_frames
from voice_agent.audio.resample import StreamingResampler
from voice_agent.errors import (
    CapacityError,
    ConfigError,
    DeadlineExceededError,
    EngineFailedError,
    EngineUnavailableError,
)
from voice_agent.ports import Capabilities, TranscribeResponse, Word

_PATIENCE_S = 30.0
_LEAST_SAMPLES = 200 * SAMPLES_PER_MS
_FRAME_SAMPLES = 20 * SAMPLES_PER_MS
# Quieter than any speech on a telephone line. Whisper is known to make up a sentence for silence, so it gets none.
_SILENCE_DBFS = -55.0
_LEAST_LOUD_FRAMES = 3


@dataclass(kw_only=True)
class FasterWhisperEngine:
    """Recogniser of one replica; its fields are the engine's options.

    Attributes:
        model: size ("small", "large-v3-turbo", ...), hub name or folder of a model converted for CTranslate2.
        device: "cpu", "cuda" or "auto".
        compute_type: "float16", "int8_float16", "int8", ...; "default" keeps the model's own.
        language: as "en"; empty lets the model find out anew for every window, at one more decoder step.
        beam_size: 1 is greedy, and fastest.
        prompt: text the model takes for what was said before: names and spellings of the company.
        max_batch: most windows in a batch; more threads than this wait without harm.
        max_wait_ms: how long a window waits for others.
        max_waiting: windows that may wait; one more is refused with a retryable error.
        window_step_s: the encoder gets windows of multiples of this. Whisper was trained on 30 s: small steps are
            fast, and their accuracy is to be measured with the model in use; 30 is as trained.
        push_interval_ms: how often text is wanted while the caller speaks; 0: only at pauses.
        word_times: time and probability of each word, by one more pass at a flush. Needs a fixed language.
        no_speech_threshold: probability of no speech above which an unlikely text is dropped.
        cpu_threads: on a CPU; 0 takes CTranslate2's default.
        download_dir: where models of the hub are kept; empty: the hub's own cache.
        local_files_only: never ask the hub.

    Raises:
        ConfigError: an option is out of range.
        EngineUnavailableError: the library, the model or the device is not there.
    """

    model: str = "large-v3-turbo"
    device: str = "auto"
    compute_type: str = "default"
    language: str = "en"
    beam_size: int = 1
    prompt: str = ""
    max_batch: int = 16
    max_wait_ms: float = 5.0
    max_waiting: int = 256
    window_step_s: float = 5.0
    push_interval_ms: int = 500
    word_times: bool = False
    no_speech_threshold: float = 0.6
    cpu_threads: int = 0
    download_dir: str = ""
    local_files_only: bool = False

    def __post_init__(self) -> None:
        self._check()
        self._decoder = WhisperDecoder(
            WhisperOptions(
                model=self.model,
                device=self.device,
                compute_type=self.compute_type,
                language=self.language,
                beam_size=self.beam_size,
                prompt=self.prompt,
                window_step_s=self.window_step_s,
                word_times=self.word_times,
                no_speech_threshold=self.no_speech_threshold,
                cpu_threads=self.cpu_threads,
                download_dir=self.download_dir,
                local_files_only=self.local_files_only,
            )
        )
        self._warm_up()
        self._batcher: MicroBatcher[Window, Decoded] = MicroBatcher(
            "faster-whisper",
            self._decoder.decode,
            lambda window: window.features.shape[1],
            BatchLimits(self.max_batch, self.max_wait_ms / 1000.0, self.max_waiting),
        )
        self._capabilities = Capabilities(
            name="faster-whisper",
            version=f"{version('faster-whisper')} {self.model}",
            push_interval_ms=self.push_interval_ms,
            # While one batch is in the model, the features of the next one are made.
            parallel=2 * self.max_batch,
        )

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return self._capabilities

    @property
    def statistics(self) -> BatchStatistics:
        """Batches so far."""
        return self._batcher.statistics

    @property
    def max_samples(self) -> int:
        """Longest audio the model takes at once, in samples at 16 kHz."""
        return self._decoder.max_samples

    def open(self, *, call_id: str, utterance: int) -> FasterWhisperSession:
        """Start an utterance."""
        return FasterWhisperSession(self)

    def reload(self) -> None:
        """There is no vocabulary to take: the model knows its language."""

    def recognise(self, audio: NDArray[np.int16], *, urgent: bool) -> Decoded:
        """Text of int16 mono 16 kHz audio, at most ``max_samples`` long, blocking.

        Raises:
            CapacityError: too many windows wait.
            DeadlineExceededError: the model took more than 30 s.
            EngineFailedError: the model failed.
        """
        if int(loud_frames(audio, _FRAME_SAMPLES, _SILENCE_DBFS).sum()) < _LEAST_LOUD_FRAMES:
            return Decoded()
        future = self._batcher.submit(self._decoder.window(audio), urgent=urgent)
        try:
            return future.result(timeout=_PATIENCE_S)
        except TimeoutError as error:
            future.cancel()
            raise DeadlineExceededError(f"faster-whisper gave nothing for {_PATIENCE_S:g} s.") from error
        except CancelledError as error:
            raise EngineFailedError("The recognition was cancelled.") from error

    def close(self) -> None:
        """Stop the batching thread. Idempotent."""
        self._batcher.close()

    def _check(self) -> None:
        for name, least in (("beam_size", 1), ("max_batch", 1), ("max_waiting", 1), ("max_wait_ms", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"The faster-whisper engine's option {name} must be at least {least}.")
        if not 0.5 <= self.window_step_s <= 30:
            raise ConfigError("The faster-whisper engine's option window_step_s must be 0.5 to 30.")
        if self.word_times and not self.language:
            raise ConfigError("The faster-whisper engine's option word_times needs the option language.")

    def _warm_up(self) -> None:
        """Run once, so that a missing CUDA library is told now and the first caller does not wait for its loading."""
        noise = np.random.default_rng(0).normal(0, 1000, MODEL_HZ).astype(np.int16)
        try:
            self._decoder.decode([self._decoder.window(noise)])
        except RuntimeError as error:
            raise EngineUnavailableError(
                f"faster-whisper cannot run {self.model!r} on {self.device}: {error}"
            ) from error


class FasterWhisperSession:
    """Recognition of one utterance.

    Audio beyond the model's longest window is settled piece by piece, cut where it is quietest; what is left is
    decoded from its start each time.
    """

    def __init__(self, engine: FasterWhisperEngine) -> None:
        self._engine = engine
        self._resampler = StreamingResampler(8000, MODEL_HZ)
        self._pcm = bytearray()  # int16 16 kHz, not settled
        self._settled: list[Decoded] = []
        self._settled_samples = 0
        self._open = Decoded()
        self._covered_bytes = 0  # of _pcm, by _open
        self._closed = False

    def accept(self, audio: bytes) -> None:
        """Take more mu-law 8 kHz audio.

        Raises:
            EngineFailedError: the session is closed.
        """
        if self._closed:
            raise EngineFailedError("The session is closed.")
        self._pcm += self._resampler.process(mulaw_decode(audio)).tobytes()

    def result(self, *, flush: bool) -> TranscribeResponse:
        """Text so far; blocking, as long as it takes to be part of a batch.

        Without ``flush`` the text is brought up to date once ``push_interval_ms`` of new audio are there, unless the
        engine is so busy that it would hold up those who pause.

        Raises:
            CapacityError, DeadlineExceededError, EngineFailedError: as ``FasterWhisperEngine.recognise``; the audio
                is kept, and a later call may succeed.
        """
        started = time.perf_counter()
        try:
            self._update(flush)
        except CapacityError:
            if flush:
                raise
        parts = [part for part in (*self._settled, self._open) if part.text]
        return TranscribeResponse(
            text=" ".join(part.text for part in parts),
            words=tuple(word for part in parts for word in part.words),
            confidence=_mean_confidence(parts),
            flushed=flush,
            engine_ms=(time.perf_counter() - started) * 1000.0,
        )

    def close(self) -> None:
        """Free the audio. Idempotent."""
        self._closed = True
        self._pcm.clear()
        self._covered_bytes = 0

    def _update(self, flush: bool) -> None:
        fresh_ms = (len(self._pcm) - self._covered_bytes) // (2 * SAMPLES_PER_MS)
        wanted = fresh_ms > 0 if flush else 0 < self._engine.push_interval_ms <= fresh_ms
        if not wanted:
            return
        pcm = np.frombuffer(bytes(self._pcm), dtype=np.int16)
        while len(pcm) > self._engine.max_samples:
            cut = _quiet_place(pcm, self._engine.max_samples)
            self._settle(self._engine.recognise(pcm[:cut], urgent=flush), cut)
            pcm = pcm[cut:]
        if len(pcm) >= _LEAST_SAMPLES:
            self._open = _shifted(self._engine.recognise(pcm, urgent=flush), self._settled_samples)
        self._covered_bytes = len(self._pcm)

    def _settle(self, decoded: Decoded, samples: int) -> None:
        self._settled.append(_shifted(decoded, self._settled_samples))
        self._settled_samples += samples
        del self._pcm[: 2 * samples]
        self._open, self._covered_bytes = Decoded(), 0


def _quiet_place(pcm: NDArray[np.int16], longest: int) -> int:
    """Where to cut: the middle of the quietest 200 ms in the second half of the longest window, in samples."""
    frames = 10
    levels = frame_dbfs(pcm[longest // 2 : longest], _FRAME_SAMPLES)
    smooth = np.convolve(levels, np.ones(frames) / frames, "valid")
    return longest // 2 + (int(np.argmin(smooth)) + frames // 2) * _FRAME_SAMPLES


def _shifted(decoded: Decoded, samples: int) -> Decoded:
    """The same with word times from the start of the utterance."""
    offset_ms = samples // SAMPLES_PER_MS
    words = tuple(
        Word(word.text, word.start_ms + offset_ms, word.end_ms + offset_ms, word.confidence) for word in decoded.words
    )
    return Decoded(decoded.text, decoded.confidence, words)


def _mean_confidence(parts: list[Decoded]) -> float:
    """Mean over the windows, by the length of their text."""
    length = sum(len(part.text) for part in parts)
    return sum(part.confidence * len(part.text) for part in parts) / length if length else 0.0
