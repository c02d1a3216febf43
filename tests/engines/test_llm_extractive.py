"""The extractive answerer: gates, small talk, verbatim answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engines.llm_extractive import ExtractiveAnswerer, answer_of
from engines.small_talk import FILLERS, PHRASES, intent_of
from voice_agent.errors import ConfigError
from voice_agent.ports import Message, Passage, ReplyChunk, ReplyRequest, ToolCall

UNKNOWN, NOT_UNDERSTOOD, GOODBYE = "I don't know.", "Say it again?", "Goodbye then."
PASSAGE = Passage(
    chunk_id="delivery#0",
    text="We deliver anywhere in the city for fifteen dollars. It takes three days. Ask us for more.",
    sentence="We deliver anywhere in the city for fifteen dollars.",
    heading="Delivery",
    source="delivery.md",
    dense=0.55,
    lexical=0.5,
    score=1.0,
)
OTHER = replace(PASSAGE, chunk_id="x#0", text="Other.", sentence="Other.", source="other.md", dense=0.9)


@pytest.fixture
def engine() -> ExtractiveAnswerer:
    return ExtractiveAnswerer(unknown=UNKNOWN, not_understood=NOT_UNDERSTOOD, goodbye=GOODBYE)


async def reply(
    engine: ExtractiveAnswerer,
    text: str,
    *passages: Passage,
    confidence: float = 0.9,
    agent: str = "Hello, how can I help you?",
) -> list[ReplyChunk]:
    messages = (Message("system", "x"), Message("assistant", agent), Message("user", text))
    request = ReplyRequest("call", 1, messages, passages, confidence)
    return [chunk async for chunk in engine.reply(request)]


def text_of(chunks: list[ReplyChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_answer_is_the_passage_word_for_word_with_its_source(engine: ExtractiveAnswerer) -> None:
    chunks = await reply(engine, "how much is delivery", PASSAGE, OTHER)
    assert chunks == [ReplyChunk(text=PASSAGE.sentence, sources=("delivery.md",), finish_reason="stop")]


@pytest.mark.parametrize(
    ("dense", "lexical", "answered"),
    [(0.40, 0.0, True), (0.39, 0.0, False), (0.36, 1.0, True), (0.30, 1.0, False), (-1.0, 1.0, False)],
)
async def test_far_passages_are_no_answer(
    engine: ExtractiveAnswerer, dense: float, lexical: float, answered: bool
) -> None:
    chunks = await reply(engine, "how much is delivery", replace(PASSAGE, dense=dense, lexical=lexical))
    assert text_of(chunks) == (PASSAGE.sentence if answered else UNKNOWN)
    assert chunks[-1].finish_reason == ("stop" if answered else "gated")
    assert bool(chunks[-1].sources) is answered


@pytest.mark.parametrize(("dense", "answered"), [(0.54, False), (0.55, True)])
async def test_a_word_no_document_has_wants_a_nearer_passage(
    engine: ExtractiveAnswerer, dense: float, answered: bool
) -> None:
    passage = replace(PASSAGE, dense=dense, lexical=1.0, unknown=("pizza",))
    assert text_of(await reply(engine, "do you deliver pizza", passage)) == (PASSAGE.sentence if answered else UNKNOWN)


@pytest.mark.parametrize(
    ("confidence", "dense", "lexical", "understood"),
    [
        (0.62, 0.41, 0.0, True),
        (0.61, 0.59, 1.0, False),
        (0.61, 0.60, 0.5, True),
        (0.61, 0.60, 0.4, False),
        (0.41, 0.80, 1.0, True),
        (0.39, 0.80, 1.0, False),
        (0.0, 1.0, 1.0, False),
    ],
)
async def test_unsure_words_are_asked_for_again_unless_they_point_clearly(
    engine: ExtractiveAnswerer, confidence: float, dense: float, lexical: float, understood: bool
) -> None:
    passage = replace(PASSAGE, dense=dense, lexical=lexical)
    chunks = await reply(engine, "how much is delivery", passage, confidence=confidence)
    assert text_of(chunks) == (PASSAGE.sentence if understood else NOT_UNDERSTOOD)
    assert chunks[-1].finish_reason == ("stop" if understood else "gated")


async def test_no_words_are_asked_for_again(engine: ExtractiveAnswerer) -> None:
    assert text_of(await reply(engine, "", PASSAGE, confidence=1.0)) == NOT_UNDERSTOOD


async def test_no_passages_is_unknown(engine: ExtractiveAnswerer) -> None:
    assert text_of(await reply(engine, "what is the capital of france")) == UNKNOWN


async def test_long_answers_come_a_sentence_a_chunk(engine: ExtractiveAnswerer) -> None:
    short = replace(PASSAGE, text="It is free. You only pay for parts.", sentence="It is free.")
    chunks = await reply(engine, "is it free", short)
    assert [chunk.text for chunk in chunks] == ["It is free. ", "You only pay for parts."]
    assert [chunk.finish_reason for chunk in chunks] == ["", "stop"]


@pytest.mark.parametrize(
    ("sentence", "text", "said"),
    [
        ("It is free.", "It is free. You only pay for parts.", "It is free. You only pay for parts."),
        ("It is free.", "Is it? It is free.", "It is free."),
        ("It is free.", "It is free. Is it?", "It is free."),
        ("Do you deliver?", "Do you deliver? Yes, on Mondays. Ask us.", "Yes, on Mondays."),
        ("Do you deliver?", "Do you deliver?", "Do you deliver?"),
        ("Not in the text.", "Something else altogether is here.", "Not in the text."),
    ],
)
def test_sentence_and_its_neighbour(sentence: str, text: str, said: str) -> None:
    assert answer_of(replace(PASSAGE, sentence=sentence, text=text)) == said


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("goodbye", "goodbye"),
        ("Thank you, goodbye!", "goodbye"),
        ("no that's all thank you", "goodbye"),
        ("no that’s all", "goodbye"),
        ("what was it goodbye", "goodbye"),
        ("thank you very much", "thanks"),
        ("okay thanks for your help", "thanks"),
        ("hello", "greeting"),
        ("could you say that again please", "repeat"),
        ("yes please", "yes"),
        ("no thank you", "no"),
        ("uh hm", ""),
        ("hello what are your opening hours", None),
        ("is there a good bike", None),
        ("can i return a bike i have said goodbye to", None),
        ("do you have a nice day bag", None),
        ("", None),
    ],
)
def test_small_talk_is_small_talk_throughout(text: str, intent: str | None) -> None:
    assert intent_of(text) == intent


def test_every_phrase_of_the_table_is_found() -> None:
    for intent, phrases in PHRASES.items():
        for phrase in phrases:
            assert intent_of(phrase) == intent, phrase
    assert all(intent_of(filler) == "" for filler in FILLERS)


async def test_goodbye_hangs_up(engine: ExtractiveAnswerer) -> None:
    chunks = await reply(engine, "thank you goodbye", PASSAGE)
    assert text_of(chunks) == GOODBYE
    assert [chunk.tool_call for chunk in chunks if chunk.tool_call] == [ToolCall("end_call")]
    assert chunks[-1].finish_reason == "tool"


async def test_no_hangs_up_only_when_asked_for_more(engine: ExtractiveAnswerer) -> None:
    offered = await reply(engine, "no thanks", agent="We do. Is there anything else I can help you with?")
    assert any(chunk.tool_call for chunk in offered)
    assert not any(chunk.tool_call for chunk in await reply(engine, "no thanks", agent="We open at nine."))


async def test_goodbye_that_was_not_understood_does_not_hang_up(engine: ExtractiveAnswerer) -> None:
    assert text_of(await reply(engine, "goodbye", confidence=0.2)) == NOT_UNDERSTOOD


async def test_repeat_says_what_was_heard_last(engine: ExtractiveAnswerer) -> None:
    assert text_of(await reply(engine, "can you repeat that", agent="We open at nine.")) == "We open at nine."


async def test_phrases_can_be_replaced_and_unknown_ones_are_told() -> None:
    engine = ExtractiveAnswerer(phrases={"thanks": "Any time."})
    assert text_of(await reply(engine, "thanks")) == "Any time."
    with pytest.raises(ConfigError, match="insult; allowed: greeting, no, thanks, yes"):
        ExtractiveAnswerer(phrases={"insult": "Hm."})
