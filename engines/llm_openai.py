"""Any OpenAI-compatible chat endpoint (vLLM, Ray Serve LLM, a provider), streamed by server-sent events over httpx.

The client is httpx (BSD-3-Clause); the model behind the endpoint has a licence of its own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from engines.chat_completions import END_CALL, ERROR_CHARS, ChatOptions, ChatReply, error_text, sources_of
from voice_agent.errors import (
    ConfigError,
    DeadlineExceededError,
    EngineFailedError,
    EngineUnavailableError,
    VoiceAgentError,
)
from voice_agent.ports import Capabilities, ReplyChunk, ReplyRequest

_KEPT_CONNECTIONS = 64


@dataclass(kw_only=True)
class OpenAIChat:
    """Chat completions of one model; its fields are the engine's options.

    The passages are put at the end of the system message, each with its heading and document.

    Attributes:
        base_url: ends before ``/chat/completions``, as "http://vllm:8000/v1".
        model: as the endpoint calls it.
        api_key: sent as a bearer token; better from the environment (``VOICE_AGENT__LLM__OPTIONS__API_KEY``) than in a
            file. Empty: what stands in ``api_key_variable``.
        api_key_variable: environment variable, on the nodes of the replicas, that holds the key.
        tools: OpenAI tool definitions; by default the model can only hang up.
        temperature: 0 is always the likeliest word.
        max_tokens: longest reply.
        timeout_s: longest silence before the first words and between words.
        connect_timeout_s: longest wait for a connection.
        request_options: more of the request's fields; null takes one out.
        priorities: send vLLM's ``priority``, so that speculative replies wait for confirmed ones; the server must run
            with ``--scheduling-policy priority``.
        transport: for tests.

    Raises:
        ConfigError: ``base_url`` is no http(s) URL.
    """

    base_url: str
    model: str
    api_key: str = field(default="", repr=False)
    api_key_variable: str = "OPENAI_API_KEY"
    tools: Sequence[Mapping[str, Any]] = (END_CALL,)
    temperature: float = 0.3
    max_tokens: int = 200
    timeout_s: float = 10.0
    connect_timeout_s: float = 3.0
    request_options: Mapping[str, Any] = field(default_factory=dict)
    priorities: bool = False
    transport: httpx.AsyncBaseTransport | None = None

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"The openai engine's option base_url must be an http(s) URL, got {self.base_url!r}.")
        key = self.api_key or os.environ.get(self.api_key_variable, "")
        self._url = self.base_url.rstrip("/")
        self._options = ChatOptions(
            self.model, self.tools, self.temperature, self.max_tokens, self.request_options, self.priorities
        )
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(self.timeout_s, connect=min(self.connect_timeout_s, self.timeout_s)),
            # How many are open at once is the deployment's to bound; one more must not wait for another's end.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT_CONNECTIONS),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            transport=self.transport,
        )
        self._capabilities = Capabilities(name="openai", version=self.model)

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
        sources = sources_of(request)
        reply = ChatReply(sources)
        body = self._options.body(request)
        try:
            async with self._client.stream("POST", f"{self._url}/chat/completions", json=body) as answer:
                await _check(answer)
                # To the end, also behind [DONE]: only then the connection can be used again.
                async for line in answer.aiter_lines():
                    text = reply.take(line)
                    if text:
                        yield ReplyChunk(text=text, sources=sources)
        except httpx.HTTPError as error:
            raise self._ours(error) from error
        for chunk in reply.end():
            yield chunk

    def _ours(self, error: httpx.HTTPError) -> VoiceAgentError:
        where = f"The language model at {self._url}"
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return EngineUnavailableError(f"{where} is out of reach: {str(error) or type(error).__name__}.")
        if isinstance(error, httpx.TimeoutException):
            return DeadlineExceededError(f"{where} gave nothing for {self.timeout_s:g} s.")
        return EngineFailedError(f"{where} broke off: {str(error) or type(error).__name__}.")


async def _check(answer: httpx.Response) -> None:
    if answer.status_code < 400:
        return
    await answer.aread()
    try:
        body = answer.json()
        said = error_text(body) if isinstance(body, dict) else ""
    except ValueError:
        said = answer.text[:ERROR_CHARS]
    text = f"The language model at {answer.url} answered {answer.status_code}: {said}"
    if answer.status_code in (401, 403, 404):
        raise EngineUnavailableError(text)
    raise EngineFailedError(text)
