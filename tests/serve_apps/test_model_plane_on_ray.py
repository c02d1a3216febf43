"""The model plane on a real Serve, with simulated engines: sticky sessions, streams, cancelling, a killed replica.

And the ``ray-serve-llm`` engine: the model is a deployment of the same application, asked by its handle. The model is
a stand-in with vLLM's place and manners: what is tested is that both are wired, and that hanging up reaches the model.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from configs.runtime import StackContext
from configs.settings import LanguageModelSettings, Settings, SpeechToTextSettings, TextToSpeechSettings
from voice_agent.ports import (
    Capabilities,
    Message,
    ReplyRequest,
    SpeakRequest,
    TranscribeRequest,
    TranscribeResponse,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

FLAGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
}
PIECE = bytes(1600)
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
def folder() -> Iterator[Path]:
    """A short path: below it Ray puts Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="va-mp-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def handles(loop: asyncio.AbstractEventLoop, folder: Path) -> Iterator[dict[str, Any]]:
    """Handles of the applications, without the retriever, which needs files; ``models`` is a second ``llm``."""
    flags = pytest.MonkeyPatch()
    for name, value in FLAGS.items():
        flags.setenv(name, value)
    ray = pytest.importorskip("ray")
    from ray import serve

    from serve_apps.build import build_apps

    module = ModuleType("serve_apps.llm_server")
    module.llm_server = stand_in  # type: ignore[attr-defined]
    flags.setitem(sys.modules, "serve_apps.llm_server", module)
    small = {"engine": "simulated", "num_cpus": 0.1}
    settings = Settings(
        stt=SpeechToTextSettings(**small, replicas=2, options={"final_ms": 5, "texts": ["one two three"]}),
        llm=LanguageModelSettings(**small, options={"first_token_ms": 5, "word_ms": 5}),
        tts=TextToSpeechSettings(**small, voice="nobody", options={"first_audio_ms": 5, "speed": 100}),
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
    served = LanguageModelSettings(engine="ray-serve-llm", num_cpus=0.1, options={"model": "stand-in"})
    try:
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=str(folder / "r"),
            runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}},
        )
        applications = build_apps(context)
        assert next(iter(applications)) == "retriever", "its ingest writes what the recogniser needs to start"
        targets = [serve.RunTarget(applications[name], name=name, route_prefix=None) for name in ("stt", "llm", "tts")]
        models = build_apps(replace(context, settings=settings.model_copy(update={"llm": served})))["llm"]
        serve.run_many([*targets, serve.RunTarget(models, name="models", route_prefix=None)])
        yield {target.name: serve.get_app_handle(target.name) for target in targets} | {
            "models": serve.get_app_handle("models")
        }
    finally:
        if ray.is_initialized():
            loop.run_until_complete(serve.shutdown_async())
            ray.shutdown()
        flags.undo()


async def transcribe(handle: Any, call_id: str, offset: int, **fields: Any) -> TranscribeResponse:
    """As a call does it: to the replica of the call, if there is one."""
    request = TranscribeRequest(call_id, 1, offset, PIECE, **fields)
    response: TranscribeResponse = await handle.options(session_id=call_id).transcribe.remote(request)
    return response


async def talk(handle: Any, call_id: str, pieces: int = 8) -> list[TranscribeResponse]:
    return [
        await transcribe(handle, call_id, number * len(PIECE), flush=number == pieces - 1) for number in range(pieces)
    ]


async def use_everything(handles: dict[str, Any]) -> None:
    from ray.serve.exceptions import RequestCancelledError

    for name in ("stt", "llm", "tts"):
        handle = handles[name]
        capabilities: Capabilities = await handle.capabilities.remote()
        assert (capabilities.name, capabilities.simulated) == ("simulated", True), name

    calls = [f"call-{number}" for number in range(8)]
    for answers in await asyncio.gather(*(talk(handles["stt"], call_id) for call_id in calls)):
        assert [answer.need_from for answer in answers] == [None] * 8, "a call stays with its replica"
        assert answers[-1].text == "one two three"
    held = {}
    for number in range(64):
        # Requests of nobody's session go to any replica, so both are seen.
        nobody = handles["stt"].options(session_id=f"nobody-{number}")
        held[number] = await nobody.open_sessions.remote()
    assert 0 < min(held.values()) <= max(held.values()) < len(calls), "calls are spread over the replicas"

    speak = handles["tts"].options(method_name="speak", stream=True)
    speech = [chunk async for chunk in speak.remote(SpeakRequest("call", 1, 1, "one two three"))]
    assert speech[-1].last
    assert sum(len(chunk.audio) for chunk in speech) == 3 * 350 * 8

    reply = handles["llm"].options(method_name="reply", stream=True)
    request = ReplyRequest("call", 1, (Message("user", "hello"),))
    chunks = [chunk async for chunk in reply.remote(request)]
    assert len("".join(chunk.text for chunk in chunks).split()) == 40
    assert chunks[-1].finish_reason == "stop"
    assert len(chunks) < 40, "words behind the first clause are gathered"
    stream = reply.remote(request)
    assert (await anext(aiter(stream))).text
    stream.cancel()
    with pytest.raises((asyncio.CancelledError, RequestCancelledError)):
        async for _ in stream:
            pass


async def lose_a_replica(handle: Any) -> None:
    """The other replica, or the new one, lacks the state, says so, and takes the utterance from the start."""
    from ray.exceptions import RayError

    await transcribe(handle, "victim", 0)
    pid = await handle.options(session_id="victim").process_id.remote()
    os.kill(pid, signal.SIGKILL)
    answer = None
    async with asyncio.timeout(60):
        while answer is None:
            try:
                answer = await transcribe(handle, "victim", len(PIECE))
            except RayError:  # it is dead, and the router does not know yet
                await asyncio.sleep(0.05)
    assert answer.need_from == 0
    assert (await talk(handle, "victim"))[-1].text == "one two three"


def test_the_model_plane_on_serve(loop: asyncio.AbstractEventLoop, handles: dict[str, Any]) -> None:
    async def both() -> None:
        await use_everything(handles)
        await lose_a_replica(handles["stt"])

    loop.run_until_complete(both())


def test_a_replica_logs_no_request_and_warns_on_its_standard_error(
    loop: asyncio.AbstractEventLoop, handles: dict[str, Any], folder: Path
) -> None:
    async def ask() -> None:
        await handles["tts"].capabilities.remote()

    loop.run_until_complete(ask())
    logs = folder / "r" / "session_latest" / "logs"
    assert [log.name for log in (logs / "serve").glob("replica_tts_*.log") if "capabilities" not in log.read_text()]
    assert [log.name for log in logs.glob("worker-*.err") if "voice is not known" in log.read_text()]


async def talk_to_a_model(llm: Any) -> None:
    from ray import serve

    capabilities: Capabilities = await llm.capabilities.remote()
    assert (capabilities.name, capabilities.version) == ("ray-serve-llm", "stand-in")
    reply = llm.options(method_name="reply", stream=True)
    chunks = [chunk async for chunk in reply.remote(ReplyRequest("call", 1, (Message("user", "one two"),)))]
    assert "".join(chunk.text for chunk in chunks) == "stand-in one two "
    assert chunks[-1].finish_reason == "stop"

    model = serve.get_deployment_handle("Model", app_name="models")
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


def test_the_model_is_a_part_of_the_application(loop: asyncio.AbstractEventLoop, handles: dict[str, Any]) -> None:
    loop.run_until_complete(talk_to_a_model(handles["models"]))
