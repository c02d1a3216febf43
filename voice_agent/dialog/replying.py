"""The agent's voice: a reply is released, synthesised, played, recorded or dropped."""

from __future__ import annotations

from typing import Final

from voice_agent.dialog.call import Call
from voice_agent.dialog.commands import (
    CancelTurn,
    ClearPlayout,
    RecordTurn,
    ReleaseTurn,
    Synthesise,
)
from voice_agent.dialog.events import (
    ClausePlayed,
    PlayoutStarted,
    SpeechSynthesised,
)
from voice_agent.dialog.records import TurnRecord
from voice_agent.dialog.reply import Reply
from voice_agent.dialog.state import State, Timer

FILLER_GRACE_MS: Final = 100
"""A silence that is long already when the turn becomes the agent's may go on for this."""


class Replying(Call):
    """Playing replies."""

    def _expect_sound(self) -> None:
        """It is the agent's turn: unless the caller hears something by then, ``_on_filler`` sees to it."""
        self._at(Timer.FILLER, max(self._s.quiet_ms + self.policy.filler_after_ms, self._s.now_ms + FILLER_GRACE_MS))

    def _release(self) -> None:
        """Let the reply out, and take over what it means for the dialog's memory."""
        reply = self._s.reply
        if reply is None or reply.released:
            return
        reply.released = True
        reply.before, self._s.memory = self._s.memory, reply.memory
        reply.times.endpoint_ms, reply.times.released_ms = self._s.times.endpoint_ms, self._s.now_ms
        if reply.speculative:
            self._s.count("speculations_kept")
        self._commands.append(ReleaseTurn(reply.turn, reply.interruptible))
        if Timer.FILLER not in self._s.timers:
            self._s.quiet_ms = self._s.now_ms  # the turn began with this, not with a pause of the caller
            self._expect_sound()
        self._synthesise_next()

    def _synthesise_next(self) -> None:
        """Ask for the audio of the next clause, once the output policies have seen it."""
        reply = self._s.reply
        while reply is not None and (index := reply.next_to_synthesise()) is not None:
            clause = reply.clauses[index]
            clause.asked = True
            if clause.keys:
                self._start(("synthesise", reply.turn, index), Synthesise(reply.turn, index, "", clause.keys))
                return
            before = " ".join(said.text for said in reply.clauses[:index] if said.text)
            checked = self.director.check(clause.text, before)
            reply.findings += checked.findings
            clause.text = checked.text
            if checked.stop:
                reply.stop(index)
            if clause.text:
                # An apology is for when engines fail: it must not need one.
                recorded = reply.kind == "apology"
                self._start(
                    ("synthesise", reply.turn, index),
                    Synthesise(reply.turn, index, clause.text, recorded=recorded, again=clause.again),
                )
                return
            clause.synthesised = clause.played = True

    def _on_audio(self, event: SpeechSynthesised) -> None:
        reply = self._s.reply
        if reply is None or event.clause >= len(reply.clauses):
            return
        clause = reply.clauses[event.clause]
        clause.duration_ms = event.duration_ms
        if event.engine and not clause.recorded:
            reply.engines["tts"] = event.engine
        if clause.started_at_ms is not None:
            self._s.quiet_ms = max(self._s.quiet_ms, clause.started_at_ms + clause.duration_ms)
        if reply.times.first_audio_ms is None and event.duration_ms:
            reply.times.first_audio_ms = self._s.now_ms
        if event.last:
            clause.synthesised, clause.word_ends_ms = True, event.word_ends_ms
            clause.played = clause.played or clause.duration_ms == 0
            self._synthesise_next()
            self._finish_if_played()

    def _on_playout_started(self, event: PlayoutStarted) -> None:
        reply = self._playing(event.turn, event.clause)
        if reply is None:
            return
        clause = reply.clauses[event.clause]
        clause.started_at_ms = event.at_ms
        self._s.quiet_ms = max(self._s.quiet_ms, event.at_ms + clause.duration_ms)
        self._expect_sound()
        if reply.times.playout_started_ms is None:
            reply.times.playout_started_ms = event.at_ms
            self._s.history.add("user", reply.model_text or reply.caller_text)
            if reply.kind != "filler":
                self._s.prefix.clear()
        if self._s.state is State.THINKING:
            self._go(State.SPEAKING)

    def _on_clause_played(self, event: ClausePlayed) -> None:
        reply = self._playing(event.turn, event.clause)
        if reply is not None:
            clause = reply.clauses[event.clause]
            reply.times.playout_ended_ms = event.at_ms
            if not clause.played:
                # The mark of a clause that broke off comes when it was given up; the ear was empty before.
                self._s.quiet_ms = event.at_ms
            clause.played = True
            # The next clause may have begun before the mark came.
            self._s.quiet_ms = max(self._s.quiet_ms, reply.sounds_until_ms())
            self._expect_sound()
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
        if any(job[0] != "transcribe" and job[1] == reply.turn for job in self._s.jobs):
            self._commands.append(CancelTurn(reply.turn))  # an output rule stopped the reply, not its model
            self._forget_jobs(reply.turn)
        self._s.timers.pop(Timer.FILLER, None)
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
                # Its words will be answered again with what follows, from where the dialog stood.
                self._s.memory = reply.before
                self._commands.append(ClearPlayout(reply.turn))
            self._commands.append(CancelTurn(reply.turn))
            self._forget_jobs(reply.turn)
            self._s.count("replies_dropped" if reply.released else "speculations_wasted")
            self._s.timers.pop(Timer.FILLER, None)
            self._s.reply = None

    def _drop_reply(self, outcome: str) -> None:
        reply = self._s.reply
        if reply is not None:
            if reply.released:
                self._record(outcome)
            self._commands += [ClearPlayout(reply.turn), CancelTurn(reply.turn)]
            self._forget_jobs(reply.turn)
            self._s.timers.pop(Timer.FILLER, None)
            self._s.reply = None

    def _record(self, outcome: str) -> None:
        reply = self._s.reply
        if reply is None:
            return
        heard = reply.heard_text()
        self._s.history.add("assistant", heard)
        self._s.turns += 1
        redact = self.director.redact
        self._commands.append(
            RecordTurn(
                TurnRecord(
                    call_id=self.call_id,
                    turn=reply.turn,
                    kind=reply.kind,
                    times=reply.times,
                    caller_text_pii=redact(reply.caller_text),
                    caller_confidence=reply.confidence,
                    agent_text_pii=redact(reply.text()),
                    heard_text_pii=redact(heard),
                    sources=reply.sources,
                    outcome=outcome,
                    speculations=self._s.speculations,
                    tool_calls=tuple(call.name for call in reply.tool_calls),
                    failed_stages=tuple(reply.failed_stages),
                    engines=({"stt": self._s.heard_by} if self._s.heard_by and reply.caller_text else {})
                    | reply.engines,
                    fillers=reply.fillers,
                )
            )
        )
        self._s.speculations = self._s.early_speculations = 0
