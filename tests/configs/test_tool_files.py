"""Tools in YAML: what ships, what a user writes, and where a mistake is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.loader import resolve
from configs.settings import Settings
from configs.tool_files import OPTIONS, load_tools
from voice_agent import tools
from voice_agent.errors import ConfigError
from voice_agent.tools import Parameter

DOCS = Path(__file__).parents[2] / "docs" / "tools.md"


def settings(**section: Any) -> Settings:
    return Settings.model_validate({"tools": section})


def written(folder: Path, text: str) -> Settings:
    path = folder / "mine.yaml"
    path.write_text("tools:\n" + text)
    return settings(files=[path])


def test_what_ships_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    specs = {spec.name: spec for spec in load_tools(Settings())}
    assert list(specs) == ["end_call", "transfer", "send_dtmf", "look_up_order", "take_message"]
    assert specs["look_up_order"].read_only
    assert "$1" in specs["look_up_order"].options["query"]
    assert not tools.usable(specs["transfer"])
    assert tools.usable(specs["send_dtmf"])


def test_later_files_and_settings_replace_by_name(tmp_path: Path) -> None:
    mine = written(tmp_path, "  end_call: {kind: end_call, description: Bye}\n")
    both = settings(
        files=[Path("configs/tools/default.yaml"), *mine.tools.files],
        inline={"send_dtmf": {"kind": "send_dtmf", "description": "Keys"}},
    )
    described = {spec.name: spec.description for spec in load_tools(both)}
    assert (described["end_call"], described["send_dtmf"]) == ("Bye", "Keys")
    assert len(described) == 5


def test_a_query_takes_its_parameters_by_place(tmp_path: Path) -> None:
    text = """
  find:
    kind: sql
    parameters: {city: {}, most: {type: integer, required: false}}
    query: SELECT a::text AS a FROM t WHERE most < :most AND city = :city OR other = :city
"""
    (spec,) = load_tools(written(tmp_path, text))
    assert spec.options["query"] == "SELECT a::text AS a FROM t WHERE most < $1 AND city = $2 OR other = $2"
    assert spec.options["arguments"] == "most,city"
    assert spec.parameters == (Parameter("city"), Parameter("most", "integer", required=False))


def test_transfer_offers_the_listed_targets() -> None:
    (spec,) = [
        spec
        for spec in load_tools(settings(transfer_targets={"sales": "+15550100", "desk": "sip:a@b"}))
        if spec.kind == "transfer"
    ]
    assert spec.parameters[0].choices == ("sales", "desk")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("  Book: {kind: http}", 2, "Book: a name of small letters"),
        ("  book: 3", 2, "book: a mapping is wanted"),
        ("  book: {}", 2, "kind: one of end_call, .*http is wanted"),
        ("  book:\n    kind: shell", 3, "kind: one of"),
        ("  hang_up: {kind: end_call}", 2, "call it so"),
        ("  end_call:\n    kind: end_call\n    url: x", 4, "url: there is no such key"),
        ("  transfer:\n    kind: transfer\n    parameters: {a: {}}", 4, "parameters of its own"),
        ("  book:\n    kind: http\n    timeout_ms: 0", 4, "timeout_ms: a whole number from 1 to"),
        ("  book:\n    kind: http\n    timeout_ms: true", 4, "timeout_ms: a whole number"),
        ("  book:\n    kind: http\n    url: ftp://x", 4, "an http"),
        ("  book:\n    kind: http\n    description: 3", 4, "description: text is wanted"),
        ("  book:\n    kind: http\n    parameters:\n      a: {type: date}", 5, "type: one of string"),
        ("  book:\n    kind: http\n    parameters:\n      a: {required: maybe}", 5, "true or false"),
        ("  book:\n    kind: http\n    parameters:\n      a: {choices: x}", 5, "a list of texts"),
        ("  book:\n    kind: http\n    parameters:\n      a: {size: 3}", 5, "size: there is no such key"),
        ("  find:\n    kind: sql\n    query: DELETE FROM orders", 4, "one SELECT is wanted"),
        ("  find:\n    kind: sql\n    query: SELECT 1; SELECT 2", 4, "without a semicolon"),
        ("  find:\n    kind: sql\n    query: SELECT :a", 4, ":a is none of its parameters: it has none"),
        ("  find:\n    kind: sql\n    query: SELECT 1\n    say: 'It is {The one}.'", 5, "name of a column"),
        ("  note:\n    kind: message\n    parameters: {words: {}}", 4, "text is wanted"),
        ("  note: {kind: message}\n  note: {kind: message}", 3, "given twice"),
    ],
)
def test_mistakes_are_told_with_file_and_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_tools(written(tmp_path, text + "\n"))
    assert f"mine.yaml:{line}: " in caught.value.message


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: there is no such file"):
        load_tools(settings(files=["nowhere.yaml"]))


def test_mistakes_in_the_settings_are_told_too() -> None:
    with pytest.raises(ConfigError, match=r"tools\.inline.*: tools\.book\.kind: one of"):
        load_tools(settings(inline={"book": {"kind": "shell"}}))


def test_targets_are_numbers_addresses_or_queues() -> None:
    found = resolve(None, None, ["tools.transfer_targets.sales=+15550100123"], env={}).settings
    assert found.tools.transfer_targets == {"sales": "+15550100123"}
    for wrong in ("555", "sip:nobody", "queue:", "https://x"):
        with pytest.raises(ConfigError, match="queue:name is wanted"):
            resolve(None, None, [f"tools.transfer_targets={{sales: '{wrong}'}}"], env={})
    with pytest.raises(ConfigError, match="small letters"):
        resolve(None, None, ["tools.transfer_targets={Sales: queue:a}"], env={})


def test_the_page_on_tools_tells_every_kind_key_and_code() -> None:
    page = DOCS.read_text(encoding="utf-8")
    missing = [f"`{word}`" for word in (*tools.KINDS, *tools.CODES, *tools.TYPES) if f"`{word}`" not in page]
    missing += [f"`{key}`" for keys in OPTIONS.values() for key in keys if f"`{key}`" not in page]
    missing += [spec.name for spec in load_tools(Settings()) if f"`{spec.name}`" not in page]
    assert not missing
