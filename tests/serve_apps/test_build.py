"""What a profile becomes on Serve, and the retriever as a plain class."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ingress_fakes import context

from configs.runtime import StackContext
from configs.settings import Settings
from serve_apps.build import build_apps, llm_options, stt_options
from voice_agent.errors import ConfigError, DocumentError, EngineUnavailableError
from voice_agent.ports import SearchRequest


def stack(folder: Path, **sections: dict[str, Any]) -> StackContext:
    return dataclasses.replace(context(), data_dir=folder, settings=Settings.model_validate(sections))


def test_recogniser_is_told_where_its_vocabulary_is(tmp_path: Path) -> None:
    assert stt_options(stack(tmp_path)) == {"vocabulary_dir": str(tmp_path / "vocabulary")}
    mine = {"vocabulary_dir": "/elsewhere", "padding_ms": 50}
    assert stt_options(stack(tmp_path, stt={"options": mine})) == mine
    assert stt_options(stack(tmp_path, stt={"engine": "simulated"})) == {}


def test_answerer_says_the_agents_phrases() -> None:
    settings = Settings.model_validate(
        {"agent": {"goodbye": "See you."}, "retriever": {"min_dense": 0.5}, "llm": {"options": {"unknown": "Hm?"}}}
    )
    options = llm_options(settings)
    assert (options["goodbye"], options["min_dense"], options["unknown"]) == ("See you.", 0.5, "Hm?")
    assert llm_options(Settings.model_validate({"llm": {"engine": "simulated"}})) == {}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"stt": {"engine": "nobody"}}, r"stt.engine: there is no stt engine 'nobody'; allowed: .*pocketsphinx"),
        ({"tts": {"engine": "nobody"}}, r"tts.engine: .*allowed: auto"),
        ({"retriever": {"engine": "nobody"}}, r"retriever.engine: .*minilm"),
        ({"retriever": {"replicas": 2}}, r"retriever.replicas must be 1 .*kb.qdrant_url"),
        ({"retriever": {"max_replicas": 2}}, r"retriever.replicas must be 1"),
    ],
)
def test_what_cannot_work_is_told_before_anything_starts(tmp_path: Path, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_apps(stack(tmp_path, **sections))


async def test_retriever_brings_in_searches_lists_and_removes(tmp_path: Path) -> None:
    from serve_apps.retriever import Retriever

    document = tmp_path / "hours.md"
    document.write_text("# Hours\n\nThe shop opens at nine in the morning.\n\nWe close at six in the evening.\n")
    try:
        retriever = Retriever(stack(tmp_path / "data"), root=str(tmp_path))
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    report = await retriever.ingest([str(document)])
    assert report["added"] == ["hours.md"]
    assert (tmp_path / "data" / "vocabulary" / "current").read_text().strip()
    found = await retriever.search(SearchRequest("call", "when does the shop open"))
    assert found.passages[0].sentence == "The shop opens at nine in the morning."
    assert [entry["source"] for entry in await retriever.documents()] == ["hours.md"]
    assert (await retriever.capabilities()).version == found.kb_version
    with pytest.raises(DocumentError, match="no document"):
        await retriever.remove("nothing.md")
    assert (await retriever.remove("hours.md"))["removed"] == ["hours.md"]
    assert (await retriever.search(SearchRequest("call", "when does the shop open"))).passages == ()
