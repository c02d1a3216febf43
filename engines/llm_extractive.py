"""The extractive answerer: says the best sentence of the knowledge base word for word, or says that it cannot.

It is no language model and makes nothing up. Three gates stand before an answer: the recogniser must be sure of the
words, the passage must be near the question, and what is said is the passage's own text. Small talk goes by rule.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from engines import small_talk
from voice_agent.errors import ConfigError
from voice_agent.ports import Capabilities, Passage, ReplyChunk, ReplyRequest, ToolCall

VERSION = "1"
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_SHORT_WORDS = 6
_LEXICAL_BONUS = 0.05
# Measured on the sample's questions over the telephone band: of those not to be answered none comes this near, of those
# the recogniser is not sure of two in three do.
_CLEAR_DENSE, _CLEAR_LEXICAL, _CLEAR_BONUS = 0.60, 0.5, 0.22


@dataclass(frozen=True, slots=True)
class _Phrases:
    """What is said apart from the knowledge base."""

    unknown: str
    not_understood: str
    goodbye: str
    small_talk: dict[str, str]


class ExtractiveAnswerer:
    """Answers from ``ReplyRequest.passages``.

    ``unknown``, ``not_understood`` and ``goodbye`` are the agent's phrases; ``phrases`` replaces what is said to
    thanks, greeting, yes and no. A passage counts as an answer from a cosine of ``min_dense`` on, or from 0.05 below
    it when it holds ``min_lexical`` of the question's terms; when the question has a word that no document has ("do you
    repair laptops"), from ``min_dense_unknown`` on.
    """

    def __init__(  # noqa: PLR0913 - one parameter is one option
        self,
        *,
        unknown: str = "I am sorry, I don't know that. Is there anything else I can help you with?",
        not_understood: str = "I am sorry, I did not get that. Could you say it again?",
        goodbye: str = "Thank you for calling. Goodbye.",
        phrases: dict[str, str] | None = None,
        min_dense: float = 0.40,
        min_confidence: float = 0.62,
        min_lexical: float = 0.6,
        min_dense_unknown: float = 0.55,
    ) -> None:
        known = {
            small_talk.THANKS: "You are welcome. Is there anything else I can help you with?",
            small_talk.GREETING: "Hello. How can I help you?",
            small_talk.YES: "Go ahead, what would you like to know?",
            small_talk.NO: "All right. What else can I do for you?",
            "": "What would you like to know?",
        }
        unknown_keys = sorted(set(phrases or {}) - set(known))
        if unknown_keys:
            raise ConfigError(
                f"The extractive engine's option phrases has {', '.join(unknown_keys)}; allowed:"
                f" {', '.join(sorted(filter(None, known)))}."
            )
        self._phrases = _Phrases(unknown, not_understood, goodbye, known | (phrases or {}))
        self._min_dense = min_dense
        self._min_confidence = min_confidence
        self._min_lexical = min_lexical
        self._min_dense_unknown = min_dense_unknown
        self._capabilities = Capabilities(name="extractive", version=VERSION)

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine."""
        return self._capabilities

    async def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        """Stream the reply, a sentence a chunk."""
        for chunk in self._chunks(request):
            yield chunk

    def _chunks(self, request: ReplyRequest) -> list[ReplyChunk]:
        said = request.messages[-1].content if request.messages else ""
        intent = small_talk.intent_of(said)
        passage = None if intent is not None else self._answering(request.passages)
        if not small_talk.words(said) or not self._understood(request.confidence, passage):
            return _said(self._phrases.not_understood, "gated")
        if intent is not None:
            return self._small_talk(intent, _last_of_agent(request))
        if passage is None:
            return _said(self._phrases.unknown, "gated")
        return _said(answer_of(passage), "stop", sources=(passage.source,))

    def _understood(self, confidence: float, passage: Passage | None) -> bool:
        """Words that point clearly at one passage need less confidence: noise rarely does that."""
        clear = passage is not None and passage.dense >= _CLEAR_DENSE and passage.lexical >= _CLEAR_LEXICAL
        return confidence >= self._min_confidence - (_CLEAR_BONUS if clear else 0.0)

    def _small_talk(self, intent: str, last_said: str) -> list[ReplyChunk]:
        if intent == small_talk.GOODBYE or (intent == small_talk.NO and "anything else" in last_said.lower()):
            return [
                ReplyChunk(text=self._phrases.goodbye),
                ReplyChunk(tool_call=ToolCall("end_call"), finish_reason="tool"),
            ]
        if intent == small_talk.REPEAT:
            return _said(last_said or self._phrases.not_understood, "stop")
        return _said(self._phrases.small_talk[intent], "stop")

    def _answering(self, passages: tuple[Passage, ...]) -> Passage | None:
        """The first passage near enough; the retriever has put the best in front."""
        return next((passage for passage in passages if self._near(passage)), None)

    def _near(self, passage: Passage) -> bool:
        if passage.unknown:
            return passage.dense >= max(self._min_dense, self._min_dense_unknown)
        bonus = _LEXICAL_BONUS if passage.lexical >= self._min_lexical else 0.0
        return passage.dense >= self._min_dense - bonus


def answer_of(passage: Passage) -> str:
    """What is said of a passage, verbatim: its best sentence, and the next one after a question or a very short one."""
    sentence = passage.sentence.strip()
    rest = passage.text.partition(sentence)[2]
    following = next((part.strip() for part in _SENTENCE.split(rest.strip()) if part.strip()), "")
    if sentence.endswith("?"):
        return following or sentence
    if len(sentence.split()) < _SHORT_WORDS and following and not following.endswith("?"):
        return f"{sentence} {following}"
    return sentence


def _last_of_agent(request: ReplyRequest) -> str:
    return next((message.content for message in reversed(request.messages) if message.role == "assistant"), "")


def _said(text: str, finish_reason: str, sources: tuple[str, ...] = ()) -> list[ReplyChunk]:
    """A text as chunks of a sentence each; the last carries the reason, all of them the sources."""
    sentences = [part for part in _SENTENCE.split(text.strip()) if part]
    chunks = [ReplyChunk(text=f"{sentence} ", sources=sources) for sentence in sentences[:-1]]
    return [*chunks, ReplyChunk(text=sentences[-1] if sentences else "", sources=sources, finish_reason=finish_reason)]
