"""A call as it happens, for people: a transcript with stage timings, made from the call's event log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Who = Literal["caller", "agent", "stages", "note"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the live view. ``at_ms`` is on the call's clock."""

    at_ms: int
    who: Who
    text: str


@dataclass(slots=True)
class _Turn:
    """What is known of a turn under way. Times in ms on the call's clock."""

    clauses: dict[int, str] = field(default_factory=dict)
    retrieved_ms: int | None = None
    first_token_ms: int | None = None
    first_audio_ms: int | None = None
    released_ms: int | None = None
    playing: bool = False


class LiveView:
    """Feed it log entries in order; it gives lines."""

    def __init__(self) -> None:
        self._turns: dict[int, _Turn] = {}
        self._said: dict[int, tuple[str, float]] = {}
        self._speech_end_ms: int | None = None
        self._transcript_ms: int | None = None
        self._answering: int | None = None

    def feed(self, entry: Mapping[str, Any]) -> Iterator[Line]:
        """Lines for one entry; kinds that say nothing to people give none."""
        name = str(entry.get("event") or entry.get("command") or ("note" if "note" in entry else ""))
        handler = getattr(self, f"_on_{name}", None)
        if handler is not None:
            yield from handler(entry, int(entry.get("t_ms", 0)))

    def _turn(self, entry: Mapping[str, Any]) -> _Turn:
        return self._turns.setdefault(int(entry["turn"]), _Turn())

    def _on_SpeechPaused(self, entry: Mapping[str, Any], _t_ms: int) -> Iterator[Line]:  # noqa: N802
        self._speech_end_ms = int(entry["speech_end_ms"])
        self._transcript_ms = None
        yield from ()

    def _on_TranscriptReady(self, entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        if entry.get("flushed"):
            self._said[int(entry["utterance"])] = (str(entry.get("text_pii", "")), float(entry.get("confidence", 0.0)))
            self._transcript_ms = t_ms
        yield from ()

    def _on_CloseUtterance(self, entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        text, confidence = self._said.pop(int(entry["utterance"]), ("", 0.0))
        if text:
            yield Line(t_ms, "caller", f"{text}  (confidence {confidence:.2f})")

    def _on_PassagesReady(self, entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        self._turn(entry).retrieved_ms = t_ms
        yield from ()

    def _on_ReplyReceived(self, entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        turn = self._turn(entry)
        if turn.first_token_ms is None:
            turn.first_token_ms = t_ms
        yield from ()

    def _on_Synthesise(self, entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        turn = self._turn(entry)
        text = str(entry.get("text_pii", ""))
        if turn.released_ms is not None:
            yield Line(t_ms, "agent", text)
        else:
            turn.clauses[int(entry["clause"])] = text

    def _on_SpeechSynthesised(self, entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        turn = self._turn(entry)
        if turn.first_audio_ms is None:
            turn.first_audio_ms = t_ms
        yield from ()

    def _on_ReleaseTurn(self, entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        turn = self._turn(entry)
        turn.released_ms = t_ms
        self._answering = int(entry["turn"])
        for _, text in sorted(turn.clauses.items()):
            yield Line(t_ms, "agent", text)
        turn.clauses.clear()

    def _on_PlayoutStarted(self, entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        turn = self._turn(entry)
        if turn.playing or self._speech_end_ms is None:
            return
        turn.playing = True
        steps = (
            ("transcript", self._transcript_ms),
            ("passages", turn.retrieved_ms),
            ("first words", turn.first_token_ms),
            ("first audio", turn.first_audio_ms),
            ("turn end", turn.released_ms),
            ("playing", int(entry["at_ms"])),
        )
        told = [f"{name} {at_ms - self._speech_end_ms:+d}" for name, at_ms in steps if at_ms is not None]
        self._speech_end_ms = None
        yield Line(t_ms, "stages", "ms after the caller's last sound: " + ", ".join(told))

    def _on_PlayoutHeld(self, entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        yield Line(t_ms, "note", f"agent holds: {entry['heard_ms']} ms of this clause were heard")

    def _on_ResumePlayout(self, _entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        yield Line(t_ms, "note", "agent goes on where it held")

    def _on_ClearPlayout(self, _entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        yield Line(t_ms, "note", "interrupted: the rest is dropped")

    def _on_JobFailed(self, entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        yield Line(t_ms, "note", f"stage {entry['stage']} failed: {entry['code']}")

    def _on_EndCall(self, entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:  # noqa: N802
        yield Line(t_ms, "note", f"call ended: {entry.get('reason', '')}")

    def _on_note(self, entry: Mapping[str, Any], t_ms: int) -> Iterator[Line]:
        yield Line(t_ms, "note", str(entry["note"]))
