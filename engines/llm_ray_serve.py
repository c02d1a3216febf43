"""A model served by vLLM inside the cluster: ``ray.serve.llm``, asked through a Serve handle and not over HTTP.

The deployment of the model is made by ``serve_apps.llm_server``, which hands its handle to this engine: nothing of vLLM
is imported here, so the replicas in front of the model need no GPU node. vLLM and Ray are Apache-2.0; the model has a
licence of its own. With the extra ``gpu-llm`` on the GPU nodes and where the stack is started.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from engines.chat_completions import END_CALL, ChatOptions, ChatReply, sources_of
from voice_agent.errors import ConfigError, DeadlineExceededError, EngineFailedError
from voice_agent.ports import Capabilities, ReplyChunk, ReplyRequest


@dataclass(kw_only=True)
class RayServeChat:
    """Chat completions of a model in the cluster; its fields are the engine's options.

    Attributes:
        model: hub name of the model, and what requests call it.
        llm_config: more fields of ``ray.serve.llm.LLMConfig``: ``accelerator_type``, ``engine_kwargs`` (vLLM's own
            options; prefix caching is on unless they say otherwise), ``deployment_config`` (replicas, autoscaling),
            ``model_loading_config.model_source`` (a folder or bucket), ``runtime_env``.
        tools: OpenAI tool definitions; by default the model can only hang up. vLLM takes them with the
            ``engine_kwargs`` ``enable_auto_tool_choice: true`` and a ``tool_call_parser`` for the model.
        temperature: 0 is always the likeliest word.
        max_tokens: longest reply.
        timeout_s: longest silence before the first words and between words.
        request_options: more of the request's fields; null takes one out.
        priorities: speculative replies wait for confirmed ones; needs the ``engine_kwargs`` ``scheduling_policy:
            priority``.
        server: the model's handle; the stack puts it here.

    Raises:
        ConfigError: there is no ``server``.
    """

    model: str
    llm_config: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = (END_CALL,)
    temperature: float = 0.3
    max_tokens: int = 200
    timeout_s: float = 10.0
    request_options: Mapping[str, Any] = field(default_factory=dict)
    priorities: bool = False
    server: Any = None

    def __post_init__(self) -> None:
        if self.server is None:
            raise ConfigError(
                "The ray-serve-llm engine runs only in a stack, which serves its model too; for a model that is served"
                " already take the openai engine."
            )
        self._options = ChatOptions(
            self.model, self.tools, self.temperature, self.max_tokens, self.request_options, self.priorities
        )
        self._capabilities = Capabilities(name="ray-serve-llm", version=self.model)

    @property
    def capabilities(self) -> Capabilities:
        """Static facts about the engine; ``version`` is the model's name."""
        return self._capabilities

    async def reply(self, request: ReplyRequest) -> AsyncIterator[ReplyChunk]:
        """Stream the reply. Closing the iterator cancels the request, and with it the generation.

        Raises:
            EngineFailedError: the model failed, or broke off in the middle.
            DeadlineExceededError: nothing came for ``timeout_s``.
        """
        sources = sources_of(request)
        reply = ChatReply(sources)
        stream = self.server.options(stream=True).stream_chat.remote(self._options.body(request))
        try:
            async for events in self._batches(stream):
                text = "".join(reply.take(line) for event in events for line in event.splitlines())
                if text:
                    yield ReplyChunk(text=text, sources=sources)
        finally:
            # Without effect on a stream that has ended.
            stream.cancel()
        for chunk in reply.end():
            yield chunk

    async def _batches(self, stream: Any) -> AsyncIterator[Sequence[str]]:
        """Batches of server-sent events, as the server gathers them."""
        while True:
            try:
                async with asyncio.timeout(self.timeout_s):
                    events = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise DeadlineExceededError(f"{self.model} gave nothing for {self.timeout_s:g} s.") from error
            except (RayError, RayServeException) as error:
                raise EngineFailedError(f"{self.model} could not be asked: {type(error).__name__}.") from error
            yield events
