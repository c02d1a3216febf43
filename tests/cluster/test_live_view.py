"""The live view of a call, from its event log."""

from __future__ import annotations

from typing import Any

from cluster.live import LiveView


def _feed(*entries: dict[str, Any]) -> list[tuple[str, str]]:
    view = LiveView()
    return [(line.who, line.text) for entry in entries for line in view.feed(entry)]


def test_a_turn_is_told_in_the_order_people_hear_it() -> None:
    told = _feed(
        {"t_ms": 1100, "event": "SpeechPaused", "utterance": 1, "speech_end_ms": 1000},
        {"t_ms": 1160, "event": "TranscriptReady", "utterance": 1, "text_pii": "when do you open", "confidence": 0.91,
         "flushed": True, "pause": 1},
        {"t_ms": 1165, "event": "PassagesReady", "turn": 2, "passages": []},
        {"t_ms": 1170, "event": "ReplyReceived", "turn": 2, "chunk": {}},
        {"t_ms": 1171, "command": "Synthesise", "turn": 2, "clause": 0, "text_pii": "At nine."},
        {"t_ms": 1190, "event": "SpeechSynthesised", "turn": 2, "clause": 0, "duration_ms": 100, "last": False},
        {"t_ms": 1300, "command": "CloseUtterance", "utterance": 1},
        {"t_ms": 1300, "command": "ReleaseTurn", "turn": 2, "interruptible": True},
        {"t_ms": 1301, "command": "Synthesise", "turn": 2, "clause": 1, "text_pii": "Come in."},
        {"t_ms": 1320, "event": "PlayoutStarted", "turn": 2, "clause": 0, "at_ms": 1310},
        {"t_ms": 2300, "event": "PlayoutStarted", "turn": 2, "clause": 1, "at_ms": 2290},
    )  # fmt: skip
    assert told == [
        ("caller", "when do you open  (confidence 0.91)"),
        ("agent", "At nine."),
        ("agent", "Come in."),
        (
            "stages",
            "ms after the caller's last sound: "
            "transcript +160, passages +165, first words +170, first audio +190, turn end +300, playing +310",
        ),
    ]


def test_a_speculation_that_was_dropped_is_not_told() -> None:
    told = _feed(
        {"t_ms": 10, "command": "Synthesise", "turn": 2, "clause": 0, "text_pii": "Wrong."},
        {"t_ms": 20, "command": "CancelTurn", "turn": 2},
        {"t_ms": 30, "command": "Synthesise", "turn": 3, "clause": 0, "text_pii": "Right."},
        {"t_ms": 40, "command": "ReleaseTurn", "turn": 3, "interruptible": True},
    )
    assert told == [("agent", "Right.")]


def test_entries_of_later_versions_say_nothing() -> None:
    assert _feed({"t_ms": 1, "event": "Unheard"}, {"t_ms": 1, "command": "Unheard"}, {"t_ms": 1}) == []
