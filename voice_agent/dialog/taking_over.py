"""A call moves: to another process with the same media gateway, or back from the carrier to another gateway."""

from __future__ import annotations

from voice_agent.dialog.commands import ReleaseTurn, Retrieve, RunTool, Synthesise, Transcribe
from voice_agent.dialog.interrupting import Interrupting
from voice_agent.dialog.reply import Reply
from voice_agent.dialog.state import State, Timer


class TakingOver(Interrupting):
    """What a new owner does first with a machine that was restored."""

    def reopen(self) -> None:
        """The owner died: command again what it had open. The gateway knows what of it was given to it already.

        A reply not yet released is dropped: the end of the turn makes it again.
        """
        for stage, utterance, pause in sorted(self._s.jobs):
            if stage == "transcribe":
                self._commands.append(Transcribe(utterance, pause))
        reply = self._s.reply
        if reply is None:
            return
        if not reply.released:
            self._abandon_reply()
            return
        self._commands.append(ReleaseTurn(reply.turn, reply.interruptible))
        self._reopen_text(reply)
        for index, clause in enumerate(reply.clauses):
            if ("synthesise", reply.turn, index) in self._s.jobs:
                self._commands.append(
                    Synthesise(
                        reply.turn,
                        index,
                        clause.recorded or clause.text,
                        clause.keys,
                        bool(clause.recorded) or reply.kind == "apology",
                        clause.again,
                    )
                )
        if reply.running is not None:
            index = reply.tools_run - 1
            self._commands.append(RunTool(reply.turn, index, reply.running.name, reply.running.arguments))
        self._synthesise_next()
        self._finish_if_played()

    def _reopen_text(self, reply: Reply) -> None:
        """Text that was on its way is asked for again."""
        if ("generate", reply.turn, 0) in self._s.jobs:
            self._generate_again(reply)
        elif ("retrieve", reply.turn, 0) in self._s.jobs:
            self._commands.append(Retrieve(reply.turn, reply.model_text or reply.caller_text))

    def reconnect(self) -> None:
        """The gateway died and the carrier came back by another: what was queued there is lost, so ask the caller.

        The new gateway numbers utterances from 1 and holds none open.
        """
        if self._s.state is State.ENDED:
            return
        reply, self._s.utterance, self._s.closed = self._s.reply, None, 0
        for timer in (Timer.ENDPOINT, Timer.CONFIRM, Timer.SILENCE, Timer.KEYS, Timer.FILLER):
            self._s.timers.pop(timer, None)
        if reply is not None and reply.released:
            self._record("cut")
        self._s.reply = None
        self._s.jobs.clear()
        self._s.prefix.clear()
        self._s.count("reconnects")
        if reply is not None and reply.end_reason:
            self._end(reply.end_reason)
        elif reply is not None and reply.kind == "greeting":
            self._begin(self.director.opening(), "greeting")  # what it has to disclose was not heard to the end
        else:
            self._say(self.agent.reprompt, "reprompt")
