"""No dead air: whatever hangs, the caller hears something, and the answer still comes."""

from __future__ import annotations

import pytest
from test_dialog_call import ANSWERS, World, started

from voice_agent.dialog import commands as c
from voice_agent.dialog import events as e
from voice_agent.dialog.machine import DialogMachine
from voice_agent.dialog.policy import AgentPhrases, TurnPolicy
from voice_agent.dialog.replying import FILLER_GRACE_MS
from voice_agent.dialog.state import State
from voice_agent.ports import ReplyChunk

POLICY = TurnPolicy()
PHRASES = AgentPhrases()


def longest_silence(world: World, since: int) -> int:
    """From the caller's last sound until the agent has said its last."""
    heard, longest = since, 0
    for start, end, *_ in sorted(world.playing):
        if end > since:
            longest, heard = max(longest, start - heard), max(heard, end)
    return longest


@pytest.mark.parametrize("stage", ["stt_ms", "search_ms", "llm_ms", "tts_ms"])
def test_a_stage_that_hangs_is_covered_by_recorded_phrases_and_answered_at_last(stage: str) -> None:
    world = started()
    setattr(world, stage, 6000)
    end = world.say(3000, 1, "when do you open")
    world.run(end + 16_000)
    phrases = [command.text for _, command in world.commands(c.Synthesise) if command.recorded]
    assert phrases[:2] == [PHRASES.filler, PHRASES.hold]
    assert longest_silence(world, end) <= POLICY.filler_after_ms + FILLER_GRACE_MS
    reply = next(record for record in world.records if record.kind == "reply")
    assert reply.heard_text_pii == ANSWERS["when do you open"]
    assert reply.fillers == (0 if stage == "stt_ms" else len(phrases))
    assert all(PHRASES.filler not in message.content for message in world.machine._s.history.messages)


def test_who_is_answered_in_time_hears_no_phrase() -> None:
    world = started()
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 16_000)
    assert not [command for _, command in world.commands(c.Synthesise) if command.recorded]


def test_a_caller_who_speaks_over_the_phrase_is_listened_to() -> None:
    world = started(llm_ms=60_000)
    end = world.say(3000, 1, "when do you open")
    world.run(end + 1600)
    assert world.machine.state is State.SPEAKING
    world.llm_ms = 100
    end = world.say(world.now + 100, 2, "do you rent bicycles")
    world.run(end + 12_000)
    assert world.records[-1].heard_text_pii == ANSWERS["do you rent bicycles"]


WHOLE = (ReplyChunk("We open at nine. We close at six.", finish_reason="stop"),)


def speaking(*chunks: ReplyChunk) -> DialogMachine:
    """A call whose agent is in the middle of the first of two clauses; half a second of it is synthesised."""
    machine = DialogMachine(POLICY, PHRASES, "CA1")
    for event in (
        e.CallStarted("CA1"), e.SpeechSynthesised(1, 0, 300, True), e.PlayoutStarted(1, 0, 0),
        e.ClausePlayed(1, 0, 0), e.SpeechSynthesised(1, 1, 300, True), e.PlayoutStarted(1, 1, 0),
        e.ClausePlayed(1, 1, 0), e.SpeechStarted(1, 100), e.SpeechPaused(1, 900),
    ):  # fmt: skip
        machine.receive(event, 0)
    machine.receive(e.TranscriptReady(1, 1, "when do you open", 0.9, True), 960)
    machine.receive(e.PassagesReady(2, ()), 1000)
    for chunk in chunks or WHOLE:
        machine.receive(e.ReplyReceived(2, chunk), 1100)
    machine.on_deadline(1300)
    machine.receive(e.SpeechSynthesised(2, 0, 500, False), 1300)
    machine.receive(e.PlayoutStarted(2, 0, 1310), 1310)
    machine.take_commands()
    return machine


def test_a_voice_that_breaks_off_says_the_clause_again_and_then_goes_on() -> None:
    machine = speaking()
    machine.receive(e.JobFailed("synthesise", 2, 0, "deadline_exceeded"), 2300)
    assert machine.take_commands() == [c.Synthesise(2, 1, "We open at nine.", again=True)]
    for clause, text in ((1, "We close at six."), (2, "")):
        machine.receive(e.SpeechSynthesised(2, clause, 1500, True), 2400)
        commands = machine.take_commands()
        assert commands == ([c.Synthesise(2, 2, text)] if text else [])
    for clause in (1, 2):
        machine.receive(e.PlayoutStarted(2, clause, 2500), 2500)
        machine.receive(e.ClausePlayed(2, clause, 4000), 4000)
    record = next(command.record for command in machine.take_commands() if isinstance(command, c.RecordTurn))
    assert record.heard_text_pii == "We open at nine. We close at six."
    assert record.failed_stages == ("synthesise",)


