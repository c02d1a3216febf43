import pytest
from fake_stack import tone

from loadtest.caller import ScriptedCaller, is_loud
from loadtest.playout import FRAME_BYTES
from loadtest.script import (
    After,
    AgentSilent,
    AgentSpeaking,
    AwaitHangUp,
    CallerScript,
    HangUp,
    Press,
    Say,
    load_script,
    parse_script,
)
from loadtest.speech import background
from voice_agent.audio.g711 import SILENCE
from voice_agent.errors import ConfigError

QUIET = SILENCE * FRAME_BYTES
LOUD = tone(20)


def play(script, agent, ticks=400, lines=None):
    """Run a script against ``agent(tick, caller_was_loud)``; returns what happened as (at_ms, kind, text)."""
    notes = []
    spoken = lines or {line: tone(200) for line in script.lines}
    caller = ScriptedCaller(script, spoken, lambda at_ms, kind, text: notes.append((at_ms, kind, text)))
    actions = []
    heard = QUIET
    for number in range(ticks):
        actions.append(caller.tick(heard))
        heard = LOUD if agent(number) else QUIET
        if actions[-1].hang_up:
            break
    return caller, notes, actions


def kinds(notes):
    return [(kind, text) for _, kind, text in notes]


def test_speaks_after_the_agent_has_spoken_and_fallen_silent():
    script = CallerScript("t", (Say("hello", AgentSilent(600)), HangUp(After(0))))
    _, notes, actions = play(script, lambda tick: 10 <= tick < 40)
    said_ms = next(at_ms for at_ms, kind, _ in notes if kind == "caller_says")
    heard_until_ms = (39 + 2) * 20  # the last loud frame is heard one tick after it began to sound
    assert said_ms == heard_until_ms + 600
    assert actions[-1].hang_up == "script_done"
    assert sum(is_loud(action.frame) for action in actions) == 10


def test_does_not_take_a_pause_of_the_agent_for_its_end():
    script = CallerScript("t", (Say("hello", AgentSilent(700)),))
    _, notes, _ = play(script, lambda tick: 10 <= tick < 40 or 60 <= tick < 80)
    assert next(at_ms for at_ms, kind, _ in notes if kind == "caller_says") > 80 * 20


def test_barges_in_while_the_agent_speaks():
    script = CallerScript("t", (Say("hello", AgentSpeaking(400)),))
    _, notes, actions = play(script, lambda tick: 10 <= tick < 100)
    said_ms = next(at_ms for at_ms, kind, _ in notes if kind == "caller_says")
    assert 10 * 20 + 400 <= said_ms < 100 * 20
    assert any(action.hang_up for action in actions)


def test_barge_in_waits_for_the_next_time_when_the_agent_was_too_short():
    script = CallerScript("t", (Say("hello", AgentSpeaking(400)),))
    _, notes, _ = play(script, lambda tick: 10 <= tick < 15 or 60 <= tick < 120)
    assert next(at_ms for at_ms, kind, _ in notes if kind == "caller_says") >= 60 * 20 + 400


def test_an_agent_that_never_speaks_is_counted_and_the_call_goes_on():
    script = CallerScript("t", (Say("hello", AgentSilent(500, patience_ms=1000)), HangUp(After(100))))
    caller, notes, _ = play(script, lambda tick: False)
    assert caller.unanswered == 1
    assert kinds(notes) == [("unanswered", ""), ("caller_says", "hello"), ("caller_hangs_up", "script_done")]


def test_patience_begins_again_while_the_agent_speaks():
    script = CallerScript("t", (Say("hello", AgentSilent(600, patience_ms=1000)), HangUp(After(0))))
    caller, notes, _ = play(script, lambda tick: 10 <= tick < 200)
    assert caller.unanswered == 0
    assert next(at_ms for at_ms, kind, _ in notes if kind == "caller_says") > 200 * 20


