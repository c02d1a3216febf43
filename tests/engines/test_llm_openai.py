"""The OpenAI-compatible client: what it sends, what it makes of answers good and bad, and that it hangs up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from engines.llm_openai import OpenAIChat
from voice_agent.errors import (
    ConfigError,
    DeadlineExceededError,
    EngineFailedError,
    EngineUnavailableError,
    VoiceAgentError,
)
from voice_agent.ports import Message, Passage, ReplyChunk, ReplyRequest, ToolCall

PASSAGE = Passage("a#0", "We open at nine.", "We open at nine.", "Hours", "a.md", 0.8, 1.0, 1.0)
REQUEST = ReplyRequest("call", 1, (Message("system", "Be brief."), Message("user", "when do you open")), (PASSAGE,))


def engine_of(answer: Callable[[httpx.Request], Any], **options: Any) -> OpenAIChat:
    return OpenAIChat(base_url="http://model/v1/", model="m", transport=httpx.MockTransport(answer), **options)


def events(*choices: dict[str, Any]) -> bytes:
    lines = [f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n" for choice in choices]
    return "".join([": comment\n\n", *lines, "data: [DONE]\n\n"]).encode()


async def collect(engine: OpenAIChat) -> list[ReplyChunk]:
    return [chunk async for chunk in engine.reply(REQUEST)]


async def test_request_carries_dialog_passages_tools_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_KEY", "k-1")
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=events({"delta": {"content": "Nine."}, "finish_reason": "stop"}))

    engine = engine_of(answer, api_key_variable="MODEL_KEY", request_options={"temperature": 0})
    assert await collect(engine) == [
        ReplyChunk(text="Nine.", sources=("a.md",)),
        ReplyChunk(sources=("a.md",), finish_reason="stop"),
    ]
    body = json.loads(seen[0].content)
    assert str(seen[0].url) == "http://model/v1/chat/completions"
    assert seen[0].headers["authorization"] == "Bearer k-1"
    assert (body["model"], body["stream"], body["temperature"]) == ("m", True, 0)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["end_call"]
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    system = body["messages"][0]["content"]
    assert system.startswith("Be brief.\n\nPassages of the knowledge base")
    assert system.endswith("\n[1] (Hours, a.md) We open at nine.")


async def test_options_of_the_request() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=events({"delta": {"content": "Nine."}, "finish_reason": "stop"}))

    options = {"temperature": 0.7, "max_tokens": 99, "tools": (), "priorities": True, "api_key": "k-2"}
    engine = engine_of(answer, request_options={"max_tokens": None, "max_completion_tokens": 50}, **options)
    await collect(engine)
    await anext(engine.reply(replace(REQUEST, speculative=True)))
    first, second = (json.loads(request.content) for request in seen)
    assert (first["temperature"], first["max_completion_tokens"], first["priority"]) == (0.7, 50, 0)
    assert not {"max_tokens", "tools"} & set(first)
    assert second["priority"] == 1
    assert seen[0].headers["authorization"] == "Bearer k-2"
    assert "k-2" not in repr(engine)


async def test_tool_calls_come_whole_out_of_fragments() -> None:
    def part(index: int, **function: str) -> dict[str, Any]:
        return {"delta": {"tool_calls": [{"index": index, "function": function}]}}

    fragments = events(
        {"delta": {"content": "Bye."}},
        part(1, name="end_call"),
        part(0, name="book", arguments='{"day": "mon'),
        part(0, arguments='day"}'),
        {"delta": {}, "finish_reason": "tool_calls"},
    )
    chunks = await collect(engine_of(lambda _: httpx.Response(200, content=fragments)))
    assert [chunk.tool_call for chunk in chunks if chunk.tool_call] == [
        ToolCall("book", {"day": "monday"}),
        ToolCall("end_call", {}),
    ]
    assert chunks[-1].finish_reason == "tool"


def _part(name: str = "", arguments: str = "", **numbered: object) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value}
    return {"delta": {"tool_calls": [{**numbered, "function": function}]}}


@pytest.mark.parametrize(
    "parts",
    [
        # By index, the two interleaved; by id alone; by id, all with index 0; one after the other; names repeated.
        [
            _part("a", "{", index=0),
            _part("b", '{"y": ', index=1),
            _part("", '"x": 1}', index=0),
            _part("", "2}", index=1),
        ],
        [_part("a", '{"x": ', id="1"), _part("", "1}"), _part("b", '{"y": 2}', id="2")],
        [_part("a", '{"x": 1}', index=0, id="1"), _part("b", '{"y": ', index=0, id="2"), _part("", "2}", index=0)],
        [_part("a", '{"x": 1}', index=0, id="1"), _part("b", '{"y": 2}', index=1, id="2")],
        [_part("a", '{"x"', index=0, id="1"), _part("a", ": 1}", index=0, id="1"), _part("b", '{"y": 2}', index=1)],
    ],
)
async def test_however_a_server_tells_its_fragments_apart(parts: list[dict[str, Any]]) -> None:
    data = events(*parts, {"delta": {}, "finish_reason": "tool_calls"})
    chunks = await collect(engine_of(lambda _: httpx.Response(200, content=data)))
    assert [chunk.tool_call for chunk in chunks if chunk.tool_call] == [
        ToolCall("a", {"x": 1}),
        ToolCall("b", {"y": 2}),
    ]


@pytest.mark.parametrize("arguments", ['{"day": "mon', "[1]", "monday"])
async def test_arguments_that_are_no_json_object_are_handed_on_for_their_tool_to_refuse(arguments: str) -> None:
    data = events(_part("book", arguments, index=0), {"delta": {}, "finish_reason": "tool_calls"})
    chunks = await collect(engine_of(lambda _: httpx.Response(200, content=data)))
    assert [chunk.tool_call for chunk in chunks if chunk.tool_call] == [ToolCall("book", {"unreadable": arguments})]
    assert chunks[-1].finish_reason == "tool"


@pytest.mark.parametrize(("said", "reason"), [("stop", "stop"), ("length", "length"), ("content_filter", "stop")])
async def test_finish_reasons(said: str, reason: str) -> None:
    answer = events({"delta": {"content": "x"}, "finish_reason": said})
    assert (await collect(engine_of(lambda _: httpx.Response(200, content=answer))))[-1].finish_reason == reason


def _raise(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (lambda _: httpx.Response(401, text="no key"), EngineUnavailableError, "401: no key"),
        (lambda _: httpx.Response(404, text="no model"), EngineUnavailableError, "404"),
        (lambda _: httpx.Response(429, text="slow down"), EngineFailedError, "429: slow down"),
        (lambda _: httpx.Response(400, json={"error": {"message": "too long"}}), EngineFailedError, "400: too long"),
        (lambda _: httpx.Response(200, content=b'data: {"choices": []}\n\n'), EngineFailedError, "in the middle"),
        (_raise(httpx.ConnectTimeout("")), EngineUnavailableError, "out of reach: ConnectTimeout"),
        (lambda _: httpx.Response(500, text="x" * 9000), EngineFailedError, "500"),
        (lambda _: httpx.Response(200, content=b"data: {nonsense\n\n"), EngineFailedError, "no JSON object"),
        (lambda _: httpx.Response(200, content=b'data: {"error": "oom"}\n\n'), EngineFailedError, "oom"),
        (_raise(httpx.ConnectError("refused")), EngineUnavailableError, "out of reach"),
        (_raise(httpx.ReadTimeout("late")), DeadlineExceededError, "gave nothing for"),
        (_raise(httpx.RemoteProtocolError("cut")), EngineFailedError, "broke off"),
    ],
)
async def test_failures_are_ours_and_clear(answer: Any, error: type[VoiceAgentError], words: str) -> None:
    with pytest.raises(error, match=words) as raised:
        await collect(engine_of(answer))
    assert len(str(raised.value)) < 500


async def test_what_a_server_quotes_of_the_request_stays_there() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        detail = [{"loc": ["body", "messages"], "msg": "wrong", "input": json.loads(request.content)["messages"]}]
        return httpx.Response(422, json={"detail": detail})

    with pytest.raises(EngineFailedError) as raised:
        await collect(engine_of(answer))
    assert "open" not in str(raised.value)


def test_wrong_url_is_told() -> None:
    with pytest.raises(ConfigError, match="base_url"):
        OpenAIChat(base_url="model:8000", model="m")


async def test_closing_the_stream_closes_the_connection() -> None:
    """A real socket: the server sees the end of the connection while it still generates."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        writer.write(events({"delta": {"content": "One"}}).split(b"data: [DONE]")[0])
        await writer.drain()
        while await reader.read(65536):
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    stream: AsyncIterator[ReplyChunk] = OpenAIChat(base_url=f"http://127.0.0.1:{port}", model="m").reply(REQUEST)
    assert (await anext(stream)).text == "One"
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.wait_for(gone.wait(), 10)
    server.close()
    await server.wait_closed()


