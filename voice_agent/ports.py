"""Engine ports: the contract between a call and the models, as plain records and Protocols.

A port is implemented by an adapter in ``engines/`` and served by a deployment in ``serve_apps/``. Audio on every
port is G.711 mu-law mono at 8 kHz (one byte is one sample, 8 bytes are a millisecond): the telephone's own format,
so nothing is converted twice and payloads stay small. Adapters resample to what their model wants.

Every request carries ``call_id`` and a W3C ``traceparent``: Ray Serve handles used from a plain actor do not
propagate trace context.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do, so that callers adapt instead of guessing.

    Attributes:
        name: registry name, e.g. ``"pocketsphinx"``.
        version: of the library or model, for the turn record.
        simulated: True when nothing it says came from a model. Figures made with it are labelled so.
        closed_domain: True when it only knows the knowledge base's vocabulary.
        streaming: gives results before the input is complete (STT) or the output is complete (LLM, TTS).
        push_interval_ms: how often an STT engine wants new audio while the caller speaks; 0 = only at a pause.
        parallel: blocking calls of one replica that can run at once without slowing each other; sizes its executor.
    """

    name: str
    version: str
    simulated: bool = False
    closed_domain: bool = False
    streaming: bool = True
    push_interval_ms: int = 0
    parallel: int = 1


# --- speech to text -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Word:
    """A recognised word with times in ms from the start of the utterance and a posterior in [0, 1]."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float


@dataclass(frozen=True, slots=True)
class TranscribeRequest:
    """More audio of an utterance.

    Attributes:
        call_id: the call.
        utterance: number of the utterance in the call, from 1.
        offset_samples: position of the first sample of ``audio`` in the utterance.
        audio: mu-law 8 kHz, may be empty when only ``flush`` is wanted.
        flush: the caller has paused: the answer must account for all audio up to here. More audio of the same
            utterance may still follow (the caller went on).
        end: the utterance is over or given up; the replica forgets it. The answer's text is ignored.
        epoch: fencing number of the call's owner.
        traceparent: W3C trace context, may be empty.
    """

    call_id: str
    utterance: int
    offset_samples: int
    audio: bytes
    flush: bool = False
    end: bool = False
    epoch: int = 0
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class TranscribeResponse:
    """The text of the whole utterance so far.

    ``need_from`` is set when the replica lacks the state this request builds on: nothing was consumed, and the
    caller sends the utterance again from that sample. ``confidence`` in [0, 1] is the mean word posterior.
    ``engine_ms`` is the time the engine itself took; ``complete`` is the turn model's probability that the caller is
    done, None where there is no turn model. ``engine`` is the one that heard it, where several may.
    """

    text: str = ""
    words: tuple[Word, ...] = ()
    confidence: float = 0.0
    flushed: bool = False
    need_from: int | None = None
    engine_ms: float = 0.0
    complete: float | None = None
    engine: str = ""


@runtime_checkable
class SpeechToTextSession(Protocol):
    """Recognition of one utterance. Not thread-safe; one owner."""

    def accept(self, audio: bytes) -> None:
        """Take more mu-law 8 kHz audio (any length)."""

    def result(self, *, flush: bool) -> TranscribeResponse:
        """Text so far; with ``flush``, of all audio accepted. More ``accept`` calls may follow."""

    def close(self) -> None:
        """Free the session. Idempotent."""


@runtime_checkable
class SpeechToTextEngine(Protocol):
    """Loaded once per replica. Blocking calls; the deployment runs them in an executor."""

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""

    def open(self, *, call_id: str, utterance: int) -> SpeechToTextSession:
        """Start an utterance."""

    def reload(self) -> None:
        """Take a new vocabulary after an ingest; sessions already open keep the old one."""


@runtime_checkable
class TurnModel(Protocol):
    """Judges at a pause whether the caller is done. Blocking; a SpeechToText replica asks it beside the recogniser."""

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""

    def complete(self, audio: bytes, text: str) -> float:
        """Probability in [0, 1] for mu-law 8 kHz ``audio`` up to the pause (8 s at most) and the words so far."""


# --- retrieval ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A question to the knowledge base."""

    call_id: str
    query: str
    top_k: int = 4
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrieved piece of the knowledge base.

    ``sentence`` is the best sentence inside ``text`` (small-to-big retrieval); ``dense`` is its cosine in [-1, 1],
    ``lexical`` the share of the query's informative terms it contains in [0, 1], ``score`` the fused rank score.
    ``unknown`` are informative terms of the query, as stems, that no document has.
    """

    chunk_id: str
    text: str
    sentence: str
    heading: str
    source: str
    dense: float
    lexical: float
    score: float
    unknown: tuple[str, ...] = ()


COPY = "copy"
"""The ``engine`` that has found passages where the vector store is away, and a copy of it is asked."""


@dataclass(frozen=True, slots=True)
class SearchResponse:
    """Passages, best first, the knowledge base version they came from, and what has found them."""

    passages: tuple[Passage, ...]
    kb_version: str = ""
    engine_ms: float = 0.0
    engine: str = ""


@runtime_checkable
class Embedder(Protocol):
    """Sentence embeddings."""

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32, shape (len(texts), dimension)."""


