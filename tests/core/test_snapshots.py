"""Snapshots outlive the code that wrote them: each version left files here, and the present code reads them."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from snapshot_moments import FOLDER, MOMENTS
from test_call_director import PHRASES, director

from voice_agent.dialog import commands as c
from voice_agent.dialog import events as e
from voice_agent.dialog import snapshot
from voice_agent.dialog.machine import DialogMachine
from voice_agent.dialog.policy import TurnPolicy
from voice_agent.dialog.state import State
from voice_agent.errors import ProtocolError

KEPT = sorted(FOLDER.glob("v*.json"))


def kept(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def restored(data: dict[str, Any]) -> DialogMachine:
    return DialogMachine.restore(data, TurnPolicy(), PHRASES, director())


def plain(machine: DialogMachine) -> dict[str, Any]:
    """Its snapshot as it comes back from a file."""
    data: dict[str, Any] = json.loads(json.dumps(machine.snapshot()))
    return data


def holds(whole: Any, part: Any) -> bool:
    """Whether everything in ``part`` is in ``whole`` as well; a newer version may know more."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and holds(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return (
            isinstance(whole, list)
            and len(whole) == len(part)
            and all(holds(a, b) for a, b in zip(whole, part, strict=True))
        )
    return bool(whole == part)


def test_there_are_files_of_every_version_and_moment() -> None:
    names = {path.stem for path in KEPT}
    assert names >= {f"v{snapshot.VERSION}-{moment}" for moment in MOMENTS}
    assert {int(re.match(r"v(\d+)-", name)[1]) for name in names} == set(range(1, snapshot.VERSION + 1))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_nothing_of_an_old_snapshot_is_lost(path: Path) -> None:
    data = kept(path)
    assert holds(plain(restored(data))["state"], data["state"])


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_call_of_an_old_snapshot_goes_on_to_its_end(path: Path) -> None:
    """Its new owner opens again what was open, and the call can be ended with all its jobs."""
    machine = restored(kept(path))
    before = machine.state
    machine.reopen()
    machine.take_commands()
    for _ in range(50):
        due_ms = machine.next_deadline_ms()
        if due_ms is None or machine.state is State.ENDED:
            break
        machine.on_deadline(due_ms)
    machine.receive(e.CarrierStopped("caller_hung_up"), machine.now_ms + 10)
    ends = [command for command in machine.take_commands() if isinstance(command, c.EndCall)]
    assert machine.state is State.ENDED, before
    assert len(ends) == 1
    assert not machine._s.jobs


@pytest.mark.parametrize("moment", MOMENTS)
def test_load_and_dump_give_the_same_again(moment: str) -> None:
    data = plain(MOMENTS[moment]().machine)
    assert plain(restored(data)) == data


def test_a_number_of_an_engine_is_kept_as_a_plain_one() -> None:
    machine = MOMENTS["paused"]().machine
    machine._s.confidence = np.float64(0.25)
    data = machine.snapshot()
    assert type(data["state"]["confidence"]) is float
    assert restored(json.loads(json.dumps(data)))._s.confidence == 0.25
    machine._s.digits = object()
    with pytest.raises(TypeError, match="cannot keep a object"):
        machine.snapshot()


def test_a_newer_version_is_refused_in_words() -> None:
    data = kept(KEPT[0]) | {"version": snapshot.VERSION + 1}
    with pytest.raises(ProtocolError, match="reads call snapshots up to version"):
        restored(data)


def test_fields_of_newer_code_are_passed_over_and_missing_ones_have_their_defaults() -> None:
    data = kept(FOLDER / "v1-held.json")
    more = copy.deepcopy(data)
    more["state"]["mood"] = "fine"
    more["state"]["reply"]["accent"] = {"strong": True}
    assert restored(more).snapshot() == restored(data).snapshot()
    for optional in ("caller_pauses_ms", "load", "digits", "memory"):
        del more["state"][optional]
    assert restored(more)._s.digits == ""


@pytest.mark.parametrize(
    ("path", "value"),
    [(("state",), "dreaming"), (("timers",), {"tea": 5}), (("reply",), {"kind": "reply"}), (("jobs",), 7)],
)
def test_what_cannot_be_read_is_refused_and_nothing_worse(path: tuple[str, ...], value: object) -> None:
    data = kept(FOLDER / "v1-held.json")
    data["state"][path[0]] = value
    with pytest.raises(ProtocolError, match="cannot read"):
        restored(data)
