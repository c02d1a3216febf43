"""The retriever of a Qdrant server that is killed and comes back, which a stand-in is; the rest is in test_build."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from pathlib import Path

import pytest
from ingress_fakes import context

import serve_apps.retriever
from configs.settings import Settings
from loadtest.qdrant_stand_in import QdrantStandIn
from serve_apps.retriever import Retriever
from voice_agent.errors import EngineUnavailableError
from voice_agent.ports import COPY, SearchRequest

QUESTION = SearchRequest("call", "when does the shop open")


async def test_questions_are_answered_while_the_server_is_dead_and_the_log_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serve_apps.retriever, "_ASK_AGAIN_S", 0.1)
    caplog.set_level("INFO")
    document = tmp_path / "hours.md"
    document.write_text("# Hours\n\nThe shop opens at nine in the morning.\n")

    def told(*words: str) -> list[str]:
        return [record.message for record in caplog.records if any(word in record.message for word in words)]

    async def until_told(*words: str) -> None:
        async with asyncio.timeout(60):
            while not told(*words):  # noqa: ASYNC110  a log has no event
                await asyncio.sleep(0.05)

    with QdrantStandIn(tmp_path / "qdrant", back_after_s=1.0) as server:
        settings = Settings.model_validate({"kb": {"qdrant_url": server.url}})
        try:
            retriever = Retriever(dataclasses.replace(context(), data_dir=tmp_path / "data", settings=settings))
        except EngineUnavailableError as error:
            pytest.skip(str(error))
        await until_told("copied")
        caplog.clear()
        await retriever.ingest([str(document)])
        await until_told("copied")
        before = await retriever.search(QUESTION)
        assert before.engine == settings.retriever.engine
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        during = [await retriever.search(QUESTION) for _ in range(3)]
        assert {found.engine for found in during} == {COPY}
        assert {found.passages[0].sentence for found in during} == {"The shop opens at nine in the morning."}
        await until_told("is back")
        after = await retriever.search(QUESTION)
        assert after.engine == settings.retriever.engine
    assert told("away", "back") == ["vector store away, a copy of it answers", "vector store is back"]
