from __future__ import annotations

import numpy as np
import pytest

from voice_agent import metrics, tools
from voice_agent.audio import dtmf
from voice_agent.audio.g711 import mulaw_decode
from voice_agent.tools import BadArgumentsError, Parameter, ToolSpec, checked_arguments

SPEC = ToolSpec(
    "book",
    "http",
    "Book a table.",
    (
        Parameter("people", "integer"),
        Parameter("room", "string", "Where", required=False, choices=("inside", "outside")),
        Parameter("price", "number", required=False),
        Parameter("window", "boolean", required=False),
        Parameter("name", "string", required=False, max_chars=5),
    ),
)


def test_arguments_come_out_in_their_types() -> None:
    given = {"people": "4", "room": "inside", "price": "2.5", "window": "yes", "name": " Ann "}
    assert checked_arguments(SPEC, given) == {
        "people": 4,
        "room": "inside",
        "price": 2.5,
        "window": True,
        "name": "Ann",
    }
    assert checked_arguments(SPEC, {"people": 4.0, "room": "", "price": None}) == {"people": 4}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs the argument people"),
        ({"people": ""}, "needs the argument people"),
        ({"people": "four"}, "people must be of type integer"),
        ({"people": True}, "people must be of type integer"),
        ({"people": 1.5}, "people must be of type integer"),
        ({"people": [1]}, "people must be of type integer"),
        ({"people": 1, "price": "inf"}, "price must be of type number"),
        ({"people": 1, "window": "perhaps"}, "window must be of type boolean"),
        ({"people": 1, "room": "roof"}, "room must be one of inside, outside"),
        ({"people": 1, "name": "Annabel"}, "longer than 5 characters"),
        ({"people": 1, "name": {"a": 1}}, "name must be of type string"),
        ({"people": 1, "who": "me"}, "no argument who; it takes people"),
    ],
)
def test_arguments_that_do_not_fit_are_told_by_name_only(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(BadArgumentsError, match=words) as caught:
        checked_arguments(SPEC, arguments)
    assert caught.value.code == "bad_arguments"
    assert "Annabel" not in caught.value.message
    outcome = tools.bad_arguments(SPEC, caught.value)
    assert (outcome.ok, outcome.code, outcome.value) == (False, "bad_arguments", {"reason": caught.value.message})


def test_specs_become_openai_tools() -> None:
    (tool,) = tools.openai_tools([SPEC])
    assert tool["type"] == "function"
    assert tool["function"]["name"] == "book"
    schema = tool["function"]["parameters"]
    assert schema["required"] == ["people"]
    assert schema["properties"]["room"] == {
        "type": "string",
        "description": "Where",
        "enum": ["inside", "outside"],
    }


def test_keys_of_a_request() -> None:
    assert tools.dtmf_digits({"digits": "12 3-#a"}) == "123#A"
    for wrong in ("", "12x", "1" * 33):
        with pytest.raises(BadArgumentsError):
            tools.dtmf_digits({"digits": wrong})


def test_a_run_has_one_key() -> None:
    assert tools.idempotency_key("CA1", 3, 0) == "CA1/3/0"


def test_a_transfer_is_one_reason_whoever_it_goes_to() -> None:
    assert metrics.reason_label("transfer:sales") == "transfer"
    assert metrics.reason_label("goodbye") == "goodbye"
    assert metrics.reason_label("whatever") == "other"


@pytest.mark.parametrize("key", sorted(dtmf.FREQUENCIES_HZ))
def test_tones_are_those_of_q23(key: str) -> None:
    audio = mulaw_decode(dtmf.mulaw_tones(key))
    assert len(audio) == 8 * (80 + 80)
    sounding, silent = audio[: 8 * 80].astype(float), audio[8 * 80 :]
    assert np.abs(silent).max() <= 8
    at_s = np.arange(len(sounding)) / 8000
    every = sorted({hz for pair in dtmf.FREQUENCIES_HZ.values() for hz in pair})
    power = {hz: abs(np.sum(sounding * np.exp(-2j * np.pi * hz * at_s))) for hz in every}
    strongest = sorted(sorted(power, key=lambda hz: power[hz])[-2:])
    assert tuple(strongest) == dtmf.FREQUENCIES_HZ[key]
    low, high = (power[hz] for hz in dtmf.FREQUENCIES_HZ[key])
    assert -4 < 20 * np.log10(high / low) < 4  # twist a receiver takes, Q.24


def test_a_number_is_its_keys_in_turn_and_never_clips() -> None:
    audio = dtmf.mulaw_tones("159#")
    assert audio == b"".join(dtmf.mulaw_tones(key) for key in "159#")
    assert np.abs(mulaw_decode(audio).astype(int)).max() < 32_000
    with pytest.raises(ValueError, match="no key 'x'"):
        dtmf.mulaw_tones("x")
