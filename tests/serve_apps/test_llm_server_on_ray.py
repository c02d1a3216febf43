"""The ``ray-serve-llm`` engine on a real Serve: the model is a deployment of the same application, asked by its handle.

The model is a stand-in with vLLM's place and manners: what is tested is that both are wired, and that hanging up
reaches the model.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from configs.runtime import StackContext
from configs.settings import LanguageModelSettings, Settings, SpeechToTextSettings, TextToSpeechSettings
from voice_agent.ports import Capabilities, Message, ReplyRequest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

FLAGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
}
WORDS = 400


def stand_in(options: Mapping[str, Any]) -> Any:
    """An application in place of ``serve_apps.llm_server.llm_server``'s."""
    from ray import serve

    class Model:
        """Says the caller's words again, one every 10 ms, and knows whether somebody listened to the end."""

        def __init__(self, name: str) -> None:
            self._name = name
            self._left: list[str] = []

        async def stream_chat(self, body: Mapping[str, Any]) -> AsyncIterator[list[str]]:
            import json

            left = True
            try:
                for word in [self._name, *str(body["messages"][-1]["content"]).split()]:
                    await asyncio.sleep(0.01)
                    choice = {"index": 0, "delta": {"content": f"{word} "}}
                    yield [f"data: {json.dumps({'choices': [choice]})}\n\n"]
                yield ["data: [DONE]\n\n"]
                left = False
            finally:
                if left:
                    self._left.append("left")

        async def left(self) -> int:
            return len(self._left)

    return serve.deployment(Model, name="Model", ray_actor_options={"num_cpus": 0.1}).bind(options["model"])


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The routers of the handles live on the loop that uses them, so it outlives Serve."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def llm(loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    """Handle of the ``llm`` application as ``build_apps`` makes it."""
    changes = pytest.MonkeyPatch()
    for name, value in FLAGS.items():
        changes.setenv(name, value)
    ray = pytest.importorskip("ray")
    from ray import serve

    from serve_apps.build import build_apps

    module = ModuleType("serve_apps.llm_server")
    module.llm_server = stand_in  # type: ignore[attr-defined]
    changes.setitem(sys.modules, "serve_apps.llm_server", module)
    folder = Path(tempfile.mkdtemp(prefix="va-ls-"))
    settings = Settings(
        stt=SpeechToTextSettings(engine="simulated"),
        llm=LanguageModelSettings(engine="ray-serve-llm", num_cpus=0.1, options={"model": "stand-in"}),
        tts=TextToSpeechSettings(engine="simulated"),
    )
    context = StackContext(
        settings=settings,
        run_id="run",
        run_dir=folder,
        data_dir=folder,
        dsn="",
        link_secret="",
        stream_token_secret="",
        api_key="",
        webhook_url="",
        media_url="",
    )
    try:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=str(folder / "r"),
            runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}},
        )
        serve.run(build_apps(context)["llm"], name="llm", route_prefix=None)
        yield serve.get_app_handle("llm")
    finally:
        if ray.is_initialized():
            loop.run_until_complete(serve.shutdown_async())
            ray.shutdown()
        changes.undo()
        shutil.rmtree(folder, ignore_errors=True)


async def talk(llm: Any) -> None:
    from ray import serve

    capabilities: Capabilities = await llm.capabilities.remote()
    assert (capabilities.name, capabilities.version) == ("ray-serve-llm", "stand-in")
    reply = llm.options(method_name="reply", stream=True)
    chunks = [chunk async for chunk in reply.remote(ReplyRequest("call", 1, (Message("user", "one two"),)))]
    assert "".join(chunk.text for chunk in chunks) == "stand-in one two "
    assert chunks[-1].finish_reason == "stop"

    model = serve.get_deployment_handle("Model", app_name="llm")
    assert await model.left.remote() == 0
    stream = reply.remote(ReplyRequest("call", 2, (Message("user", "word " * WORDS),)))
    await anext(aiter(stream))
    stream.cancel()
    for _ in range(400):
        if await model.left.remote():
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the model was not told that nobody listens any more")


def test_the_model_is_a_part_of_the_application(loop: asyncio.AbstractEventLoop, llm: Any) -> None:
    loop.run_until_complete(talk(llm))
