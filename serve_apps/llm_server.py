"""The deployment behind the ``ray-serve-llm`` engine: vLLM by ``ray.serve.llm``. Imports it, so import this late."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray.serve import Application
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer

from voice_agent.errors import ConfigError

# Ray gathers a stream's events for this long. Its default of 50 ms is 50 ms of silence before the first word.
_GATHER_MS = 10


class ChatServer(LLMServer):
    """The model. Requests come as plain data, so that who asks needs no vLLM."""

    async def stream_chat(self, body: Mapping[str, Any]) -> AsyncIterator[list[str]]:
        """Server-sent events of the reply to a chat completion request, in batches. Failures are events too."""
        from ray.serve.llm.openai_api_models import ChatCompletionRequest

        async for batch in await self.chat(ChatCompletionRequest.model_validate(dict(body))):
            events = batch if isinstance(batch, list) else [batch]
            yield [event if isinstance(event, str) else f"data: {event.model_dump_json()}\n\n" for event in events]


def llm_server(options: Mapping[str, Any]) -> Application:
    """The model of the ``ray-serve-llm`` engine's options as a part of the ``llm`` application.

    Raises:
        ConfigError: the options make no LLMConfig.
    """
    return build_llm_deployment(llm_config(options), deployment_cls=ChatServer)


def llm_config(options: Mapping[str, Any]) -> LLMConfig:
    """Ray's configuration of the model: ``llm_config`` of the options over what a voice agent wants.

    Raises:
        ConfigError: a field is not known to Ray or has a wrong value.
    """
    given = dict(options.get("llm_config") or {})
    wanted: dict[str, Mapping[str, Any]] = {
        "model_loading_config": {"model_id": options.get("model", "")},
        # The system prompt and the dialog so far are the same from one turn to the next.
        "engine_kwargs": {"enable_prefix_caching": True},
        "experimental_configs": {"stream_batching_interval_ms": _GATHER_MS},
    }
    for name, values in wanted.items():
        given[name] = {**values, **(given.get(name) or {})}
    try:
        return LLMConfig(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"llm.options.llm_config is no LLMConfig of ray.serve.llm: {error}") from error
