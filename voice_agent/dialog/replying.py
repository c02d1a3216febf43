"""The agent's side: a reply is prepared, released, played, recorded or dropped."""

from __future__ import annotations

from copy import deepcopy

from voice_agent.dialog.call import Call
from voice_agent.dialog.commands import (
    CancelTurn,
    ClearPlayout,
    Generate,
    RecordTurn,
    ReleaseTurn,
    Retrieve,
    Synthesise,
)
from voice_agent.dialog.events import (
    ClausePlayed,
    PassagesReady,
    PlayoutStarted,
    ReplyReceived,
    SpeechSynthesised,
)
from voice_agent.dialog.records import StageTimes, TurnRecord
from voice_agent.dialog.reply import Reply
from voice_agent.dialog.state import State, Timer
from voice_agent.ports import ReplyChunk


class Replying(Call):
    """Making and playing replies."""

    def _prepare(self) -> None:
        """Start a reply to what the caller has said; nothing of it goes out before ``_release``."""
        self._s.turn += 1
        confidence = self._s.utterance.confidence if self._s.utterance else self._s.confidence
        self._s.reply = Reply(
            self._s.turn, "reply", deepcopy(self._s.times), self._s.caller_text(), confidence=confidence
        )
        self._start(("retrieve", self._s.turn, 0), Retrieve(self._s.turn, self._s.caller_text()))

    def _release(self) -> None:
        reply = self._s.reply
        if reply is not None and not reply.released:
            reply.released = True
            reply.times.endpoint_ms, reply.times.released_ms = self._s.times.endpoint_ms, self._s.now_ms
            self._commands.append(ReleaseTurn(reply.turn, reply.interruptible))
            self._synthesise_next()
            self._finish_if_played()

    def _on_passages(self, event: PassagesReady) -> None:
        reply = self._s.reply
        if reply is not None:
            reply.times.retrieved_ms = self._s.now_ms
            messages = self._s.history.prompt(self.agent.system_prompt, reply.caller_text)
            self._start(
                ("generate", reply.turn, 0),
                Generate(reply.turn, messages, event.passages, reply.confidence, speculative=not reply.released),
            )

    def _on_reply_chunk(self, event: ReplyReceived) -> None:
        reply = self._s.reply
        if reply is not None:
            reply.take(event.chunk, self._s.now_ms)
            self._synthesise_next()
            if reply.text_done and not reply.clauses and not reply.end_reason:
                self._fail("generate")
            else:
                self._finish_if_played()

    def _synthesise_next(self) -> None:
        reply = self._s.reply
        index = reply.next_to_synthesise() if reply is not None else None
        if reply is not None and index is not None:
            reply.clauses[index].asked = True
            self._start(("synthesise", reply.turn, index), Synthesise(reply.turn, index, reply.clauses[index].text))

    def _on_audio(self, event: SpeechSynthesised) -> None:
        reply = self._s.reply
        if reply is None:
            return
        clause = reply.clauses[event.clause]
        clause.duration_ms = event.duration_ms
        if reply.times.first_audio_ms is None and event.duration_ms:
            reply.times.first_audio_ms = self._s.now_ms
        if event.last:
            clause.synthesised, clause.word_ends_ms = True, event.word_ends_ms
            clause.played = clause.played or clause.duration_ms == 0
            self._synthesise_next()
            self._finish_if_played()

    def _say(self, text: str, kind: str, end_reason: str = "") -> None:
        """Speak a fixed phrase as a turn of its own."""
        self._s.turn += 1
        times = deepcopy(self._s.times) if kind == "apology" else StageTimes()
        reply = Reply(self._s.turn, kind, times, end_reason=end_reason, interruptible=not end_reason)
        reply.caller_text = self._s.caller_text() if kind == "apology" else ""
        reply.take(ReplyChunk(text, finish_reason="stop"), self._s.now_ms)
        self._s.reply = reply
        self._s.timers.pop(Timer.SILENCE, None)
        self._s.timers.pop(Timer.ENDPOINT, None)
        self._go(State.ENDING if end_reason else State.THINKING)
        self._release()

    def _on_playout_started(self, event: PlayoutStarted) -> None:
        reply = self._playing(event.turn, event.clause)
        if reply is None:
            return
        reply.clauses[event.clause].started_at_ms = event.at_ms
        if reply.times.playout_started_ms is None:
            reply.times.playout_started_ms = event.at_ms
            self._s.history.add("user", reply.caller_text)
            self._s.prefix.clear()
        if self._s.state is State.THINKING:
            self._go(State.SPEAKING)

    def _on_clause_played(self, event: ClausePlayed) -> None:
        reply = self._playing(event.turn, event.clause)
        if reply is not None:
            reply.clauses[event.clause].played = True
            reply.times.playout_ended_ms = event.at_ms
            self._finish_if_played()

    def _playing(self, turn: int, clause: int) -> Reply | None:
        reply = self._s.reply
        if reply is None or reply.turn != turn or not reply.released or clause >= len(reply.clauses):
            self._s.count("stale_playout")
            return None
        return reply

    def _finish_if_played(self) -> None:
        reply = self._s.reply
        if reply is None or not reply.released or not reply.played_out():
            return
        self._record("completed")
        self._s.reply = None
        if self._s.state is State.HELD:
            self._commands.append(ClearPlayout(reply.turn))  # nothing is left to resume: lift the hold
        if reply.end_reason:
            self._end(reply.end_reason)
        else:
            self._floor_is_free()

    def _abandon_reply(self) -> None:
        """The caller went on before hearing any of it: drop it; its words stay part of the turn."""
        reply = self._s.reply
        if reply is not None:
            if reply.released:
                self._commands.append(ClearPlayout(reply.turn))
            self._commands.append(CancelTurn(reply.turn))
            self._forget_jobs(reply.turn)
            self._s.count("replies_dropped")
            self._s.reply = None

    def _drop_reply(self, outcome: str) -> None:
        reply = self._s.reply
        if reply is not None:
            if reply.released:
                self._record(outcome)
            self._commands += [ClearPlayout(reply.turn), CancelTurn(reply.turn)]
            self._forget_jobs(reply.turn)
            self._s.reply = None

    def _record(self, outcome: str) -> None:
        reply = self._s.reply
        if reply is None:
            return
        heard = reply.heard_text()
        self._s.history.add("assistant", heard)
        self._s.turns += 1
        self._commands.append(
            RecordTurn(
                TurnRecord(
                    call_id=self.call_id,
                    turn=reply.turn,
                    kind=reply.kind,
                    times=reply.times,
                    caller_text_pii=reply.caller_text,
                    caller_confidence=reply.confidence,
                    agent_text_pii=reply.text(),
                    heard_text_pii=heard,
                    sources=reply.sources,
                    outcome=outcome,
                    speculations=self._s.speculations,
                    tool_calls=tuple(call.name for call in reply.tool_calls),
                    failed_stages=tuple(reply.failed_stages),
                )
            )
        )
        self._s.speculations = 0

    def _fail(self, stage: str) -> None:
        """Tell the caller once; if even that cannot be spoken, end the call rather than leave a dead line."""
        reply = self._s.reply
        if reply is not None:
            reply.failed_stages.append(stage)
        if reply is not None and reply.kind != "reply" and stage == "synthesise":
            self._drop_reply("cut")
            self._end("failed")
            return
        held = self._s.state is State.HELD
        self._drop_reply("cut")
        if held:
            self._floor_is_free()
            return
        self._say(self.agent.apology, "apology")
        if self._s.reply is not None:
            self._s.reply.failed_stages.append(stage)
