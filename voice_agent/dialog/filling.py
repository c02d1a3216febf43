"""No dead air: when it is the agent's turn and nothing is heard, a recorded phrase is played, whatever hangs."""

from __future__ import annotations

from voice_agent.dialog.commands import Synthesise
from voice_agent.dialog.events import JobFailed
from voice_agent.dialog.planning import Planning
from voice_agent.dialog.records import StageTimes
from voice_agent.dialog.reply import Clause, Reply
from voice_agent.dialog.state import State, Timer

_AGENTS_TURN = (State.THINKING, State.SPEAKING, State.ENDING)


class Filling(Planning):
    """Breaking silences. ``Timer.FILLER`` rings ``filler_after_ms`` after the last sound on the line."""

    def _on_filler(self) -> None:
        """Nothing has been heard for long: say so, rather than nothing.

        What is late may be the words of the caller, of the model, or the voice; the phrase needs none of them.
        """
        state, reply = self._s, self._s.reply
        if state.state not in _AGENTS_TURN:
            return
        if reply is not None and reply.early:
            self._abandon_reply()  # the words that would settle it are late: they get a reply of their own
            reply = None
        due_ms = state.quiet_ms + self.policy.filler_after_ms
        if due_ms > state.now_ms:
            self._at(Timer.FILLER, due_ms)
        elif reply is None:
            self._fill_while_listening()
        elif reply.released and reply.waiting_for_sound() and not self._filling(reply):
            self._fill(reply)

    def _filling(self, reply: Reply) -> bool:
        """A phrase is on its way to the caller's ear already."""
        return any(clause.recorded and not clause.played for clause in reply.clauses)

    def _fill(self, reply: Reply) -> None:
        index = len(reply.clauses)
        phrase = self.agent.hold if self._s.fillers else self.agent.filler
        self._s.fillers += 1
        self._s.count("fillers")
        reply.clauses.append(Clause("", asked=True, recorded=phrase))
        self._start(("synthesise", reply.turn, index), Synthesise(reply.turn, index, phrase, recorded=True))

    def _fill_while_listening(self) -> None:
        """The caller's words are not known yet: the phrase is a turn of its own, and the answer comes after it."""
        self._s.turn += 1
        reply = Reply(self._s.turn, "filler", StageTimes(), text_done=True, memory=self._s.memory)
        self._s.reply = reply
        self._fill(reply)
        self._release()

    def _on_voice_failed(self, event: JobFailed) -> None:
        """The voice broke off, or never came."""
        reply = self._s.reply
        if reply is None or event.key >= len(reply.clauses):
            return
        clause = reply.clauses[event.key]
        if clause.recorded:
            clause.synthesised = clause.played = True
            self._finish_if_played()
        elif reply.released and reply.say_again(event.key):
            reply.failed_stages.append(event.stage)
            self._s.count("clauses_said_again")
            self._synthesise_next()
        else:
            self._fail(event.stage)