def test_a_voice_that_breaks_off_twice_ends_in_the_recorded_apology() -> None:
    machine = speaking()
    machine.receive(e.JobFailed("synthesise", 2, 0, "deadline_exceeded"), 2300)
    machine.receive(e.SpeechSynthesised(2, 1, 500, False), 2400)
    machine.receive(e.JobFailed("synthesise", 2, 1, "deadline_exceeded"), 3400)
    apology = [command for command in machine.take_commands() if isinstance(command, c.Synthesise)][-1]
    assert apology.recorded
    assert PHRASES.apology.startswith(apology.text)


def texts_of(commands: list[c.Command]) -> list[str]:
    return [command.text for command in commands if isinstance(command, c.Synthesise)]


def test_a_model_that_breaks_off_is_asked_again_and_says_the_rest() -> None:
    machine = speaking(ReplyChunk("We open at nine. We close"))
    machine.receive(e.JobFailed("generate", 2, 0, "replica_lost"), 1400)
    assert [command for command in machine.take_commands() if isinstance(command, c.Generate)]
    for word in "We open at nine. We close at six.".split():
        machine.receive(e.ReplyReceived(2, ReplyChunk(f"{word} ")), 1500)
    machine.receive(e.ReplyReceived(2, ReplyChunk(finish_reason="stop")), 1500)
    machine.receive(e.SpeechSynthesised(2, 0, 1000, True), 1600)
    assert texts_of(machine.take_commands()) == ["We close at six."]


def test_a_model_that_breaks_off_twice_has_said_what_it_has_said() -> None:
    machine = speaking(ReplyChunk("We open at nine. We close"))
    for at_ms in (1400, 1500):
        machine.receive(e.JobFailed("generate", 2, 0, "replica_lost"), at_ms)
    machine.receive(e.SpeechSynthesised(2, 0, 1000, True), 1600)
    commands = machine.take_commands()
    assert len([command for command in commands if isinstance(command, c.Generate)]) == 1
    assert texts_of(commands) == ["We close"]


def test_a_mark_that_comes_when_the_next_clause_plays_makes_it_no_shorter() -> None:
    machine = speaking()
    machine.receive(e.SpeechSynthesised(2, 0, 1000, True), 1400)
    machine.receive(e.SpeechSynthesised(2, 1, 900, False), 1500)
    machine.receive(e.PlayoutStarted(2, 1, 2310), 2310)
    machine.receive(e.ClausePlayed(2, 0, 2330), 2330)
    assert machine.next_deadline_ms() == 2310 + 900 + POLICY.filler_after_ms


def test_the_mark_of_a_clause_that_broke_off_is_no_sound() -> None:
    machine = speaking()
    machine.receive(e.JobFailed("synthesise", 2, 0, "deadline_exceeded"), 2600)
    machine.receive(e.ClausePlayed(2, 0, 2650), 2650)
    assert machine.next_deadline_ms() == 1310 + 500 + POLICY.filler_after_ms


def test_silence_inside_the_agents_speech_is_broken_too() -> None:
    """The voice goes on trickling nothing: the ear is dry half a second after it began."""
    machine = speaking()
    dry_ms = 1310 + 500
    assert machine.next_deadline_ms() == dry_ms + POLICY.filler_after_ms
    machine.on_deadline(dry_ms + POLICY.filler_after_ms)
    assert c.Synthesise(2, 2, PHRASES.filler, recorded=True) in machine.take_commands()


def test_a_mark_that_does_not_come_back_is_no_silence_to_break() -> None:
    machine = speaking()
    machine.receive(e.SpeechSynthesised(2, 0, 1000, True), 1400)
    machine.receive(e.SpeechSynthesised(2, 1, 1000, True), 1500)
    machine.take_commands()
    machine.on_deadline(9000)
    assert not [command for command in machine.take_commands() if isinstance(command, c.Synthesise)]


def test_an_old_snapshot_knows_no_silences_and_is_read_all_the_same() -> None:
    data = speaking().snapshot()
    for field in ("quiet_ms", "fillers", "heard_by"):
        del data["state"][field]
    for clause in data["state"]["reply"]["clauses"]:
        del clause["recorded"], clause["again"]
    machine = DialogMachine.restore(data, POLICY, PHRASES)
    machine.reopen()
    machine.on_deadline(9000)
    assert machine.state is State.SPEAKING
