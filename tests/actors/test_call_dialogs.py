"""Settings become the dialog of an actor's calls."""

from __future__ import annotations

from dataclasses import fields

import pytest

from actors.call.kit import DialogMachines
from configs.loader import resolve
from configs.settings import Settings
from voice_agent.call_director import CallDirector
from voice_agent.dialog.events import CallStarted
from voice_agent.dialog.machine import DialogMachine
from voice_agent.dialog.policy import TurnPolicy
from voice_agent.errors import ConfigError


def _settings(*overrides: str) -> Settings:
    return resolve("simulated", None, overrides, env={}).settings


def test_a_stack_without_a_flow_has_rules_all_the_same() -> None:
    machines = DialogMachines.of(_settings())
    assert isinstance(machines.director, CallDirector)
    assert machines.director.redact("my card is 4111 1111 1111 1111") == "my card is [card]"
    assert machines.director.opening().say == machines.agent.greeting


def test_the_flow_of_the_settings_opens_the_call_and_survives_a_take_over() -> None:
    machines = DialogMachines.of(_settings("dialog.flow=order_status", "tools.transfer_targets.staff=+15550100"))
    machine = machines.new("CA1")
    machine.receive(CallStarted("CA1"), 0)
    assert any("Harbor Street Bicycles" in getattr(command, "text", "") for command in machine.take_commands())
    restored = machines.restore(machine.snapshot())
    assert isinstance(restored, DialogMachine)
    position = restored._s.memory.position
    assert position is not None
    assert position.node == "menu"


def test_a_flow_that_needs_what_the_settings_lack_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"order_status\.yaml:\d+: states\.human\.transfer = 'staff': a name of tools"
    ):
        DialogMachines.of(_settings("dialog.flow=order_status"))


def test_every_number_of_turn_taking_is_a_setting() -> None:
    """Each field of the policy follows a setting, but for judgements that are not for operators to make."""
    changed = {
        "turn.endpoint_ms": 460, "turn.endpoint_short_ms": 310, "turn.endpoint_long_ms": 1210,
        "turn.endpoint_min_ms": 250, "turn.max_speculations": 5, "turn.speculate_below_load": 0.5,
        "turn.speculate": "false", "turn.max_early_speculations": 1,
        "turn.keys_pause_s": 2, "turn.filler_after_s": 3, "turn.barge_in_confirm_ms": 710,
        "turn.reprompt_after_s": 9, "turn.reprompts": 4, "turn.max_call_s": 60,
    }  # fmt: skip
    policy = DialogMachines.of(_settings(*(f"{key}={value}" for key, value in changed.items()))).policy
    same = {item.name for item in fields(TurnPolicy) if getattr(policy, item.name) == getattr(TurnPolicy(), item.name)}
    assert same == {"barge_in_min_confidence", "not_understood_after_ms", "max_tools"}
