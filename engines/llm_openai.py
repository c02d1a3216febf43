"""Any OpenAI-compatible chat endpoint (vLLM, Ray Serve LLM, a provider), streamed by server-sent events over httpx."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from voice_agent.errors import ConfigError, DeadlineExceededError, EngineFailedError, EngineUnavailableError
from voice_agent.ports import Capabilities, Message, Passage, ReplyChunk, ReplyRequest, ToolCall

END_CALL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "end_call",
        "description": "Hang up. Only after the caller has said goodbye or wants nothing more.",
        "parameters": {"type": "object", "properties": {}},
    },
}
_FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool", "function_call": "tool", "content_filter": "stop"}
_ERROR_CHARS = 300


@dataclass(slots=True)
class _Stream:
    """What has come of one reply: tool calls arrive in fragments."""

    sources: tuple[str, ...]
    finish_reason: str = ""
    calls: dict[int, dict[str, str]] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> str:
        """One event; the text in it."""
        text = ""
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            text += delta.get("content") or ""
            for part in delta.get("tool_calls") or ():
                call = self.calls.setdefault(part.get("index", 0), {"name": "", "arguments": ""})
                function = part.get("function") or {}
                call["name"] += function.get("name") or ""
                call["arguments"] += function.get("arguments") or ""
            self.finish_reason = _FINISH.get(choice.get("finish_reason") or "", self.finish_reason)
        return text

    def end(self) -> list[ReplyChunk]:
        """The tool calls, and the finish reason on the last chunk.

        Raises:
            EngineFailedError: a tool call's arguments are no JSON object.
        """
        chunks = [
            ReplyChunk(tool_call=ToolCall(call["name"], _arguments(call["name"], call["arguments"])))
            for _, call in sorted(self.calls.items())
        ]
        reason = "tool" if chunks else self.finish_reason or "stop"
        return [*chunks, ReplyChunk(sources=self.sources, finish_reason=reason)]


class OpenAIChat:
    """Chat completions of one model.

    ``base_url`` ends before ``/chat/completions``. The key is read from the environment variable ``api_key_variable``
    and never stands in a profile. The passages are put at the end of the system message.
    ``tools`` are OpenAI tool definitions; by default the model can only hang up.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key_variable: str = "OPENAI_API_KEY",
        tools: Sequence[Mapping[str, Any]] = (END_CALL,),
        timeout_s: float = 10.0,
        request_options: Mapping[str, Any] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"The openai engine's option base_url must be an http(s) URL, got {base_url!r}.")
        key = os.environ.get(api_key_variable, "")
        self._url = base_url.rstrip("/")
        self._model = model
        self._tools = [dict(tool) for tool in tools]
        self._request_options = dict(request_options or {"temperature": 0.3, "max_tokens": 200})
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout_s, connect=min(3.0, timeout_s)),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            transport=transport,
        )
        self._capabilities = Capabilities(name="openai", version=model)

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine; ``version`` is the model's name."""
        return self._capabilities

    async def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        """Stream the reply. Closing the iterator closes the connection, which cancels the generation.

        Raises:
            EngineUnavailableError: the endpoint is out of reach, or refuses the key or the model.
            EngineFailedError: it failed, or broke off in the middle.
            DeadlineExceededError: nothing came for ``timeout_s``.
        """
        sources = tuple(dict.fromkeys(passage.source for passage in request.passages))
        stream = _Stream(sources)
        try:
            async with self._client.stream("POST", f"{self._url}/chat/completions", json=self._body(request)) as answer:
                await _check(answer)
                async for event in _events(answer):
                    text = stream.take(event)
                    if text:
                        yield ReplyChunk(text=text, sources=sources)
        except httpx.ConnectError as error:
            raise EngineUnavailableError(f"The language model at {self._url} is out of reach: {error}.") from error
        except httpx.TimeoutException as error:
            raise DeadlineExceededError(
                f"The language model at {self._url} gave nothing for {self._timeout_s} s."
            ) from error
        except httpx.HTTPError as error:
            raise EngineFailedError(f"The language model at {self._url} broke off: {error}.") from error
        for chunk in stream.end():
            yield chunk

    def _body(self, request: ReplyRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            **self._request_options,
            "model": self._model,
            "stream": True,
            "messages": _messages(request.messages, request.passages),
        }
        if self._tools:
            body["tools"] = self._tools
        return body


def _messages(messages: Sequence[Message], passages: Sequence[Passage]) -> list[dict[str, Any]]:
    """The dialog as the endpoint takes it, the passages at the end of the one system message it starts with."""
    system = [message.content for message in messages if message.role == "system"]
    if passages:
        listed = "\n".join(f"[{number}] {passage.text}" for number, passage in enumerate(passages, start=1))
        system.append(f"Passages:\n{listed}")
    dialog: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        if message.role == "tool":
            dialog += _tool_messages(message.content, f"call_{number}")
        elif message.role != "system":
            dialog.append({"role": message.role, "content": message.content})
    return [{"role": "system", "content": "\n\n".join(system)}, *dialog] if system else dialog


def _tool_messages(content: str, call_id: str) -> list[dict[str, Any]]:
    """A tool's result, behind the assistant's request for it: endpoints refuse a result that nobody asked for."""
    told = _object(content, "the result of a tool")
    function = {"name": str(told.get("tool", "")), "arguments": json.dumps(told.get("arguments") or {})}
    result = {key: told[key] for key in ("ok", "result", "error") if key in told}
    return [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call_id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call_id, "content": json.dumps(result)},
    ]


async def _check(answer: httpx.Response) -> None:
    if answer.status_code < 400:
        return
    said = (await answer.aread()).decode(errors="replace")[:_ERROR_CHARS]
    text = f"The language model at {answer.url} answered {answer.status_code}: {said}"
    if answer.status_code in (401, 403, 404):
        raise EngineUnavailableError(text)
    raise EngineFailedError(text)


async def _events(answer: httpx.Response) -> AsyncIterator[Mapping[str, Any]]:
    """JSON of the server-sent events up to ``[DONE]``.

    Raises:
        EngineFailedError: an event is no JSON object, or reports an error.
    """
    async for line in answer.aiter_lines():
        field_name, _, data = line.partition(":")
        if field_name != "data":
            continue
        if data.strip() == "[DONE]":
            return
        event = _object(data, "an event")
        if "error" in event:
            raise EngineFailedError(f"The language model failed: {str(event['error'])[:_ERROR_CHARS]}")
        yield event


def _arguments(name: str, text: str) -> Mapping[str, Any]:
    return _object(text, f"arguments of the tool {name}") if text.strip() else {}


def _object(text: str, what: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise EngineFailedError(f"The language model sent {what} that is no JSON object.")
    return value
