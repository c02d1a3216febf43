"""One reply of the agent in the making: text becomes clauses, clauses become audio, audio is heard."""

from __future__ import annotations

from dataclasses import dataclass, field

from voice_agent.dialog.clauses import ClauseSplitter
from voice_agent.dialog.heard import heard_prefix
from voice_agent.dialog.records import StageTimes
from voice_agent.plan import Memory
from voice_agent.ports import Message, Passage, ReplyChunk, ToolCall


@dataclass(slots=True)
class Clause:
    """A piece of the reply that is synthesised and played as one. Times in ms.

    ``keys`` are telephone keys to be pressed, ``recorded`` is a phrase of which there is a recording, played to break a
    silence; such clauses have no text, for they are no part of what the agent has to say. ``again``: the voice broke
    off in the middle of these words, and they are said once more.
    """

    text: str
    asked: bool = False
    synthesised: bool = False
    duration_ms: int = 0
    word_ends_ms: tuple[int, ...] = ()
    started_at_ms: int | None = None
    heard_ms: int = 0
    played: bool = False
    keys: str = ""
    recorded: str = ""
    again: bool = False

    def heard_text(self) -> str:
        """The words of this clause that were heard."""
        if self.played:
            return self.text
        return heard_prefix(self.text, self.heard_ms, self.duration_ms, self.word_ends_ms)


@dataclass(slots=True)
class Reply:
    """The agent's side of one turn.

    ``before`` is the dialog's memory before this was released, for a reply that is dropped after all.
    ``early``: prepared before the pause, for words that were not final yet.
    ``kind`` is greeting, reply, reprompt, apology, filler or goodbye. ``released`` says its audio may go out. Clauses
    are synthesised one at a time, in order; of a reply not yet released only the first.
    ``raw`` and ``model_calls`` are the text and the number of tool calls that the model has given since it was asked;
    ``again`` is what of it is still to come a second time, after the model had to be asked again.
    """

    turn: int
    kind: str
    times: StageTimes
    caller_text: str = ""
    confidence: float = 0.0
    interruptible: bool = True
    released: bool = False
    text_done: bool = False
    end_reason: str = ""
    sources: tuple[str, ...] = ()
    clauses: list[Clause] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    failed_stages: list[str] = field(default_factory=list)
    findings: tuple[str, ...] = ()
    memory: Memory = field(default_factory=Memory)
    before: Memory = field(default_factory=Memory)
    model_text: str = ""
    messages: tuple[Message, ...] = ()
    passages: tuple[Passage, ...] = ()
    waiting: list[ToolCall] = field(default_factory=list)
    running: ToolCall | None = None
    from_model: bool = False
    tools_run: int = 0
    stopped: bool = False
    raw: str = ""
    again: str = ""
    model_calls: int = 0
    speculative: bool = False
    early: bool = False
    engines: dict[str, str] = field(default_factory=dict)
    splitter: ClauseSplitter = field(default_factory=ClauseSplitter)

    def take(self, chunk: ReplyChunk, now_ms: int) -> None:
        """Add a streamed chunk. It may end the words, not the text: a tool may still have more to say."""
        if chunk.sources:
            self.sources = tuple(dict.fromkeys((*self.sources, *chunk.sources)))
        if chunk.text and self.times.first_token_ms is None:
            self.times.first_token_ms = now_ms
        texts = self.splitter.feed(self._fresh(chunk.text))
        if chunk.finish_reason:
            texts += self.splitter.finish()
        if self.stopped:
            return
        if texts and self.times.first_clause_ms is None:
            self.times.first_clause_ms = now_ms
        self.clauses += [Clause(text) for text in texts]

    def ask_again(self) -> None:
        """The model is asked the same once more: what it said already is not said twice."""
        self.again = self.raw
        if self.model_calls:
            calls = self.tool_calls[-self.model_calls :]
            del self.tool_calls[-self.model_calls :]
            self.waiting = [call for call in self.waiting if call not in calls]
            self.model_calls = 0

    def _fresh(self, text: str) -> str:
        """What of a streamed text is new."""
        if not self.again:
            self.raw += text
            return text
        if self.again.startswith(text):
            self.again = self.again[len(text) :]
            return ""
        if text.startswith(self.again):
            text, self.again = text[len(self.again) :], ""
            self.raw += text
            return text
        # Another answer this time: what was said of the first has to do.
        self.stopped = True
        return ""

    def stop(self, index: int) -> None:
        """Nothing more is said after clause ``index``."""
        self.stopped = self.text_done = True
        del self.clauses[index + 1 :]

    def next_to_synthesise(self) -> int | None:
        """Index of the clause to be synthesised now, or None (one at a time; before release only the first)."""
        for index, clause in enumerate(self.clauses):
            if clause.recorded:
                continue
            if clause.asked and not clause.synthesised:
                return None
            if not clause.asked:
                return index if self.released or not any(c.asked for c in self.clauses) else None
        return None

    @property
    def wordless(self) -> bool:
        """There is nothing to say yet; a recorded phrase is nothing."""
        return not any(clause.text or clause.keys for clause in self.clauses)

    @property
    def fillers(self) -> int:
        """Recorded phrases so far."""
        return sum(bool(clause.recorded) for clause in self.clauses)

    def sounds_until_ms(self) -> int:
        """When what is playing will have been heard, as far as it is there; 0 when nothing is."""
        playing = [clause for clause in self.clauses if clause.started_at_ms is not None and not clause.played]
        return max(((clause.started_at_ms or 0) + clause.duration_ms for clause in playing), default=0)

    def waiting_for_sound(self) -> bool:
        """More is to be said, and its audio is not there: text or speech is still being made."""
        return not self.text_done or any(not clause.synthesised for clause in self.clauses)

    def say_again(self, index: int) -> bool:
        """The voice broke off inside clause ``index``: say its words once more. False when that has been tried."""
        broken = self.clauses[index]
        if broken.again or not broken.duration_ms or not broken.text:
            return False
        behind = max(at for at, clause in enumerate(self.clauses) if clause.asked) + 1
        self.clauses.insert(behind, Clause(broken.text, again=True))
        broken.text, broken.synthesised, broken.played = "", True, True
        return True

    def played_out(self) -> bool:
        """Everything there is to say has been said."""
        return self.text_done and all(clause.played and clause.synthesised for clause in self.clauses)

    def text(self) -> str:
        """All that was to be said, as far as it is known."""
        return " ".join(clause.text for clause in self.clauses if clause.text)

    def heard_text(self) -> str:
        """What of it was heard: whole clauses, then a prefix of the one that was cut."""
        heard = []
        for clause in self.clauses:
            heard.append(clause.heard_text())
            if not clause.played:
                break
        return " ".join(text for text in heard if text)

    def cut_at(self, now_ms: int) -> None:
        """The leg went away while playing: the clause being played was heard up to now, at most."""
        for clause in self.clauses:
            if not clause.played and clause.started_at_ms is not None:
                clause.heard_ms = max(clause.heard_ms, min(clause.duration_ms, now_ms - clause.started_at_ms))
                return
