"""OpenAI's chat completions as every server of them speaks: requests out of a dialog, replies out of events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from voice_agent.errors import EngineFailedError
from voice_agent.ports import Message, Passage, ReplyChunk, ReplyRequest, ToolCall
from voice_agent.tools import UNREADABLE

END_CALL: Final[Mapping[str, Any]] = {
    "type": "function",
    "function": {
        "name": "end_call",
        "description": "Hang up. Only after the caller has said goodbye or wants nothing more.",
        "parameters": {"type": "object", "properties": {}},
    },
}
DONE: Final = "[DONE]"
ERROR_CHARS: Final = 300
UNREADABLE_CHARS: Final = 500
_FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool", "function_call": "tool", "content_filter": "stop"}
_PASSAGES = "Passages of the knowledge base, with heading and document. Never say their numbers or document names."


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What every request of an engine has in common.

    Attributes:
        model: as the server calls it.
        tools: OpenAI tool definitions.
        temperature: 0 is always the likeliest word.
        max_tokens: longest reply.
        request_options: more of the request's fields; null takes one out.
        priorities: send vLLM's ``priority``, so that speculative replies wait for confirmed ones; the server must run
            with ``scheduling_policy: priority``.
    """

    model: str
    tools: Sequence[Mapping[str, Any]]
    temperature: float
    max_tokens: int
    request_options: Mapping[str, Any]
    priorities: bool

    def body(self, request: ReplyRequest) -> dict[str, Any]:
        """The request for a streamed reply."""
        fields: dict[str, Any] = {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            **self.request_options,
            "model": self.model,
            "stream": True,
            "messages": messages_of(request.messages, request.passages),
        }
        if self.tools:
            fields["tools"] = [dict(tool) for tool in self.tools]
        if self.priorities:
            fields["priority"] = int(request.speculative)
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(slots=True)
class _Call:
    """A tool call as far as it has come. Servers number calls, or give each an id, or both, or send one by one."""

    index: int | None
    id: str
    name: str = ""
    arguments: str = ""

    def goes_on(self, index: int | None, call_id: str) -> bool:
        """Is a fragment with these a part of this call?"""
        return (index is None or index == self.index) and (not call_id or call_id == self.id)


@dataclass(slots=True)
class ChatReply:
    """What has come of one reply: tool calls arrive in fragments."""

    sources: tuple[str, ...]
    finish_reason: str = ""
    done: bool = False
    _calls: list[_Call] = field(default_factory=list)

    def take(self, line: str) -> str:
        """A line of the server-sent events; the text in it, empty when there is none.

        Raises:
            EngineFailedError: the event is no JSON object, or reports an error.
        """
        field_name, _, data = line.partition(":")
        if field_name != "data" or self.done:
            return ""
        if data.strip() == DONE:
            self.done = True
            return ""
        event = json_object(data, "an event")
        if "error" in event:
            raise EngineFailedError(f"The language model failed: {error_text(event)}")
        return "".join(self._choice(choice) for choice in event.get("choices") or ())

    def _choice(self, choice: Mapping[str, Any]) -> str:
        delta = choice.get("delta") or {}
        for part in delta.get("tool_calls") or ():
            self._fragment(part.get("index"), part.get("id") or "", part.get("function") or {})
        self.finish_reason = _FINISH.get(choice.get("finish_reason") or "", self.finish_reason)
        return str(delta.get("content") or "")

    def _fragment(self, index: int | None, call_id: str, function: Mapping[str, Any]) -> None:
        call = next((known for known in reversed(self._calls) if known.goes_on(index, call_id)), None)
        if call is None:
            call = _Call(index, call_id)
            self._calls.append(call)
        name = function.get("name") or ""
        call.name += name if name != call.name else ""  # some say the whole name with every fragment
        call.arguments += function.get("arguments") or ""

    def end(self) -> Iterator[ReplyChunk]:
        """The tool calls, and the finish reason on the last chunk.

        Raises:
            EngineFailedError: the stream ended in the middle.
        """
        if not self.done and not self.finish_reason:
            raise EngineFailedError("The language model broke off in the middle of a reply.")
        for call in sorted(self._calls, key=lambda call: call.index or 0):
            yield ReplyChunk(tool_call=ToolCall(call.name, _arguments(call.arguments)))
        yield ReplyChunk(sources=self.sources, finish_reason="tool" if self._calls else self.finish_reason or "stop")


def sources_of(request: ReplyRequest) -> tuple[str, ...]:
    """The documents of the passages, each once."""
    return tuple(dict.fromkeys(passage.source for passage in request.passages))


def messages_of(messages: Sequence[Message], passages: Sequence[Passage]) -> list[dict[str, Any]]:
    """The dialog as a server takes it, the passages at the end of the one system message it starts with."""
    system = [message.content for message in messages if message.role == "system"]
    if passages:
        system.append("\n".join([_PASSAGES, *map(_listed, range(1, len(passages) + 1), passages)]))
    dialog: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        if message.role == "tool":
            dialog += _tool_messages(message.content, f"call_{number}")
        elif message.role != "system":
            dialog.append({"role": message.role, "content": message.content})
    return [{"role": "system", "content": "\n\n".join(system)}, *dialog] if system else dialog


def error_text(body: Mapping[str, Any]) -> str:
    """What a server says went wrong, without what it may quote of the request: that is the caller's."""
    error = body.get("error", body)
    said = error if isinstance(error, str) else (error.get("message") or error.get("detail"))
    return said[:ERROR_CHARS] if isinstance(said, str) else "it gave no reason in words"


def json_object(text: str, what: str) -> Mapping[str, Any]:
    """The JSON object in ``text``.

    Raises:
        EngineFailedError: it is none. The text is not quoted: it may hold what was said.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise EngineFailedError(f"The language model sent {what} that is no JSON object.")
    return value


def _listed(number: int, passage: Passage) -> str:
    heading = f"{passage.heading}, " if passage.heading else ""
    return f"[{number}] ({heading}{passage.source}) {passage.text}"


def _tool_messages(content: str, call_id: str) -> list[dict[str, Any]]:
    """A tool's result, behind the assistant's request for it: servers refuse a result that nobody asked for."""
    told = json_object(content, "the result of a tool")
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


def _arguments(text: str) -> Mapping[str, Any]:
    """As parsed JSON. What is no JSON object is handed on: its tool refuses it, and the model is told and may mend."""
    try:
        value = json.loads(text) if text.strip() else {}
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {UNREADABLE: text[:UNREADABLE_CHARS]}
