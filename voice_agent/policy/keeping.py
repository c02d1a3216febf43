"""What of one call may be kept: its log entries and turn records with private data masked.

A card number does not come in one piece. The caller says four digits and pauses, the recogniser writes the sentence
anew with every word, a model streams digit by digit, a keypad sends them one by one. So this remembers the end of what
came before, and masks a number that is still growing from its seventh digit on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from voice_agent.dialog.records import TurnRecord
from voice_agent.policy.detect import Private
from voice_agent.policy.digits import goes_on
from voice_agent.policy.engine import PolicyEngine, written
from voice_agent.policy.reading import Reading, Span
from voice_agent.policy.tokens import mask

IN_CLEAR: Final = 6
"""Digits of a number that is not over yet which are kept: as many as an order number has."""

CALLER_ID: Final = "caller_pii"
"""The number the carrier names. It identifies the call and was not said by anybody: how much is kept is a setting."""

CallerNumber = Literal["whole", "last_four", "none"]

_CONTEXT: Final = 120
_KEYS_APART_MS: Final = 10_000
_STREAMS: Final = 8
_GROWING: Final = "number"
_PHONE: Final = "phone"
_KEY_MASK: Final = "x"


class Keeper:
    """Masks what one call leaves behind. Entries come in the order of the call, as ``event_log`` makes them."""

    def __init__(self, policy: PolicyEngine, caller_number: CallerNumber = "whole") -> None:
        self._policy = policy
        self._caller_number: CallerNumber = caller_number
        self._utterance = 0
        self._text = ""
        self._said = ""
        self._last_turn = ""
        self._streams: dict[int, _Stream] = {}
        self._clauses = (0, "")
        self._keys = 0
        self._key_ms = 0
        self._special = {
            "TranscriptReady": self._transcript,
            "ReplyReceived": self._reply,
            "DtmfReceived": self._key,
            "Synthesise": self._clause,
        }

    def entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        """A log entry as it may be kept."""
        name = entry.get("event") or entry.get("command")
        special = self._special.get(str(name))
        return special(entry) if special else {key: self._value(key, value) for key, value in entry.items()}

    def turn(self, record: TurnRecord) -> TurnRecord:
        """A turn record as it may be kept. What was heard stays a prefix of what was said."""
        policy, agent, heard = self._policy, record.agent_text_pii, record.heard_text_pii
        spoken = policy.private(agent)
        before, self._last_turn = self._last_turn, _end(record.caller_text_pii) or self._last_turn
        return replace(
            record,
            caller_text_pii=policy.redact(record.caller_text_pii, before),
            agent_text_pii=written(agent, spoken, mask),
            heard_text_pii=_prefix(heard, spoken) if agent.startswith(heard) else policy.redact(heard),
        )

    # --- entries that are one piece of something longer ---

    def _transcript(self, entry: dict[str, Any]) -> dict[str, Any]:
        text = str(entry["text_pii"])
        if entry["utterance"] != self._utterance:
            self._utterance, self._said = entry["utterance"], _end(f"{self._said} {self._text}")
        self._text = text
        offset = len(self._said) + 1
        found = self._policy.private(text, self._said)
        growing = _growing(f"{self._said} {text}")
        if growing is not None and growing[1] > offset:
            found = _with_growing(found, max(0, growing[0] - offset), growing[1] - offset)
        return entry | {"text_pii": written(text, found, mask)}

    def _reply(self, entry: dict[str, Any]) -> dict[str, Any]:
        turn, chunk = entry["turn"], entry["chunk"]
        stream = self._streams.setdefault(turn, _Stream(self._policy))
        over = bool(chunk["finish_reason"])
        text = stream.feed(str(chunk["text_pii"]), over=over)
        if over or len(self._streams) > _STREAMS:
            del self._streams[turn if over else min(self._streams)]
        rest = {key: self._value(key, value) for key, value in chunk.items() if key != "text_pii"}
        return entry | {"chunk": {"text_pii": text} | rest}

    def _clause(self, entry: dict[str, Any]) -> dict[str, Any]:
        turn, text = entry["turn"], str(entry["text_pii"])
        before = self._clauses[1] if self._clauses[0] == turn else ""
        self._clauses = (turn, _end(f"{before} {text}"))
        rest = {key: self._value(key, value) for key, value in entry.items()}
        return rest | {"text_pii": self._policy.redact(text, before)}

    def _key(self, entry: dict[str, Any]) -> dict[str, Any]:
        fresh = entry["t_ms"] - self._key_ms > _KEYS_APART_MS
        self._keys = 1 if fresh else self._keys + 1
        self._key_ms = entry["t_ms"]
        return entry if self._keys <= IN_CLEAR else entry | {"digit_pii": _KEY_MASK}

    # --- everything else ---

    def _value(self, key: str, value: Any) -> Any:
        if key == CALLER_ID:
            return kept_number(str(value), self._caller_number)
        if key.endswith("_pii"):
            return mask_values(self._policy, value)
        if isinstance(value, Mapping):
            return {inner: self._value(inner, item) for inner, item in value.items()}
        if isinstance(value, list):
            return [self._value("", item) for item in value]
        return value


def kept_number(number: str, how: CallerNumber) -> str:
    """The caller's number as it may be kept. An address (SIP) has no last four that would tell it from others."""
    if how == "whole" or not number:
        return number
    return f"[{_PHONE}]{number[-4:]}" if how == "last_four" and number[-4:].isdecimal() else f"[{_PHONE}]"


