"""A whole call on an integer clock: a world of scripted engines and a playout clock round the pure machine."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count, product
from typing import get_args

import pytest

from voice_agent.dialog import commands as c
from voice_agent.dialog import events as e
from voice_agent.dialog.machine import IGNORED, TRANSITIONS, DialogMachine
from voice_agent.dialog.policy import AgentPhrases, TurnPolicy
from voice_agent.dialog.records import CallRecord, TurnRecord
from voice_agent.dialog.state import State
from voice_agent.ports import Passage, ReplyChunk, ToolCall

MS_PER_WORD = 300
ANSWERS = {
    "when do you open": "We open at nine in the morning. We close at six.",
    "do you rent bicycles": "Yes, you can rent a bicycle by the day or by the week, and a helmet is included for free.",
    "goodbye": "Thank you for calling. Goodbye.",
}


@dataclass
class World:
    """Engines with fixed latencies, a gateway that plays in real time, and a caller with a script."""

    policy: TurnPolicy = field(default_factory=TurnPolicy)
    stt_ms: int = 60
    search_ms: int = 5
    llm_ms: int = 100
    tts_ms: int = 80
    failing: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.machine = DialogMachine(self.policy, AgentPhrases(greeting="Hello, this is the shop."), "CA1")
        self.now = 0
        self.queue: list[tuple[int, int, e.Event]] = []
        self.order = count()
        self.words: dict[int, str] = {}
        self.confidence = 0.9
        self.records: list[TurnRecord] = []
        self.end: CallRecord | None = None
        self.audio: list[tuple[int, int, int, int]] = []  # (turn, clause, duration, ready at), not yet released
        self.released: set[int] = set()
        self.cleared = 0
        self.free_at = 0
        self.playing: list[tuple[int, int, int, int]] = []  # (start, end, turn, clause)
        self.log: list[tuple[int, c.Command]] = []

    def at(self, when: int, event: e.Event) -> None:
        heapq.heappush(self.queue, (when, next(self.order), event))

    def say(self, start: int, utterance: int, text: str, *, words: int | None = None) -> int:
        """The caller says ``text`` from ``start``; returns when the last frame was loud."""
        self.words[utterance] = text
        end = start + MS_PER_WORD * (words or len(text.split()))
        self.at(start + 64, e.SpeechStarted(utterance, start))
        self.at(end + 100, e.SpeechPaused(utterance, end))
        return end

    def run(self, until: int) -> None:
        while True:
            times = [self.queue[0][0]] if self.queue else []
            deadline = self.machine.next_deadline_ms()
            if deadline is not None:
                times.append(deadline)
            if not times or min(times) > until:
                self.now = until
                return
            self.now = max(self.now, min(times))
            if self.queue and self.queue[0][0] <= self.now:
                self.deliver(heapq.heappop(self.queue)[2])
            else:
                self.machine.on_deadline(self.now)
            for command in self.machine.take_commands():
                self.log.append((self.now, command))
                self.execute(command)

    def deliver(self, event: e.Event) -> None:
        if isinstance(event, e.SpeechStarted):
            self.hold()
        if isinstance(event, e.PlayoutStarted | e.ClausePlayed) and event.turn <= self.cleared:
            return
        self.machine.receive(event, self.now)

    def hold(self) -> None:
        current = [p for p in self.playing if p[0] <= self.now < p[1] and p[2] > self.cleared]
        if current:
            start, _, turn, clause = current[0]
            self.queue = [q for q in self.queue if not isinstance(q[2], e.PlayoutStarted | e.ClausePlayed)]
            heapq.heapify(self.queue)
            self.held = [(max(p[0], self.now), p[1], p[2], p[3]) for p in self.playing if p[1] > self.now]
            self.machine.receive(e.PlayoutHeld(turn, clause, self.now - start, self.now), self.now)

    def execute(self, command: c.Command) -> None:
        match command:
            case c.Transcribe():
                self.answer("transcribe", self.stt_ms, command.utterance, command.pause)
            case c.Retrieve():
                passage = Passage("c1", "text", "sentence", "h", "hours.md", 0.9, 1.0, 1.0)
                self.result("retrieve", self.search_ms, e.PassagesReady(command.turn, (passage,)), command.turn)
            case c.Generate():
                self.reply(command)
            case c.Synthesise():
                duration = MS_PER_WORD * len(command.text.split())
                event = e.SpeechSynthesised(command.turn, command.clause, duration, True)
                if command.recorded and command.turn in self.released:
                    self.play_recording(event)
                    return
                self.result("synthesise", self.tts_ms, event, command.turn, command.clause)
                self.audio.append((command.turn, command.clause, duration, self.now + self.tts_ms))
                self.play_released()
            case c.ReleaseTurn():
                self.released.add(command.turn)
                self.play_released()
            case c.ClearPlayout():
                self.cleared = command.turn
                self.audio = [a for a in self.audio if a[0] > command.turn]
                self.free_at = self.now
            case c.ResumePlayout():
                for start, end, turn, clause in self.held:
                    self.schedule(turn, clause, end - start, started=start > self.now)
            case c.RecordTurn():
                self.records.append(command.record)
            case c.EndCall():
                self.end = command.record

    def play_recording(self, event: e.SpeechSynthesised) -> None:
        """A recording needs no engine, and goes ahead of whatever has not begun."""
        self.at(self.now, event)
        ends = self.now + event.duration_ms
        self.playing.append((self.now, ends, event.turn, event.clause))
        self.at(self.now, e.PlayoutStarted(event.turn, event.clause, self.now))
        self.at(ends, e.ClausePlayed(event.turn, event.clause, ends))

    def play_released(self) -> None:
        for item in [a for a in self.audio if a[0] in self.released]:
            self.audio.remove(item)
            turn, clause, duration, ready_at = item
            self.free_at = max(self.free_at, ready_at)
            self.schedule(turn, clause, duration)

    def schedule(self, turn: int, clause: int, duration: int, *, started: bool = True) -> None:
        start = max(self.free_at, self.now)
        self.free_at = start + duration
        self.playing.append((start, self.free_at, turn, clause))
        if started:
            self.at(start, e.PlayoutStarted(turn, clause, start))
        self.at(self.free_at, e.ClausePlayed(turn, clause, self.free_at))

    def answer(self, stage: str, latency: int, utterance: int, pause: int) -> None:
        event = e.TranscriptReady(utterance, pause, self.words[utterance], self.confidence, True)
        self.result(stage, latency, event, utterance, pause)

    def reply(self, command: c.Generate) -> None:
        text = ANSWERS.get(command.messages[-1].content, "I am sorry, I don't know that.")
        tool = ToolCall("end_call") if command.messages[-1].content == "goodbye" else None
        chunk = ReplyChunk(text, tool, ("hours.md",), "stop")
        self.result("generate", self.llm_ms, e.ReplyReceived(command.turn, chunk), command.turn)

    def result(self, stage: str, latency: int, event: e.Event, number: int, key: int = 0) -> None:
        failed = e.JobFailed(stage, number, key, "engine_failed")
        self.at(self.now + latency, failed if stage in self.failing else event)

    def commands(self, kind: type) -> list[tuple[int, c.Command]]:
        return [(at, command) for at, command in self.log if isinstance(command, kind)]


def started(**kwargs: object) -> World:
    world = World(**kwargs)
    world.at(0, e.CallStarted("CA1", "+15550100", "+15550199"))
    world.run(3000)
    assert world.machine.state is State.LISTENING
    return world


def test_a_call_from_hello_to_goodbye() -> None:
    world = started()
    end = world.say(3000, 1, "when do you open")
    world.run(end + 8000)
    end = world.say(world.now, 2, "goodbye")
    world.run(end + 8000)
    assert [r.kind for r in world.records] == ["greeting", "reply", "reply"]
    assert world.records[1].heard_text_pii == ANSWERS["when do you open"]
    assert world.records[1].sources == ("hours.md",)
    assert world.end is not None
    assert (world.end.end_reason, world.end.turns) == ("goodbye", 3)
    assert not world.machine._s.jobs


def test_the_reply_is_ready_when_the_turn_ends() -> None:
    """With speculation the caller waits for the endpoint only; without it, for every stage as well."""
    latency = {}
    for speculate in (True, False):
        world = started(policy=TurnPolicy(speculate=speculate))
        end = world.say(3000, 1, "when do you open")
        world.run(end + 8000)
        latency[speculate] = world.records[1].v2v_self_reported_ms
    policy = TurnPolicy()
    assert latency[True] == max(policy.endpoint_short_ms, 100 + 60 + 5 + 100 + 80)
    assert latency[False] == policy.endpoint_short_ms + 5 + 100 + 80


def test_a_caller_who_goes_on_is_answered_once_and_whole() -> None:
    world = started()
    end = world.say(3000, 1, "when do")
    world.words[1] = "when do you open"
    world.at(end + 280, e.SpeechResumed(1, end + 216))
    world.at(end + 900, e.SpeechPaused(1, end + 800))
    world.run(end + 9000)
    replies = [r for r in world.records if r.kind == "reply"]
    assert [r.caller_text_pii for r in replies] == ["when do you open"]
    assert replies[0].speculations == 2
    assert world.machine._s.counters["speculations_wasted"] == 1
    assert world.machine._s.counters["speculations_kept"] == 1
    first = next(command for _, command in world.commands(c.ReleaseTurn) if command.turn == replies[0].turn)
    assert first.turn == replies[0].turn


def test_sound_that_crosses_the_end_of_the_turn_on_its_way_leaves_nobody_waiting() -> None:
    """The gateway closes the utterance when the command comes, so no pause would ever be told of what was resumed."""
    world = started()
    end = world.say(3000, 1, "when do you open")
    closed_at = run_until_closed(world, end)
    world.machine.receive(e.SpeechResumed(1, closed_at - 1), closed_at)
    world.run(end + 8000)
    assert world.records[1].heard_text_pii == ANSWERS["when do you open"]
    assert world.machine.state is State.LISTENING


def test_speech_that_crosses_the_end_of_the_turn_is_the_next_utterance() -> None:
    world = started()
    closed_at = run_until_closed(world, world.say(3000, 1, "do you rent"))
    world.machine.receive(e.SpeechResumed(1, closed_at - 1), closed_at)
    end = world.say(closed_at, 2, "do you rent bicycles")
    world.run(end + 8000)
    replies = [record for record in world.records if record.kind == "reply"]
    assert [record.outcome for record in replies] == ["interrupted", "completed"]
    assert replies[1].heard_text_pii == ANSWERS["do you rent bicycles"]


def run_until_closed(world: World, after: int) -> int:
    """Run until the turn is over; the time."""
    while not world.commands(c.CloseUtterance):
        after += 1
        world.run(after)
    return after


def test_words_over_the_agent_take_the_turn_and_history_holds_what_was_heard() -> None:
    world = started()
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 400)
    begin = next(at for at, _ in world.commands(c.ReleaseTurn)[1:])
    cut = world.say(begin + 2000, 2, "when do you open")
    world.run(cut + 9000)
    interrupted, answered = (r for r in world.records if r.kind == "reply")
    assert interrupted.outcome == "interrupted"
    spoken = ANSWERS["do you rent bicycles"].split()
    heard = interrupted.heard_text_pii.split()
    assert heard == spoken[: len(heard)]
    assert abs(len(heard) - 2000 // MS_PER_WORD) <= 1
    assert answered.heard_text_pii == ANSWERS["when do you open"]
    contents = [m.content for m in world.machine._s.history.messages]
    assert interrupted.heard_text_pii in contents


@pytest.mark.parametrize("nod", ["mhm", "okay", ""])
def test_a_nod_resumes_and_nothing_is_lost_or_repeated(nod: str) -> None:
    world = started()
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 400)
    begin = next(at for at, _ in world.commands(c.ReleaseTurn)[1:])
    world.say(begin + 2000, 2, nod, words=1)
    world.run(begin + 20_000)
    record = next(r for r in world.records if r.kind == "reply")
    assert (record.outcome, record.heard_text_pii) == ("completed", ANSWERS["do you rent bicycles"])
    assert len(world.commands(c.ResumePlayout)) == 1
    assert not [r for r in world.records if r.outcome == "interrupted"]


def test_silence_is_asked_about_twice_then_ends() -> None:
    world = started()
    world.run(120_000)
    assert [r.kind for r in world.records] == ["greeting", "reprompt", "reprompt", "goodbye"]
    assert world.end is not None
    assert world.end.end_reason == "silence"


@pytest.mark.parametrize("stage", ["transcribe", "retrieve", "generate"])
def test_a_failing_stage_is_told_to_the_caller_and_the_call_goes_on(stage: str) -> None:
    world = started(failing={stage})
    end = world.say(3000, 1, "when do you open")
    world.run(end + 5000)
    assert world.records[-1].kind == "apology"
    assert stage in world.records[-1].failed_stages
    world.failing.clear()
    end = world.say(world.now, 2, "when do you open")
    world.run(end + 8000)
    assert world.records[-1].heard_text_pii == ANSWERS["when do you open"]


def test_a_voice_that_fails_ends_the_call_instead_of_a_dead_line() -> None:
    world = started()
    world.failing.add("synthesise")
    world.say(3000, 1, "when do you open")
    world.run(20_000)
    assert world.end is not None
    assert world.end.end_reason == "failed"


def test_hanging_up_in_the_middle_records_what_was_heard() -> None:
    world = started()
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 2000)
    world.at(world.now, e.CarrierStopped("caller_hung_up"))
    world.run(world.now + 10)
    assert world.records[-1].outcome == "cut"
    assert 0 < len(world.records[-1].heard_text_pii.split()) < len(ANSWERS["do you rent bicycles"].split())
    assert world.end is not None
    assert world.end.end_reason == "caller_hung_up"
    assert not world.machine._s.jobs


def test_the_longest_call_ends_with_a_goodbye() -> None:
    world = World(policy=TurnPolicy(max_call_ms=6000))
    world.at(0, e.CallStarted("CA1"))
    world.run(30_000)
    assert world.records[-1].kind == "goodbye"
    assert world.end is not None
    assert world.end.end_reason == "max_length"


def test_every_state_decides_about_every_event() -> None:
    pairs = set(product(State, get_args(e.Event)))
    assert pairs == set(TRANSITIONS) | IGNORED
    assert not set(TRANSITIONS) & IGNORED


def test_words_that_come_after_the_endpoint_may_still_say_that_the_caller_is_not_done() -> None:
    world = started(stt_ms=420)
    end = world.say(3000, 1, "i would like to")
    world.run(end + 700)
    assert world.machine.state is State.PAUSED
    assert not [command for _, command in world.commands(c.ReleaseTurn) if command.turn > 1]
    world.run(end + TurnPolicy().endpoint_long_ms + 1000)
    assert [command for _, command in world.commands(c.ReleaseTurn) if command.turn > 1]


def test_keys_over_the_agent_leave_what_was_heard() -> None:
    world = started()
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 400)
    begin = next(at for at, _ in world.commands(c.ReleaseTurn)[1:])
    world.at(begin + 2000, e.DtmfReceived("1"))
    world.run(begin + 2010)
    record = next(r for r in world.records if r.kind == "reply")
    assert record.outcome == "interrupted"
    assert abs(len(record.heard_text_pii.split()) - 2000 // MS_PER_WORD) <= 1


def test_a_long_nod_is_asked_for_its_words_and_resumes() -> None:
    world = started()
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 400)
    begin = next(at for at, _ in world.commands(c.ReleaseTurn)[1:])
    world.say(begin + 2000, 2, "mhm", words=4)
    world.run(begin + 20_000)
    record = next(r for r in world.records if r.kind == "reply")
    assert (record.outcome, record.heard_text_pii) == ("completed", ANSWERS["do you rent bicycles"])


def test_a_caller_nobody_understands_still_gets_the_turn_in_the_end() -> None:
    world = started()
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 400)
    begin = next(at for at, _ in world.commands(c.ReleaseTurn)[1:])
    world.words[2] = ""
    world.at(begin + 1000, e.SpeechStarted(2, begin + 936))
    world.run(begin + 1000 + 5 * TurnPolicy().barge_in_confirm_ms + 200)
    assert next(r for r in world.records if r.kind == "reply").outcome == "interrupted"
    assert world.machine.state is State.HEARING


@pytest.mark.parametrize(("confidence", "outcome"), [(0.55, "completed"), (0.9, "interrupted")])
def test_a_nod_taken_for_words_resumes_and_a_short_question_does_not(confidence: float, outcome: str) -> None:
    world = started()
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 400)
    begin = next(at for at, _ in world.commands(c.ReleaseTurn)[1:])
    world.confidence = confidence
    world.say(begin + 2000, 2, "how much", words=2)
    world.run(begin + 20_000)
    record = next(r for r in world.records if r.kind == "reply")
    assert record.outcome == outcome
    assert (record.heard_text_pii == ANSWERS["do you rent bicycles"]) is (outcome == "completed")


@pytest.mark.parametrize(("early", "outcome"), [("can i get", "completed"), ("stop", "interrupted")])
def test_words_in_the_middle_of_a_nod_wait_for_its_end_but_for_an_urgent_one(early: str, outcome: str) -> None:
    world = started()
    end = world.say(3000, 1, "do you rent bicycles")
    world.run(end + 400)
    begin = next(at for at, _ in world.commands(c.ReleaseTurn)[1:])
    nod_end = world.say(begin + 2000, 2, early, words=4)
    assert nod_end - begin - 2000 > TurnPolicy().barge_in_confirm_ms
    world.run(nod_end - 50)
    assert (world.machine.state is State.HELD) is (outcome == "completed")
    world.words[2] = "mhm"
    world.run(begin + 20_000)
    assert next(r for r in world.records if r.kind == "reply").outcome == outcome


def falling_voice(text: str, final: str) -> World:
    """A caller whose voice falls 100 ms before the last sound, when ``text`` is known; ``final`` is what was said."""
    world = World()
    world.at(0, e.CallStarted("CA1"))
    world.run(5000)
    end = world.say(5000, 1, final)
    world.at(end - 100, e.SpeechFaded(1))
    world.run(end - 95)
    number = world.machine._s.pauses
    world.at(end - 90, e.TranscriptReady(1, number, text, 0.0, False))
    world.run(end + 4000)
    return world


@pytest.mark.parametrize(
    ("text", "kept"), [("When do you open?", True), ("when do you", False), ("do you open", False)]
)
def test_a_reply_prepared_before_the_pause_is_kept_for_the_same_words_only(text: str, kept: bool) -> None:
    world = falling_voice(text, "when do you open")
    record = world.records[-1]
    assert record.caller_text_pii == "when do you open"
    assert world.machine._s.counters.get("speculations_early_kept", 0) == kept
    times = record.times
    assert times.speech_end_ms is not None
    assert times.released_ms is not None
    assert (times.first_token_ms is not None and times.first_token_ms < times.speech_end_ms + 60) == kept
    assert times.released_ms >= times.speech_end_ms + world.policy.endpoint_min_ms, "never before the endpoint"


def test_nothing_is_prepared_early_on_a_busy_plane_or_without_a_budget() -> None:
    for policy, load in ((TurnPolicy(), 0.5), (TurnPolicy(max_early_speculations=0), 0.0)):
        world = World(policy)
        world.at(0, e.CallStarted("CA1"))
        world.at(10, e.LoadChanged(load))
        world.at(5000, e.SpeechStarted(1, 4940))
        world.at(6000, e.SpeechFaded(1))
        world.run(6100)
        assert not [command for _, command in world.log if isinstance(command, c.Transcribe)]
