"""The agent's mind: a plan becomes words, by its own text, by the language model, or by tools."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

from voice_agent.dialog.clauses import ClauseSplitter
from voice_agent.dialog.commands import Generate, Retrieve, RunTool
from voice_agent.dialog.events import PassagesReady, ReplyReceived, ToolFinished
from voice_agent.dialog.records import StageTimes
from voice_agent.dialog.reply import Clause, Reply
from voice_agent.dialog.replying import Replying
from voice_agent.dialog.state import State, Timer
from voice_agent.plan import FAILED, CallerInput, Outcome, Plan
from voice_agent.ports import Message, ReplyChunk, ToolCall
from voice_agent.tools import SEND_DTMF


class Planning(Replying):
    """Making replies."""

    def _prepare(self, digits: str = "", early: str = "") -> None:
        """Start a reply to what the caller has said or keyed; nothing of it goes out before ``_release``.

        ``early``: words of a caller who still speaks, taken as sure.
        """
        self._s.turn += 1
        confidence = self._s.utterance.confidence if self._s.utterance else self._s.confidence
        confidence = 1.0 if early else confidence
        text = "" if digits else early or self._s.caller_text()
        reply = Reply(self._s.turn, "reply", deepcopy(self._s.times), text or " ".join(digits), confidence=confidence)
        reply.splitter = self._splitter()
        reply.speculative, reply.early = bool(early) or self._s.state is State.PAUSED, bool(early)
        self._s.reply = reply
        self._follow(reply, self.director.answer(self._s.memory, CallerInput(text, confidence, digits)))

    def _splitter(self) -> ClauseSplitter:
        return ClauseSplitter(first_min_words=self.policy.first_clause_words)

    def _follow(self, reply: Reply, plan: Plan) -> None:
        """Begin what a plan asks for, as (more of) this reply."""
        reply.memory, reply.interruptible = plan.memory, plan.interruptible
        reply.model_text = plan.model_text or reply.model_text
        reply.findings += plan.findings
        reply.end_reason = plan.end_reason
        if plan.say:
            reply.take(ReplyChunk(plan.say, finish_reason="stop"), self._s.now_ms)
        if plan.tool is not None:
            reply.tool_calls.append(plan.tool)
            reply.waiting.append(plan.tool)
            reply.from_model = False
        if plan.ask_model:
            self._start(("retrieve", reply.turn, 0), Retrieve(reply.turn, reply.model_text or reply.caller_text))
        reply.text_done = reply.stopped or not (plan.ask_model or plan.tool is not None)
        self._go_on(reply)

    def _go_on(self, reply: Reply) -> None:
        """Whatever can be done now for a reply: its next clause, its tools, its end."""
        self._synthesise_next()
        self._run_tools(reply)
        if reply.from_model and reply.text_done and reply.wordless and not reply.end_reason:
            if reply.released:
                self._fail("generate")
            else:
                self._abandon_reply()  # only speculation: the turn's end starts it again
        else:
            self._finish_if_played()

    def _release(self) -> None:
        reply = self._s.reply
        if reply is not None and not reply.released:
            super()._release()
            self._go_on(reply)

    # --- the language model ---

    def _on_passages(self, event: PassagesReady) -> None:
        reply = self._s.reply
        if reply is not None:
            reply.times.retrieved_ms = self._s.now_ms
            reply.passages = event.passages
            reply.messages = self._s.history.prompt(self.agent.system_prompt, reply.model_text or reply.caller_text)
            self._generate(reply)

    def _generate(self, reply: Reply) -> None:
        reply.from_model = True
        reply.raw, reply.again, reply.model_calls = "", "", 0
        self._ask_model(reply)

    def _generate_again(self, reply: Reply) -> None:
        """The answer broke off: what of it is known already is skipped when it comes."""
        reply.ask_again()
        self._ask_model(reply)

    def _ask_model(self, reply: Reply) -> None:
        self._start(
            ("generate", reply.turn, 0),
            Generate(reply.turn, reply.messages, reply.passages, reply.confidence, speculative=not reply.released),
        )

    def _on_reply_chunk(self, event: ReplyReceived) -> None:
        reply = self._s.reply
        if reply is None:
            return
        reply.take(event.chunk, self._s.now_ms)
        if event.chunk.engine:
            reply.engines["llm"] = event.chunk.engine
        if event.chunk.tool_call is not None:
            self._model_tool(reply, event)
        if event.chunk.finish_reason and not reply.waiting:
            self._model_done(reply, event.chunk.finish_reason)
        self._go_on(reply)

    def _model_tool(self, reply: Reply, event: ReplyReceived) -> None:
        call = event.chunk.tool_call
        if call is None:
            return
        reply.tool_calls.append(call)
        reply.model_calls += 1
        plan = self.director.model_tool(reply.memory, call)
        if plan is None:
            reply.waiting.append(call)
        else:
            reply.memory, reply.end_reason = plan.memory, plan.end_reason

    def _model_done(self, reply: Reply, finish_reason: str) -> None:
        plan = self.director.model_done(reply.memory, finish_reason)
        reply.memory = plan.memory
        if plan.say:
            reply.take(ReplyChunk(plan.say, finish_reason="stop"), self._s.now_ms)
        reply.end_reason = plan.end_reason or reply.end_reason
        reply.text_done = True
        if reply.released:
            self._s.memory = reply.memory

    # --- tools ---

    def _run_tools(self, reply: Reply) -> None:
        """Tools have effects, so they run only for a turn that is released, one after the other."""
        busy = any(stage in ("tool", "generate", "retrieve") and turn == reply.turn for stage, turn, _ in self._s.jobs)
        if not reply.released or not reply.waiting or busy:
            return
        call = reply.waiting.pop(0)
        index, reply.tools_run = reply.tools_run, reply.tools_run + 1
        if index >= self.policy.max_tools:
            reply.waiting.clear()
            self._fail("tool")
            return
        reply.running = call
        self._start(("tool", reply.turn, index), RunTool(reply.turn, index, call.name, call.arguments))

    def _on_tool(self, event: ToolFinished) -> None:
        reply = self._s.reply
        if reply is None:
            return
        call, reply.running = reply.running, None
        if event.outcome.ok and event.outcome.name == SEND_DTMF and not reply.stopped:
            reply.clauses.append(Clause("", keys=str(event.outcome.value.get("keys", ""))))
        if not reply.from_model:
            self._follow(reply, self.director.tool_done(reply.memory, event.outcome))
            self._s.memory = reply.memory
            return
        reply.messages = (*reply.messages, Message("tool", _told(event.outcome, call)))
        if reply.waiting:
            self._run_tools(reply)
        else:
            self._generate(reply)

    # --- phrases of the agent's own ---

    def _say(self, text: str, kind: str, end_reason: str = "") -> None:
        """Speak a fixed phrase as a turn of its own."""
        self._begin(Plan(self._s.memory, text, end_reason=end_reason, interruptible=not end_reason), kind)

    def _begin(self, plan: Plan, kind: str) -> None:
        """A turn the agent takes by itself: released as it is made."""
        self._s.turn += 1
        times = deepcopy(self._s.times) if kind == "apology" else StageTimes()
        self._s.reply = Reply(self._s.turn, kind, times, splitter=self._splitter())
        self._s.reply.caller_text = self._s.caller_text() if kind == "apology" else ""
        self._s.timers.pop(Timer.SILENCE, None)
        self._s.timers.pop(Timer.ENDPOINT, None)
        self._go(State.ENDING if plan.end_reason and not plan.interruptible else State.THINKING)
        self._follow(self._s.reply, plan)
        self._release()

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
        self._apologise(self.agent.apology)
        if self._s.reply is not None:
            self._s.reply.failed_stages.append(stage)

    def _apologise(self, text: str) -> None:
        """A turn without an answer: say so, or what is to be done after so many of them in a row."""
        plan = self.director.model_done(self._s.memory, FAILED)
        if not plan.end_reason:
            plan = replace(plan, say=text, interruptible=True)
        self._begin(plan, "apology")


def _told(outcome: Outcome, call: ToolCall | None) -> str:
    """A tool's result, and what it was asked with, as a language model is told it."""
    return json.dumps(
        {
            "tool": outcome.name,
            "arguments": dict(call.arguments) if call is not None else {},
            "ok": outcome.ok,
            "result": dict(outcome.value),
            "error": outcome.code,
        }
    )
