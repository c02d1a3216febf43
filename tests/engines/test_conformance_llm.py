"""What every language model engine keeps, simulated or real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from engines import registry
from voice_agent.ports import LanguageModelEngine, Message, Passage, ReplyChunk, ReplyRequest

FINISH_REASONS = {"stop", "length", "tool", "gated"}
PASSAGE = Passage(
    chunk_id="returns#0",
    text="You can return anything unused within thirty days. Please bring the receipt. Refunds take one week.",
    sentence="You can return anything unused within thirty days.",
    heading="Returns",
    source="returns.md",
    dense=0.7,
    lexical=1.0,
    score=1.0,
)


async def _chat(request: httpx.Request) -> httpx.Response:
    """An endpoint that answers with the caller's words and the passages, a word an event."""
    body = json.loads(request.content)
    words = f"You said {body['messages'][-1]['content']}".split(" ")

    async def events() -> AsyncIterator[bytes]:
        for word in words:
            await asyncio.sleep(0)
            yield _event({"delta": {"content": f"{word} "}})
        yield _event({"delta": {}, "finish_reason": "stop"}) + b"data: [DONE]\n\n"

    return httpx.Response(200, content=events())


def _event(choice: dict[str, Any]) -> bytes:
    return f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n".encode()


@pytest.fixture(params=["simulated", "extractive", "openai", "fallback"])
def engine(request: pytest.FixtureRequest) -> LanguageModelEngine:
    quick = {"first_token_ms": 2, "word_ms": 0.2}
    # Its first engine fails always: what is said is the second one's.
    broken = {"engine": "faulty", "options": {"fault": "error", "options": quick}}
    options: dict[str, dict[str, Any]] = {
        "simulated": quick,
        "fallback": {"engines": [broken, {"engine": "simulated", "options": quick}]},
        "openai": {"base_url": "http://model/v1", "model": "m", "transport": httpx.MockTransport(_chat)},
    }
    engine: LanguageModelEngine = registry.load("llm", request.param, options.get(request.param))
    return engine


def ask(text: str, *, call_id: str = "call", passages: tuple[Passage, ...] = (PASSAGE,)) -> ReplyRequest:
    return ReplyRequest(call_id=call_id, turn=1, messages=(Message("user", text),), passages=passages)


async def collect(stream: AsyncIterator[ReplyChunk]) -> list[ReplyChunk]:
    return [chunk async for chunk in stream]


async def test_capabilities_are_honest(engine: LanguageModelEngine) -> None:
    assert isinstance(engine, LanguageModelEngine)
    assert engine.capabilities.simulated is (engine.capabilities.name in ("simulated", "faulty"))
    assert engine.capabilities.version


async def test_only_the_last_chunk_finishes(engine: LanguageModelEngine) -> None:
    chunks = await collect(engine.reply(ask("can i return something")))
    assert [bool(chunk.finish_reason) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].finish_reason in FINISH_REASONS
    assert "".join(chunk.text for chunk in chunks).strip()


async def test_sources_are_documents_that_were_given(engine: LanguageModelEngine) -> None:
    chunks = await collect(engine.reply(ask("can i return something")))
    named = {source for chunk in chunks for source in chunk.sources}
    assert named == (set() if engine.capabilities.simulated else {"returns.md"})
    without = await collect(engine.reply(ask("can i return something", passages=())))
    assert not any(chunk.sources for chunk in without)


async def test_words_are_spaced_across_chunks(engine: LanguageModelEngine) -> None:
    text = "".join(chunk.text for chunk in await collect(engine.reply(ask("can i return something"))))
    assert "  " not in text.strip()
    assert max(map(len, text.split())) < 25


@pytest.mark.parametrize("text", ["", "   ", "東京 🙂 \ud800", "word " * 5000])
async def test_any_turn_gets_a_finished_reply(engine: LanguageModelEngine, text: str) -> None:
    if engine.capabilities.name == "openai":
        text = text.encode(errors="replace").decode()
    assert (await collect(engine.reply(ask(text))))[-1].finish_reason in FINISH_REASONS


async def test_a_dialog_without_messages_gets_a_finished_reply(engine: LanguageModelEngine) -> None:
    if engine.capabilities.name == "openai":
        pytest.skip("what an endpoint says to no messages is its own matter")
    reply = await collect(engine.reply(ReplyRequest(call_id="call", turn=1, messages=())))
    assert reply[-1].finish_reason in FINISH_REASONS


async def test_replies_at_the_same_time_do_not_mix(engine: LanguageModelEngine) -> None:
    texts = [f"can i return number {number}" for number in range(5)]
    alone = [await collect(engine.reply(ask(text))) for text in texts]
    together = await asyncio.gather(*(collect(engine.reply(ask(text))) for text in texts))
    assert list(together) == alone


async def test_closing_early_leaves_the_engine_usable(engine: LanguageModelEngine) -> None:
    for _ in range(5):
        async with aclosing(engine.reply(ask("can i return something"))) as stream:  # type: ignore[type-var]
            await anext(stream)
    assert (await collect(engine.reply(ask("can i return something"))))[-1].finish_reason == "stop"


async def test_cancelling_the_reader_leaves_no_task(engine: LanguageModelEngine) -> None:
    before = asyncio.all_tasks()
    reader = asyncio.create_task(collect(engine.reply(ask("can i return something"))))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
