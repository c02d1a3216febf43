"""The client of a model in the cluster, with a Serve handle that is made up. The conformance suite runs on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from ray.serve.exceptions import BackPressureError
from test_conformance_llm import (  # noqa: F401 - pytest collects them for the fixture `engine` below
    ask,
    collect,
    test_any_turn_gets_a_finished_reply,
    test_cancelling_the_reader_leaves_no_task,
    test_capabilities_are_honest,
    test_closing_early_leaves_the_engine_usable,
    test_only_the_last_chunk_finishes,
    test_replies_at_the_same_time_do_not_mix,
    test_sources_are_documents_that_were_given,
    test_words_are_spaced_across_chunks,
)

from engines import registry
from engines.llm_ray_serve import RayServeChat
from voice_agent.errors import ConfigError, DeadlineExceededError, EngineFailedError
from voice_agent.ports import LanguageModelEngine, ReplyChunk, ToolCall

Answer = Callable[[dict[str, Any]], AsyncIterator[list[str]]]


class Stream:
    """As Serve's response generator: an iterator that can be cancelled."""

    def __init__(self, items: AsyncIterator[list[str]]) -> None:
        self._items = items
        self.cancelled = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> list[str]:
        return await anext(self._items)

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """As Serve's handle, with one method."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.streams: list[Stream] = []
        self.bodies: list[dict[str, Any]] = []
        self.stream_chat = self

    def options(self, *, stream: bool) -> Handle:
        assert stream
        return self

    def remote(self, body: dict[str, Any]) -> Stream:
        self.bodies.append(json.loads(json.dumps(body)))
        self.streams.append(Stream(self._answer(body)))
        return self.streams[-1]


def event(choice: dict[str, Any]) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n"


async def echo(body: dict[str, Any]) -> AsyncIterator[list[str]]:
    """The caller's words, two events a batch."""
    words = f"You said {body['messages'][-1]['content']}".split(" ")
    for start in range(0, len(words), 2):
        await asyncio.sleep(0)
        yield [event({"delta": {"content": f"{word} "}}) for word in words[start : start + 2]]
    yield [event({"delta": {}, "finish_reason": "stop"}), "data: [DONE]\n\n"]


def engine_of(answer: Answer, **options: Any) -> tuple[RayServeChat, Handle]:
    handle = Handle(answer)
    return RayServeChat(model="m", server=handle, **options), handle


@pytest.fixture
def engine() -> LanguageModelEngine:
    loaded: LanguageModelEngine = registry.load("llm", "ray-serve-llm", {"model": "m", "server": Handle(echo)})
    return loaded


async def test_the_body_is_plain_data_of_a_chat_completion() -> None:
    engine, handle = engine_of(echo, temperature=0, max_tokens=50, priorities=True, request_options={"seed": 1})
    await collect(engine.reply(ask("hello")))
    body = handle.bodies[0]
    assert (body["model"], body["stream"], body["temperature"], body["max_tokens"]) == ("m", True, 0, 50)
    assert (body["priority"], body["seed"]) == (0, 1)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["end_call"]
    assert body["messages"][0]["content"].endswith("the receipt. Refunds take one week.")


async def test_closing_cancels_the_request() -> None:
    engine, handle = engine_of(echo)
    async with aclosing(engine.reply(ask("one two three four"))) as stream:  # type: ignore[type-var]
        await anext(stream)
        assert not handle.streams[0].cancelled
    assert handle.streams[0].cancelled


async def test_tool_calls_come_whole() -> None:
    async def answer(_: dict[str, Any]) -> AsyncIterator[list[str]]:
        for part in ('{"day":', ' "monday"}'):
            call = {"index": 0, "function": {"name": "book" if "day" in part[:6] else "", "arguments": part}}
            yield [event({"delta": {"tool_calls": [call]}})]
        yield [event({"delta": {}, "finish_reason": "tool_calls"})]

    chunks = await collect(engine_of(answer)[0].reply(ask("book me in")))
    assert chunks[0] == ReplyChunk(tool_call=ToolCall("book", {"day": "monday"}))
    assert chunks[-1].finish_reason == "tool"


async def _refused(_: dict[str, Any]) -> AsyncIterator[list[str]]:
    raise BackPressureError(num_queued_requests=9, max_queued_requests=9)
    yield []


async def _wrong(_: dict[str, Any]) -> AsyncIterator[list[str]]:
    yield [f"data: {json.dumps({'error': {'message': 'too long', 'type': 'BadRequest', 'code': 400}})}\n\n"]


async def _cut(_: dict[str, Any]) -> AsyncIterator[list[str]]:
    yield [event({"delta": {"content": "One"}})]


@pytest.mark.parametrize(
    ("answer", "words"),
    [(_refused, "could not be asked: BackPressureError"), (_wrong, "too long"), (_cut, "in the middle")],
)
async def test_failures_are_ours_and_clear(answer: Answer, words: str) -> None:
    engine, handle = engine_of(answer)
    with pytest.raises(EngineFailedError, match=words):
        await collect(engine.reply(ask("hello")))
    assert handle.streams[0].cancelled


async def test_a_model_that_falls_silent_is_given_up() -> None:
    async def answer(_: dict[str, Any]) -> AsyncIterator[list[str]]:
        yield [event({"delta": {"content": "One"}})]
        await asyncio.Event().wait()

    engine, handle = engine_of(answer, timeout_s=0.05)
    with pytest.raises(DeadlineExceededError, match=r"m gave nothing for 0\.05 s"):
        await collect(engine.reply(ask("hello")))
    assert handle.streams[0].cancelled


def test_outside_a_stack_it_says_what_to_take() -> None:
    with pytest.raises(ConfigError, match="take the openai engine"):
        registry.load("llm", "ray-serve-llm", {"model": "m"})
