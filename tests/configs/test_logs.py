"""Lines of the log: constant text, then fields."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from configs.logs import FieldFormatter, logging_at_start

_PROGRAM = """
import logging, sys
from configs.logs import set_up
set_up("ERROR"); set_up(sys.argv[1])
log = logging.getLogger("actors.gateway")
log.debug("fine", extra={"n": 1})
log.info("usual", extra={"call_id": "CA1"})
log.warning("odd", extra={"reason": "two words"})
logging.getLogger("httpx").info("of a library")
"""


def line(message: str, **fields: object) -> str:
    record = logging.getLogger("actors.x").makeRecord("actors.x", 30, "f", 1, message, (), None, extra=fields)
    return FieldFormatter().format(record)


def test_fields_follow_the_message() -> None:
    written = line("call moved", call_id="CA1", host="call-host-1", left=2)
    assert written.endswith("WARNING actors.x: call moved call_id=CA1 host=call-host-1 left=2")
    assert line("plain").endswith("actors.x: plain")


def test_a_field_cannot_end_its_line_or_forge_another() -> None:
    written = line("odd", reason='a "b"\nc=d', empty="")
    assert written.endswith('odd reason="a \\"b\\"\\nc=d" empty=""')


@pytest.mark.parametrize("key", ["target_pii", "pii", "caller_pii_text"])
def test_what_is_about_people_is_not_shown(key: str) -> None:
    assert line("dialled", **{key: "+15550100"}).endswith(f"dialled {key}=(hidden)")


@pytest.mark.parametrize(("level", "words"), [("DEBUG", "fine usual odd"), ("INFO", "usual odd"), ("WARNING", "odd")])
def test_the_level_is_that_of_our_packages(level: str, words: str) -> None:
    run = subprocess.run([sys.executable, "-c", _PROGRAM, level], capture_output=True, text=True, check=True)
    assert [text.split(": ")[1].split()[0] for text in run.stderr.splitlines()] == words.split()
    assert 'reason="two words"' in run.stderr


def test_a_class_of_its_own_process_keeps_its_name_and_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[str] = []
    monkeypatch.setattr("configs.logs.set_up", levels.append)

    class Thing:
        def __init__(self, size: int, *, colour: str = "") -> None:
            self.is_now = (size, colour)

    made = logging_at_start(Thing, "DEBUG")
    assert levels == []
    assert made(3, colour="red").is_now == (3, "red")
    assert (made.__name__, levels) == ("Thing", ["DEBUG"])
