"""The invariants of the dialog machine, under any order of events (HOUSE.md)."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from voice_agent.dialog import commands as c
from voice_agent.dialog import events as e
from voice_agent.dialog.machine import DialogMachine
from voice_agent.dialog.policy import AgentPhrases, TurnPolicy
from voice_agent.dialog.state import State
from voice_agent.plan import Outcome
from voice_agent.ports import ReplyChunk, ToolCall

TEXTS = st.sampled_from(
    ["", "mhm", "when do you open", "When do you open?", "i would like to", "five", "goodbye", "tell me about the"]
)
REPLIES = st.sampled_from(
    ["We open at nine. We close at six.", "Well, that depends on the bicycle you have, I think.", "Yes."]
)
TOOLS = {
    "goodbye": ToolCall("end_call"),
    "five": ToolCall("look_up_order", {"number": "123456"}),
    "tell me about the": ToolCall("transfer", {"target": "queue:service"}),
}
STEP = st.integers(min_value=0, max_value=900)


class AnyOrder(RuleBasedStateMachine):
    """A gateway and a model plane that answer late, never, twice, or about things long gone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.machine = DialogMachine(TurnPolicy(), AgentPhrases(), "CA1")
        self.open_jobs: set[tuple[str, int, int]] = set()
        self.ever: list[object] = []
        self.cleared_turn = 0
        self.released: set[int] = set()
        self.interrupted: set[int] = set()
        self.spoken: dict[tuple[int, int], str] = {}
        self.synthesised: list[tuple[int, int]] = []
        self.started: set[tuple[int, int]] = set()
        self.unflushed: set[int] = set()
        self.utterance = 0
        self.speech_open = False
        self.latest = 0
        self.ended = False
        self.feed(e.CallStarted("CA1"))

    # --- the shell ---

    def feed(self, event: e.Event) -> None:
        before = self.machine.state
        self.machine.receive(event, self.now)
        self.latest = max(self.latest, self.now)
        self.drain(before)

    def drain(self, before: State) -> None:
        for command in self.machine.take_commands():
            assert not self.ended, f"{command} after EndCall"
            self.ever.append(command)
            self.check(command)

    def check(self, command: c.Command) -> None:
        match command:
            case c.Transcribe():
                self.start(("transcribe", command.utterance, command.pause))
                if not command.flush:
                    self.unflushed.add(command.pause)
            case c.Retrieve():
                self.start(("retrieve", command.turn, 0))
            case c.Generate():
                self.start(("generate", command.turn, 0))
            case c.Synthesise():
                assert command.turn > self.cleared_turn, "media of a cleared turn"
                assert command.turn not in self.interrupted
                assert command.text.strip()
                self.start(("synthesise", command.turn, command.clause))
                # A phrase that breaks a silence is no part of what is to be said.
                if command.text not in (self.machine.agent.filler, self.machine.agent.hold):
                    self.spoken[command.turn, command.clause] = command.text
            case c.RunTool():
                assert command.turn in self.released, "a tool of a turn that may still be dropped"
                self.start(("tool", command.turn, command.index))
            case c.ReleaseTurn():
                assert command.turn > self.cleared_turn, "media of a cleared turn"
                assert command.turn not in self.released
                reply, utterance = self.machine._s.reply, self.machine._s.utterance
                assert reply is None or reply.kind != "reply" or utterance is None, (
                    "released while the caller has the turn"
                )
                assert reply is None or not reply.early, "released for words that were not final"
                self.released.add(command.turn)
            case c.ClearPlayout():
                self.cleared_turn = max(self.cleared_turn, command.turn)
                self.synthesised = [p for p in self.synthesised if p[0] > command.turn]
            case c.ResumePlayout():
                reply = self.machine._s.reply
                assert reply is not None, "resumed the playout of nothing"
                assert reply.turn > self.cleared_turn, "resumed media of a cleared turn"
                assert reply.turn not in self.interrupted, "resumed media of an interrupted turn"
            case c.CancelTurn():
                self.open_jobs = {j for j in self.open_jobs if j[0] == "transcribe" or j[1] != command.turn}
            case c.CloseUtterance():
                self.open_jobs = {j for j in self.open_jobs if j[0] != "transcribe" or j[1] != command.utterance}
            case c.RecordTurn():
                record = command.record
                heard, told = record.heard_text_pii.split(), record.agent_text_pii.split()
                commanded = " ".join(text for (turn, _), text in sorted(self.spoken.items()) if turn == record.turn)
                assert commanded.split()[: len(heard)] == heard, "heard what was never spoken"
                assert told[: len(commanded.split())] == commanded.split(), "recorded other words than were spoken"
                if record.outcome == "interrupted":
                    self.interrupted.add(record.turn)
            case c.EndCall():
                self.ended = True
                assert not self.open_jobs, f"jobs left open at the end: {self.open_jobs}"

    def start(self, job: tuple[str, int, int]) -> None:
        assert job not in self.open_jobs, f"{job} started twice"
        self.open_jobs.add(job)

    # --- the world ---

    @rule(step=STEP)
    def time_passes(self, step: int) -> None:
        self.now += step
        before = self.machine.state
        deadline = self.machine.next_deadline_ms()
        if deadline is not None and deadline <= self.now:
            self.machine.on_deadline(self.now)
            self.drain(before)
            later = self.machine.next_deadline_ms()
            assert later is None or later >= self.now

    @rule()
    def caller_speaks(self) -> None:
        if self.speech_open:
            self.feed(e.SpeechResumed(self.utterance, self.now))
        else:
            self.utterance += 1
            self.speech_open = True
            self.feed(e.SpeechStarted(self.utterance, self.now))

    @rule()
    def caller_pauses(self) -> None:
        self.feed(e.SpeechPaused(self.utterance, self.now))

    @rule(faded=st.booleans())
    def voice_falls_or_rises(self, faded: bool) -> None:
        self.feed((e.SpeechFaded if faded else e.SpeechRose)(self.utterance))
        reply = self.machine._s.reply
        if not faded and self.machine.state is State.HEARING:
            assert reply is None or self.machine._s.utterance.number != self.utterance

    @rule(
        text=st.sampled_from(["when do you open", "tell me about bikes"]),
        answers=st.integers(0, 3),
        how=st.integers(0, 2),
    )
    def a_reply_is_foreseen_in_vain(self, text: str, answers: int, how: int) -> None:
        """A caller starts, a reply is prepared when the voice falls, and the caller goes on: nothing of it is left."""
        if self.machine.state is not State.LISTENING:
            return
        self.speech_open = False
        self.caller_speaks()
        before = self.without_numbers()
        self.feed(e.SpeechFaded(self.utterance))
        asked = [job for job in self.open_jobs if job[:2] == ("transcribe", self.utterance)]
        if not asked:
            return  # throttled by load, or by a caller who never stops there
        self.open_jobs.discard(asked[0])
        self.feed(e.TranscriptReady(self.utterance, asked[0][2], text, 0.0, False))
        foreseen = self.machine._s.reply
        assert foreseen is not None
        for _ in range(answers):
            self.one_answer("We open at nine. We close at six.")
        if how == 0:
            self.feed(e.SpeechRose(self.utterance))
        elif how == 1:
            self.feed(e.TranscriptReady(self.utterance, 0, f"{text} on", 0.0, False))
        else:
            self.feed(e.SpeechStarted(self.utterance + 1, self.now))
            self.utterance += 1
        assert not [job for job in self.open_jobs if job[0] != "transcribe" and job[1] == foreseen.turn]
        assert foreseen.turn not in self.released
        after = self.without_numbers()
        if how == 0:
            assert after == before
        assert self.machine._s.reply is None

    def without_numbers(self) -> dict[str, object]:
        """All the machine knows but how often it has done something, and when it last asked for words."""
        numbers = ("turn", "pauses", "speculations", "early_speculations", "times", "load")
        state = {key: value for key, value in self.remembered().items() if key not in numbers}
        utterance = state["utterance"]
        assert isinstance(utterance, dict)
        return {
            **state,
            "utterance": {key: value for key, value in utterance.items() if key not in ("fade", "partial")},
        }

    def one_answer(self, reply: str) -> None:
        """The engine that was asked first answers."""
        jobs = sorted(job for job in self.open_jobs if job[0] != "transcribe")
        if not jobs:
            return
        stage, number, key = jobs[0]
        self.open_jobs.discard(jobs[0])
        if stage == "synthesise":
            self.synthesised.append((number, key))
        answers = {
            "retrieve": e.PassagesReady(number, ()),
            "generate": e.ReplyReceived(number, ReplyChunk(reply, None, (), "stop")),
            "synthesise": e.SpeechSynthesised(number, key, 1500, True),
        }
        self.feed(answers[stage])

    @rule()
    def gateway_closes(self) -> None:
        self.speech_open = False

    @rule(utterance=st.integers(0, 6), text=TEXTS, confidence=st.floats(0, 1), flushed=st.booleans())
    def any_transcript(self, utterance: int, text: str, confidence: float, flushed: bool) -> None:
        if ("transcribe", utterance, utterance) not in self.open_jobs:
            self.feed(e.TranscriptReady(utterance, utterance, text, confidence, flushed))

    @precondition(lambda self: self.open_jobs)
    @rule(data=st.data(), text=TEXTS, reply=REPLIES, last=st.booleans(), fail=st.integers(0, 9))
    def a_job_answers(self, data: st.DataObject, text: str, reply: str, last: bool, fail: int) -> None:
        job = data.draw(st.sampled_from(sorted(self.open_jobs)))
        stage, number, key = job
        if fail == 0:
            self.open_jobs.discard(job)
            if stage == "synthesise":
                self.broke_off(number, key)
            self.feed(e.JobFailed(stage, number, key, "engine_failed"))
        elif stage == "transcribe":
            self.open_jobs.discard(job)
            self.feed(e.TranscriptReady(number, key, text, 0.9, key not in self.unflushed))
        elif stage == "retrieve":
            self.open_jobs.discard(job)
            self.feed(e.PassagesReady(number, ()))
        elif stage == "tool":
            self.open_jobs.discard(job)
            self.feed(e.ToolFinished(number, key, Outcome("look_up_order", True, {"status": "sent"}, "It was sent.")))
        elif stage == "generate":
            if last:
                self.open_jobs.discard(job)
            tool = TOOLS.get(text)
            self.feed(e.ReplyReceived(number, ReplyChunk(reply, tool, (), "stop" if last else "")))
        else:
            if last:
                self.open_jobs.discard(job)
                self.synthesised.append((number, key))
            self.feed(e.SpeechSynthesised(number, key, 1500, last))

    def broke_off(self, turn: int, key: int) -> None:
        """Words whose voice breaks off in their middle are said again as a clause of their own, once."""
        reply = self.machine._s.reply
        if reply is not None and reply.turn == turn and reply.released and key < len(reply.clauses):
            clause = reply.clauses[key]
            if clause.text and clause.duration_ms and not clause.again:
                self.spoken.pop((turn, key))

    def remembered(self) -> dict[str, object]:
        """All the machine knows but the time and its counters."""
        state = self.machine.snapshot()["state"]
        return {key: value for key, value in state.items() if key not in ("counters", "now_ms")}

    @rule(back=st.integers(1, 2000))
    def clock_runs_backwards(self, back: int) -> None:
        """A shell whose clock jumped: time stands still, and nothing is due before what was already told."""
        self.machine.receive(e.LoadChanged(0.0), self.now - back)
        assert self.machine.now_ms >= self.latest
        self.drain(self.machine.state)

    @rule(turn=st.integers(0, 8), clause=st.integers(0, 3))
    def any_late_result(self, turn: int, clause: int) -> None:
        """Results nobody waits for change nothing."""
        if ("generate", turn, 0) not in self.open_jobs and ("synthesise", turn, clause) not in self.open_jobs:
            before = self.remembered()
            self.feed(e.ReplyReceived(turn, ReplyChunk("late", finish_reason="stop")))
            self.feed(e.SpeechSynthesised(turn, clause, 400, True))
            assert self.remembered() == before

    @rule(turn=st.integers(0, 8), clause=st.integers(0, 3), heard=st.integers(0, 3000), what=st.integers(0, 2))
    def any_playout(self, turn: int, clause: int, heard: int, what: int) -> None:
        if what == 0:
            self.feed(e.PlayoutStarted(turn, clause, self.now))
        elif what == 1:
            self.feed(e.PlayoutHeld(turn, clause, heard, self.now))
        else:
            self.feed(e.ClausePlayed(turn, clause, self.now))

    def audible(self) -> list[tuple[int, int]]:
        return [clause for clause in self.synthesised if clause[0] in self.released]

    @precondition(lambda self: self.audible())
    @rule(to_end=st.booleans())
    def playout_goes_on(self, to_end: bool) -> None:
        turn, clause = self.audible()[0]
        if (turn, clause) not in self.started:
            self.started.add((turn, clause))
            self.feed(e.PlayoutStarted(turn, clause, self.now))
        if to_end and (turn, clause) in self.audible():
            self.synthesised.remove((turn, clause))
            self.now += 700
            self.feed(e.ClausePlayed(turn, clause, self.now))

    @precondition(lambda self: self.started & set(self.audible()))
    @rule(heard=st.integers(0, 1500), pauses=st.booleans(), text=TEXTS)
    def caller_speaks_over_the_agent(self, heard: int, pauses: bool, text: str) -> None:
        turn, clause = min(self.started & set(self.audible()))
        self.feed(e.PlayoutHeld(turn, clause, heard, self.now))
        self.caller_speaks()
        self.now += 300
        self.feed(e.TranscriptReady(self.utterance, 0, text, 0.9, False))
        if pauses:
            self.caller_pauses()

    @rule(steps=st.integers(1, 12), text=TEXTS, reply=REPLIES)
    def all_goes_well(self, steps: int, text: str, reply: str) -> None:
        """A stretch of a normal call, so that the odd things above happen in every state."""
        for _ in range(steps):
            self.now += 40
            if self.open_jobs:
                stage, number, key = min(self.open_jobs)
                self.open_jobs.discard((stage, number, key))
                tool = TOOLS.get(text)
                answers = {
                    "transcribe": e.TranscriptReady(number, key, text, 0.9, key not in self.unflushed),
                    "retrieve": e.PassagesReady(number, ()),
                    "generate": e.ReplyReceived(number, ReplyChunk(reply, tool, (), "stop")),
                    "tool": e.ToolFinished(number, key, Outcome("look_up_order", False, code="deadline_exceeded")),
                    "synthesise": e.SpeechSynthesised(number, key, 1500, True),
                }
                if stage == "synthesise":
                    self.synthesised.append((number, key))
                self.feed(answers[stage])
            elif self.audible():
                self.playout_goes_on(to_end=True)
            else:
                self.time_passes(500)

    @rule(digit=st.sampled_from("0123456789*#"))
    def key(self, digit: str) -> None:
        self.feed(e.DtmfReceived(digit))

    @rule(stage=st.sampled_from(["transcribe", "retrieve", "generate", "synthesise", "tool"]), n=st.integers(0, 8))
    def any_failure(self, stage: str, n: int) -> None:
        if (stage, n, 0) not in self.open_jobs:
            self.feed(e.JobFailed(stage, n, 0, "deadline_exceeded"))

    @rule(level=st.floats(0, 1))
    def load_changes(self, level: float) -> None:
        self.feed(e.LoadChanged(level))

    @rule(chance=st.integers(0, 30))
    def operator_ends(self, chance: int) -> None:
        if chance == 0:
            self.feed(e.HangUpRequested("drained"))

    @rule(chance=st.integers(0, 30))
    def carrier_stops(self, chance: int) -> None:
        if chance == 0:
            self.feed(e.CarrierStopped("caller_hung_up"))

    # --- always ---

    @invariant()
    def deadlines_do_not_go_back(self) -> None:
        deadline = self.machine.next_deadline_ms()
        assert deadline is None or deadline >= self.latest
        assert (self.machine.state is State.ENDED) == self.ended
        if self.ended:
            assert deadline is None

    @invariant()
    def jobs_agree(self) -> None:
        assert self.machine._s.jobs == self.open_jobs

    @invariant()
    def never_stuck(self) -> None:
        """Whatever happens, something is awaited: a caller, an engine, playout or a deadline."""
        s = self.machine._s
        if s.state is State.THINKING:
            assert s.jobs or s.utterance is not None or s.reply is not None
        if s.state in (State.LISTENING, State.PAUSED):
            assert s.timers
        if s.state in (State.SPEAKING, State.HELD, State.ENDING):
            assert s.reply is not None

    @rule()
    def survives_a_hand_over(self) -> None:
        data = json.loads(json.dumps(self.machine.snapshot()))
        other = DialogMachine.restore(data, self.machine.policy, self.machine.agent)
        assert other.snapshot() == self.machine.snapshot()
        self.machine = other


AnyOrder.TestCase.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnyOrder = AnyOrder.TestCase