def mask_values(policy: PolicyEngine, value: Any, name: str = "") -> Any:
    """JSON-able values with every text and number inside as it may be kept.

    Names tell what a number is, as words before it would: a phone, an order.
    """
    if isinstance(value, Mapping):
        return {key: mask_values(policy, item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_values(policy, item, name) for item in value]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    text = str(value)
    kept = policy.redact(text, name.replace("_", " "))
    return value if kept == text else kept


class _Stream:
    """Text that comes in pieces and goes out in pieces, each as early as nothing private can be in it."""

    def __init__(self, policy: PolicyEngine) -> None:
        self._policy = policy
        self._text = ""
        self._done = 0

    def feed(self, piece: str, *, over: bool) -> str:
        """More text; what may be kept of all that was not given out yet."""
        # Only the end matters, so that a long reply costs no more than a short one for each piece.
        cut = max(0, self._done - _CONTEXT)
        self._text, self._done = self._text[cut:] + piece, self._done - cut
        ready = len(self._text) if over else _ready(self._text)
        place, parts = self._done, list[str]()
        for start, end, kind in self._policy.private(self._text):
            if end > place and start < ready:
                parts += [self._text[place : max(place, start)], mask(kind)]
                place = end
        parts.append(self._text[place:ready])
        self._done = max(place, ready)
        return "".join(parts)


def _ready(text: str) -> int:
    """How much of a text that goes on can be judged: not a number that grows, not an address being spelled out."""
    growing = _growing(text)
    last_word = text.rfind(" ") + 1
    ready = last_word if "@" in text[last_word:] else len(text)
    return ready if growing is None else min(ready, growing[0])


def _growing(text: str) -> Span | None:
    """The piece beyond ``IN_CLEAR`` digits of a number that the text may not be over with; None: there is none."""
    reading = Reading(text)
    run = reading.runs[-1] if reading.runs else []
    count = 0
    for group in run:
        count += len(group.digits)
        if count > IN_CLEAR:
            return (group.start, run[-1].end) if goes_on(reading.tokens, run) else None
    return None


def _with_growing(found: tuple[Private, ...], start: int, end: int) -> tuple[Private, ...]:
    """What was found, and the piece that grows: by the name of what was found there, if anything was."""
    apart = [item for item in found if item.end <= start or item.start >= end]
    there = [item for item in found if item not in apart]
    if there:
        start, end = min(start, there[0].start), max(end, there[-1].end)
    return tuple(sorted([*apart, Private(start, end, there[0].kind if there else _GROWING)]))


def _prefix(heard: str, spoken: tuple[Private, ...]) -> str:
    inside = tuple(Private(start, min(end, len(heard)), kind) for start, end, kind in spoken if start < len(heard))
    return written(heard, inside, mask)


def _end(text: str) -> str:
    return text[-_CONTEXT:].strip()
