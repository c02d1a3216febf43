"""pocketsphinx: a closed-domain CPU recogniser that knows the words and phrases of the knowledge base, and no others.

Language model and dictionary are written at ingest time under ``<data_dir>/vocabulary``; the acoustic model (US
English, 16 kHz) is in pocketsphinx' wheel. The model for general English is not offered: over the telephone band it
gets every second word wrong.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

from pocketsphinx import Decoder, get_model_path

from voice_agent.audio.g711 import mulaw_decode
from voice_agent.audio.resample import StreamingResampler
from voice_agent.errors import EngineFailedError, EngineUnavailableError
from voice_agent.ports import Capabilities, TranscribeResponse, Word

logger = logging.getLogger(__name__)

_MODEL_HZ = 16000
_SAMPLES_PER_MS = _MODEL_HZ // 1000
_FRAME_MS = 10
_PIECE_SAMPLES = 100 * _SAMPLES_PER_MS
_PUSH_INTERVAL_MS = 200
# Cepstral mean of telephone speech (300-3400 Hz, mu-law), averaged over three voices. From pocketsphinx' own start
# value, which is that of a wide-band microphone, seven of ten words of the first utterance are wrong.
_TELEPHONE_MEAN = "39,22,-40,41,-33,-6,-3,-34,1,-28,-1,-11.5,-10.3"
# A first coefficient this far off (it follows the level, about 1 per dB) is a line much louder or fainter than that.
_OTHER_LINE = 4.0
# How many frames of speech a mean that was set weighs as much as in pocketsphinx' running average.
_MEAN_FRAMES = 500
_LINES_KEPT = 256


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """What an ingest wrote: a language model and a dictionary."""

    name: str
    language_model: Path
    dictionary: Path


class PocketsphinxEngine:
    """Recogniser with a pool of decoders: one costs 12 ms and 7 MB, so they are used again.

    ``vocabulary_dir`` is the folder the ingest writes to. ``padding_ms`` of silence are added at a flush, so that the
    last word is not cut. A caller who goes on after a flush within ``replay_ms`` of the utterance's start is recognised
    again from there, so that the words before and after the pause are seen together. What is known of a call's line
    (its cepstral mean) is kept from one utterance to the next; the first one of a call is decoded a second time when
    the line is much louder or fainter than usual.
    """

    def __init__(
        self,
        *,
        vocabulary_dir: str | Path,
        padding_ms: int = 100,
        replay_ms: int = 3000,
        pool_size: int = 16,
    ) -> None:
        self._folder = Path(vocabulary_dir)
        self._vocabulary = _current(self._folder)
        self._lock = Lock()
        self._idle: list[Any] = []
        self._pool_size = pool_size
        self._lines: OrderedDict[str, str] = OrderedDict()
        self.padding_samples = padding_ms * _SAMPLES_PER_MS
        self.replay_samples = replay_ms * _SAMPLES_PER_MS
        self._capabilities = Capabilities(
            name="pocketsphinx",
            version=version("pocketsphinx"),
            closed_domain=True,
            push_interval_ms=_PUSH_INTERVAL_MS,
        )
        # The first decoder maps the acoustic model into memory: better now than in the first call.
        self._idle.append(_decoder(self._vocabulary))

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return self._capabilities

    @property
    def vocabulary(self) -> str:
        """Version of the knowledge base the vocabulary was made from."""
        return self._vocabulary.name

    def open(self, *, call_id: str, utterance: int) -> PocketsphinxSession:
        """Start an utterance."""
        with self._lock:
            vocabulary = self._vocabulary
            decoder = self._idle.pop() if self._idle else None
            mean = self._lines.get(call_id, "")
        decoder = decoder or _decoder(vocabulary)
        decoder.set_cmn(mean or _TELEPHONE_MEAN)
        return PocketsphinxSession(self, vocabulary, decoder, call_id, line_known=bool(mean))

    def reload(self) -> None:
        """Take the vocabulary of the last ingest; sessions already open keep the old one.

        Raises:
            EngineUnavailableError: there is none, or it does not load; the old one stays.
        """
        fresh = _current(self._folder)
        decoder = _decoder(fresh)
        with self._lock:
            self._vocabulary = fresh
            self._idle = [decoder]
        logger.info("vocabulary loaded", extra={"kb_version": fresh.name})

    def know_line(self, call_id: str, mean: str) -> None:
        """Keep the cepstral mean of a call's line for its next utterance."""
        with self._lock:
            self._lines[call_id] = mean
            self._lines.move_to_end(call_id)
            if len(self._lines) > _LINES_KEPT:
                self._lines.popitem(last=False)

    def give_back(self, vocabulary: _Vocabulary, decoder: Any) -> None:
        """Keep a decoder for the next utterance, unless its vocabulary is no longer the current one."""
        with self._lock:
            if vocabulary == self._vocabulary and len(self._idle) < self._pool_size:
                self._idle.append(decoder)


