"""The OpenAI-compatible client against a real server: ``transformers serve`` with a tiny model of random weights."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest
from test_conformance_llm import (  # noqa: F401 - pytest collects them for the fixture `engine` below
    ask,
    collect,
    test_any_turn_gets_a_finished_reply,
    test_cancelling_the_reader_leaves_no_task,
    test_capabilities_are_honest,
    test_only_the_last_chunk_finishes,
    test_sources_are_documents_that_were_given,
)
from tiny_llama import tiny_llama

from engines import registry
from engines.llm_openai import OpenAIChat
from voice_agent.errors import EngineFailedError, EngineUnavailableError

MISSING = [name for name in ("torch", "transformers", "openai", "uvicorn") if importlib.util.find_spec(name) is None]
START_S = 120


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Base URL and model of a server that runs while the module's tests do."""
    command = Path(sys.executable).parent / "transformers"
    if MISSING or not command.is_file():
        pytest.skip(f"not installed: {', '.join(MISSING) or 'transformers serve'} (transformers[serving])")
    model = tiny_llama(tmp_path_factory.mktemp("llama"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [command, "serve", model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(log.parent), "OMP_NUM_THREADS": "1"},
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1", model
    finally:
        process.terminate()
        process.wait(20)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + START_S
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            pytest.fail(f"transformers serve ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            if httpx.get(url, timeout=5).status_code < 500:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    pytest.fail(f"transformers serve did not start: {log.read_text()[-2000:]}")


@pytest.fixture
def engine(server: tuple[str, Path]) -> OpenAIChat:
    """Greedy, 24 tokens, no tools: the model's template knows none."""
    url, model = server
    options = {"base_url": url, "model": str(model), "temperature": 0, "max_tokens": 24, "tools": (), "timeout_s": 60}
    loaded: OpenAIChat = registry.load("llm", "openai", options)
    return loaded


async def test_the_same_question_gets_the_same_reply_in_pieces(engine: OpenAIChat) -> None:
    first, second = [await collect(engine.reply(ask("can i return something"))) for _ in range(2)]
    assert "".join(chunk.text for chunk in first) == "".join(chunk.text for chunk in second)
    assert len(first) > 3
    assert first[-1].finish_reason in ("length", "stop")


async def test_the_passages_reach_the_model(engine: OpenAIChat) -> None:
    """Random weights answer in another way to another prompt."""
    texts = [
        "".join([chunk.text async for chunk in engine.reply(ask("can i return something", passages=passages))])
        for passages in (ask("").passages, ())
    ]
    assert texts[0] != texts[1]


async def test_closing_early_leaves_server_and_client_usable(engine: OpenAIChat) -> None:
    for _ in range(3):
        async with aclosing(engine.reply(ask("can i return something"))) as stream:  # type: ignore[type-var]
            assert (await anext(stream)).text
    assert (await collect(engine.reply(ask("can i return something"))))[-1].finish_reason


async def test_a_model_that_is_not_there_is_told(server: tuple[str, Path]) -> None:
    engine = OpenAIChat(base_url=server[0], model="nobody/nothing", timeout_s=60)
    with pytest.raises((EngineFailedError, EngineUnavailableError)):
        await collect(engine.reply(ask("hello")))
