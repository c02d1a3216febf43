"""Every error of every room is in the documentation, with what may be tried again and the status the API gives it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_apps.http_errors import _HTTP_CODES, _STATUS
from voice_agent.errors import VoiceAgentError

DOCS = Path(__file__).parents[2] / "docs"
ROOMS = ("voice_agent", "configs", "engines", "storage", "kb", "actors", "serve_apps", "loadtest", "cluster")

# Cannot be imported without ray[llm], which is no part of the default install.
ELSEWHERE = {"serve_apps.llm_server"}


@pytest.fixture(scope="module")
def kinds() -> list[type[VoiceAgentError]]:
    for room in ROOMS:
        package = importlib.import_module(room)
        for module in pkgutil.walk_packages(package.__path__, f"{room}."):
            if module.name not in ELSEWHERE:
                importlib.import_module(module.name)
    return [kind for kind in _below(VoiceAgentError) if kind.__module__.partition(".")[0] in ROOMS]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """Cells of the first table, by code."""
    text = (DOCS / "errors.md").read_text()
    cells = (re.split(r" ?\| ?", line)[1:-1] for line in text.splitlines() if re.match(r"\| `\w+` \| (yes|no) ", line))
    return {row[0].strip("`"): row for row in cells}


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_what_is_not_imported_here_defines_no_error(name: str) -> None:
    source = (DOCS.parent / name.replace(".", "/")).with_suffix(".py").read_text()
    assert not re.search(r"class \w+\(\w*Error\)", source)


def test_every_error_is_in_the_table(kinds: list[type[VoiceAgentError]], rows: dict[str, list[str]]) -> None:
    assert len(kinds) > 20
    assert sorted({kind.code for kind in kinds} | {"internal"}) == sorted(rows)


def test_the_table_tells_what_may_be_tried_again(
    kinds: list[type[VoiceAgentError]], rows: dict[str, list[str]]
) -> None:
    wrong = {kind.__name__ for kind in kinds if rows[kind.code][1] != ("yes" if kind.retryable else "no")}
    assert wrong == set()


def test_the_table_tells_the_status_of_the_api(rows: dict[str, list[str]]) -> None:
    told = {code: int(row[2]) for code, row in rows.items() if row[2]}
    assert told == {**_STATUS, "internal": 500}


def test_codes_of_requests_are_there() -> None:
    text = (DOCS / "errors.md").read_text()
    assert [
        code for code in (*_HTTP_CODES.values(), "too_large", "invalid_request") if f"| `{code}` |" not in text
    ] == []


def test_each_row_says_what_it_means_and_what_to_do(rows: dict[str, list[str]]) -> None:
    assert [code for code, row in rows.items() if len(row) != 5 or min(len(row[3]), len(row[4])) < 5] == []


def _below(kind: type[VoiceAgentError]) -> Iterator[type[VoiceAgentError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _below(below)