async def test_a_tools_result_stands_behind_the_request_for_it() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=events({"delta": {"content": "Sent."}, "finish_reason": "stop"}))

    told = {"tool": "look_up", "arguments": {"number": "7"}, "ok": True, "result": {"status": "sent"}, "error": ""}
    messages = (*REQUEST.messages, Message("tool", json.dumps(told)))
    engine = engine_of(answer)
    _ = [chunk async for chunk in engine.reply(ReplyRequest("call", 1, messages))]
    *_, asked, result = json.loads(seen[0].content)["messages"]
    (call,) = asked["tool_calls"]
    assert (asked["role"], call["function"]["name"]) == ("assistant", "look_up")
    assert json.loads(call["function"]["arguments"]) == {"number": "7"}
    assert (result["role"], result["tool_call_id"]) == ("tool", call["id"])
    assert json.loads(result["content"]) == {"ok": True, "result": {"status": "sent"}, "error": ""}


async def test_one_connection_serves_one_reply_after_the_other() -> None:
    """A new one would cost a round trip, and with TLS three."""
    connections = 0
    data = events({"delta": {"content": "One"}, "finish_reason": "stop"})

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            writer.write(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
            )
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = OpenAIChat(base_url=f"http://127.0.0.1:{port}", model="m")
    for _ in range(3):
        assert (await collect(engine))[-1].finish_reason == "stop"
    assert connections == 1
    await engine._client.aclose()
    server.close()
    await server.wait_closed()