# --- language model -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of the dialog. Assistant text is what the caller *heard*. ``role``: system, user, assistant, tool."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """Everything a language model needs for one reply. The last message is the caller's turn.

    ``confidence`` is the recogniser's; ``speculative`` requests are served after confirmed ones.
    """

    call_id: str
    turn: int
    messages: tuple[Message, ...]
    passages: tuple[Passage, ...] = ()
    confidence: float = 1.0
    speculative: bool = False
    traceparent: str = ""
    cheap: bool = False
    """The stack is overloaded: the fallback engine, where there is one, answers first."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool the model wants run; ``arguments`` as parsed JSON."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplyChunk:
    """A piece of a streamed reply. The last chunk has ``finish_reason`` set (stop, length, tool, gated).

    ``sources`` name the documents the answer rests on; empty when it rests on none. ``engine`` is the one that
    answered, where several may.
    """

    text: str = ""
    tool_call: ToolCall | None = None
    sources: tuple[str, ...] = ()
    finish_reason: str = ""
    engine: str = ""


@runtime_checkable
class LanguageModelEngine(Protocol):
    """Streams a reply. Closing the iterator cancels the work down to the model."""

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""

    def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        """Stream the reply; the last chunk carries ``finish_reason``."""


# --- text to speech -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpeakRequest:
    """One clause to be spoken. ``voice`` empty means the engine's default.

    ``ahead_ms``: speech of the turn that the listener still has to hear first; audio may come in pieces so much larger.
    What it has of this clause already, and leaves out when it comes again, is taken off; so this may be negative.
    """

    call_id: str
    turn: int
    clause: int
    text: str
    voice: str = ""
    traceparent: str = ""
    ahead_ms: int = 0
    cheap: bool = False
    """As in ``ReplyRequest``."""
    again: bool = False
    """A voice broke off in these words; where there is another engine, that one is to say them."""


@dataclass(frozen=True, slots=True)
class SpeechChunk:
    """A piece of synthesised speech: mu-law 8 kHz, 100 ms or more except the last.

    ``word_ends_ms`` (on the last chunk, where the engine knows) gives the end of each whitespace-separated word of
    the clause, in ms from the start of the clause. ``engine`` is the one that spoke, where several may.
    """

    audio: bytes
    last: bool = False
    word_ends_ms: tuple[int, ...] = ()
    engine: str = ""


@runtime_checkable
class TextToSpeechEngine(Protocol):
    """Streams speech. Closing the iterator aborts synthesis."""

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""

    @property
    def voices(self) -> tuple[str, ...]:
        """Names accepted in ``SpeakRequest.voice``."""

    def speak(self, request: SpeakRequest) -> AsyncIterator[SpeechChunk]:
        """Stream the clause; the last chunk has ``last`` set."""


# --- voice activity -------------------------------------------------------------------------------------------


@runtime_checkable
class VoiceActivityEngine(Protocol):
    """Speech probability of short windows, batched over calls."""

    window_samples: int
    """Samples per window at 8 kHz (Silero: 256 = 32 ms)."""

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""

    def initial_state(self) -> Any:
        """Opaque per-call state."""

    def batch(self, windows: NDArray[np.float32], states: Sequence[Any]) -> tuple[NDArray[np.float32], list[Any]]:
        """Probabilities (n,) and new states for windows float32 in [-1, 1], shape (n, window_samples)."""