def test_presses_keys_one_after_the_other():
    script = CallerScript("t", (Press("1#", After(100)), HangUp(After(0))))
    _, _, actions = play(script, lambda tick: False)
    pressed = [(number, action.digit) for number, action in enumerate(actions) if action.digit]
    assert [digit for _, digit in pressed] == ["1", "#"]
    assert pressed[1][0] - pressed[0][0] >= 10


def test_gives_up_when_the_agent_does_not_hang_up():
    script = CallerScript("t", (AwaitHangUp(1000),))
    _, _, actions = play(script, lambda tick: False)
    assert actions[-1].hang_up == "agent_did_not_hang_up"
    assert len(actions) == 50


def test_no_call_lasts_longer_than_it_may():
    script = CallerScript("t", (Say("never", AgentSilent(500, patience_ms=10**9)),), max_call_ms=2000)
    _, _, actions = play(script, lambda tick: tick > 5, ticks=1000)
    assert actions[-1].hang_up == "gave_up"
    assert len(actions) == 100


def test_noise_is_heard_between_words_and_is_the_same_for_the_same_seed():
    script = CallerScript("t", (AwaitHangUp(3000),), noise_dbfs=-60, seed=3)
    _, _, first = play(script, lambda tick: False)
    _, _, second = play(script, lambda tick: False)
    assert [action.frame for action in first] == [action.frame for action in second]
    assert all(not is_loud(action.frame) and action.frame != QUIET for action in first)
    assert background(-60, 4) != background(-60, 3)


def test_yaml_script(tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text(
        "name: x\nvoice: awb\nnoise_dbfs: -60\nsteps:\n"
        "  - {say: 'When  are you open?', when: {agent_silent_ms: 500, patience_s: 3}}\n"
        "  - {say: Stop., voice: kal, when: {agent_speaking_ms: 900}}\n"
        "  - {press: '1', when: {after_ms: 100}}\n"
        "  - await_hang_up_s: 5\n"
    )
    script = load_script(path)
    assert script.steps == (
        Say("When are you open?", AgentSilent(500, 3000)),
        Say("Stop.", AgentSpeaking(900), "kal"),
        Press("1", After(100)),
        AwaitHangUp(5000),
    )
    assert script.lines == (("When are you open?", "awb"), ("Stop.", "kal"))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ([], "must be a mapping"),
        ({"steps": []}, "steps must be a list"),
        ({"steps": [{"say": "x"}], "speed": 3}, "unknown key 'speed'; allowed: name, voice"),
        ({"steps": [{}]}, r"steps\[0\]: must have exactly one of say, press"),
        ({"steps": [{"say": "x", "press": "1"}]}, "exactly one of"),
        ({"steps": [{"say": ""}]}, "say must be a text"),
        ({"steps": [{"press": 1}]}, "press must be a quoted text"),
        ({"steps": [{"press": "x"}]}, "press must be a quoted text"),
        ({"steps": [{"hang_up": False}]}, "hang_up must be true"),
        ({"steps": [{"say": "x", "when": {"later": 1}}]}, "when: unknown key 'later'; allowed: agent_silent_ms"),
        ({"steps": [{"say": "x", "when": {"after_ms": -1}}]}, "after_ms must be at least 0"),
        ({"steps": [{"say": "x", "when": {"after_ms": True}}]}, "after_ms must be a number"),
        ({"steps": [{"say": "x", "when": {}}]}, "when must have exactly one of"),
        ({"steps": [{"say": "x"}], "noise_dbfs": 3}, "noise_dbfs must be below 0"),
    ],
)
def test_broken_scripts_say_where_and_what_is_allowed(content, error):
    with pytest.raises(ConfigError, match=error) as caught:
        parse_script(content, "caller.yaml")
    assert str(caught.value).startswith("caller.yaml: ")


def test_a_missing_file_and_broken_yaml(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_script(tmp_path / "none.yaml")
    path = tmp_path / "broken.yaml"
    path.write_text("steps: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_script(path)
