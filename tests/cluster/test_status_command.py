"""``voice-agent status``: what runs, and what of it is not well."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cluster.commands.status import lines_of, troubles_of

STAGE = {"engine": "coqui", "answering": "coqui", "fallbacks": 0, "replicas": {}}
ENGINE = {"breaker": "closed", "opened": 0, "used": 7, "faults": {}}
WELL: dict[str, Any] = {
    "run_id": "r1",
    "profile": "gpu",
    "dispatcher": {
        "live": 3,
        "max_calls": 20,
        "free": 17,
        "code": {"number": 2},
        "rollout": {"phase": "idle"},
        "overload": {"level": 0, "action": "none", "waiting": 0},
        "hosts": {
            "call-1": {
                "calls": ["CA1", "CA2", "CA3"],
                "capacity": 10,
                "code": 2,
                "version": "0123456789abcdef",
                "loop_lag_ms": 4.2,
                "stages": {"tts": STAGE},
            }
        },
    },
    "journal": {"store_away": False},
    "gateways": {"gateway-1": {"calls": {"CA1": {}, "CA2": {}, "CA3": {}}, "loop_lag_ms": 2.0}},
    "engines": {"stt": [], "llm": [], "tts": [{"coqui": ENGINE, "flite": dict(ENGINE)}]},
}
GONE = {"error": "unreachable", "message": "it is gone"}


def report(*path: str, value: object) -> dict[str, Any]:
    """``WELL`` with one value changed."""
    changed: dict[str, Any] = copy.deepcopy(WELL)
    at: Any = changed
    for key in path[:-1]:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[path[-1]] = value
    return changed


def test_all_is_well() -> None:
    assert lines_of(WELL) == [
        "run r1, profile gpu",
        "calls: 3 live of 20, room for 17 more; code 2, deploy idle",
        "gateway-1: 3 calls, loop lag 2 ms",
        "call-1: 3 calls of 10, code 2 01234567, loop lag 4 ms",
        "tts 1: coqui closed, used 7 times, 0 faults",
        "tts 1: flite closed, used 7 times, 0 faults",
    ]


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("dispatcher",), GONE, "dispatcher does not answer: it is gone"),
        (("engines",), GONE, "engines does not answer: it is gone"),
        (("gateways", "gateway-1"), GONE, "gateway-1 does not answer: it is gone"),
        (("dispatcher", "free"), 0, "full: the next caller waits"),
        (
            ("dispatcher", "overload"),
            {"level": 3, "action": "queue", "waiting": 4},
            "overload level 3 (queue), 4 callers wait",
        ),
        (("journal", "store_away"), True, "Postgres is away; the journal spools to its disk"),
        (("engines", "tts", "0", "coqui", "breaker"), "half_open", "tts: the engine coqui is skipped"),
        (
            ("dispatcher", "hosts", "call-1", "stages", "tts", "answering"),
            "flite",
            "call-1 is answered by flite instead of coqui (tts)",
        ),
        (
            ("dispatcher", "hosts", "call-1", "stages", "tts", "replicas"),
            {"a1b2": "open"},
            "call-1 avoids the tts replica a1b2 (open)",
        ),
    ],
)
def test_what_is_not_well_is_told_last(path: tuple[str, ...], value: object, told: str) -> None:
    changed = report(*path, value=value)
    assert troubles_of(changed) == [told]
    assert lines_of(changed)[-1] == f"! {told}"