class PocketsphinxSession:
    """Recognition of one utterance.

    A flush ends pocketsphinx' own utterance, because only then it computes posteriors. Audio after it goes
    either into a decoding from the start again (a replay), or into a new segment whose words follow those known.
    """

    def __init__(
        self, engine: PocketsphinxEngine, vocabulary: _Vocabulary, decoder: Any, call_id: str, *, line_known: bool
    ) -> None:
        self._engine = engine
        self._call_id = call_id
        self._line_known = line_known
        self._vocabulary = vocabulary
        self._decoder: Any = decoder
        self._resampler = StreamingResampler(8000, _MODEL_HZ)
        self._decoding = False
        self._settled: tuple[Word, ...] = ()  # of segments before the one under way
        self._flushed: tuple[Word, ...] = ()  # of the segment under way, at its last flush
        self._audio = bytearray()  # of the segment under way, as far as it may be replayed
        self._segment_samples = 0
        self._start_samples = 0

    def accept(self, audio: bytes) -> None:
        """Take more mu-law 8 kHz audio; blocking, about 6 % of its length.

        Raises:
            EngineFailedError: the decoder failed.
        """
        if not audio:
            return
        pcm = self._resampler.process(mulaw_decode(audio)).tobytes()
        if not self._decoding:
            self._begin()
        self._feed(pcm)
        self._segment_samples += len(pcm) // 2
        if self._segment_samples <= self._engine.replay_samples:
            self._audio += pcm

    def result(self, *, flush: bool) -> TranscribeResponse:
        """Text so far; with ``flush`` of all audio, with posteriors. Without it confidence is 0: not known yet."""
        started = time.perf_counter()
        if flush and self._decoding:
            self._flushed = self._finish()
        words = self._settled + (tuple(self._words(final=False)) if self._decoding else self._flushed)
        return TranscribeResponse(
            text=" ".join(word.text for word in words),
            words=words,
            confidence=sum(word.confidence for word in words) / len(words) if flush and words else 0.0,
            flushed=flush,
            engine_ms=(time.perf_counter() - started) * 1000.0,
        )

    def close(self) -> None:
        """Give the decoder back. Idempotent."""
        decoder, self._decoder = self._decoder, None
        if decoder is None:
            return
        if self._decoding:
            self._decoding = False
            decoder.end_utt()
        if self._settled or self._flushed:
            self._engine.know_line(self._call_id, decoder.get_cmn(True))
        self._engine.give_back(self._vocabulary, decoder)

    def _begin(self) -> None:
        """Start decoding: the utterance's first audio, or audio after a flush."""
        if self._decoder is None:
            raise EngineFailedError("The session is closed.")
        replay = bytes(self._audio) if self._replayable() else b""
        if not replay:
            self._settled += self._flushed
            self._start_samples += self._segment_samples
            self._segment_samples = 0
            self._audio.clear()
        self._flushed = ()
        self._decoder.start_utt()
        self._decoding = True
        self._feed(replay)

    def _feed(self, pcm: bytes) -> None:
        step = _PIECE_SAMPLES * 2
        try:
            for start in range(0, len(pcm), step):
                self._decoder.process_raw(pcm[start : start + step], False, False)
        except RuntimeError as error:
            raise EngineFailedError(f"pocketsphinx could not decode: {error}") from error

    def _finish(self) -> tuple[Word, ...]:
        self._feed(bytes(self._engine.padding_samples * 2))
        self._decoder.end_utt()
        self._decoding = False
        if not self._line_known:
            self._learn_line()
        return tuple(self._words(final=True))

    def _learn_line(self) -> None:
        """After the first flush of a call: decode it again with its own mean, when that is far from the usual one."""
        self._line_known = True
        frames = self._segment_samples / (_SAMPLES_PER_MS * _FRAME_MS)
        mean = [
            (now * (_MEAN_FRAMES + frames) - usual * _MEAN_FRAMES) / frames
            for now, usual in zip(_numbers(self._decoder.get_cmn(True)), _numbers(_TELEPHONE_MEAN), strict=True)
        ]
        if abs(mean[0] - _numbers(_TELEPHONE_MEAN)[0]) < _OTHER_LINE or not self._replayable():
            return
        self._decoder.set_cmn(",".join(f"{value:.2f}" for value in mean))
        self._decoder.start_utt()
        self._feed(bytes(self._audio))
        self._feed(bytes(self._engine.padding_samples * 2))
        self._decoder.end_utt()

    def _replayable(self) -> bool:
        return 0 < self._segment_samples <= self._engine.replay_samples

    def _words(self, *, final: bool) -> Iterator[Word]:
        offset_ms = self._start_samples // _SAMPLES_PER_MS
        latest_ms = offset_ms + self._segment_samples // _SAMPLES_PER_MS
        for segment in self._decoder.seg() or ():
            if segment.word[0] in "<[+":  # silence, noise, sentence marks
                continue
            yield Word(
                text=segment.word.split("(")[0],
                start_ms=min(latest_ms, offset_ms + segment.start_frame * _FRAME_MS),
                end_ms=min(latest_ms, offset_ms + (segment.end_frame + 1) * _FRAME_MS),
                confidence=min(1.0, max(0.0, segment.prob)) if final else 0.0,
            )


def _numbers(mean: str) -> list[float]:
    return [float(value) for value in mean.split(",")]


def _current(folder: Path) -> _Vocabulary:
    pointer = folder / "current"
    hint = "run `voice-agent kb ingest` to make one from the knowledge base"
    try:
        name = pointer.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise EngineUnavailableError(f"pocketsphinx has no vocabulary at {pointer}: {hint}.") from error
    vocabulary = _Vocabulary(name, folder / name / "kb.arpa", folder / name / "kb.dict")
    for path in (vocabulary.language_model, vocabulary.dictionary):
        if not name or not path.is_file():
            raise EngineUnavailableError(f"pocketsphinx' vocabulary lacks {path}: {hint}.")
    return vocabulary


def _decoder(vocabulary: _Vocabulary) -> Any:
    try:
        return Decoder(
            hmm=os.path.join(get_model_path(), "en-us", "en-us"),
            lm=str(vocabulary.language_model),
            dict=str(vocabulary.dictionary),
            samprate=float(_MODEL_HZ),
            loglevel="FATAL",
        )
    except RuntimeError as error:
        raise EngineUnavailableError(
            f"pocketsphinx cannot load the vocabulary {vocabulary.name}: {error}; run `voice-agent kb ingest` again."
        ) from error
