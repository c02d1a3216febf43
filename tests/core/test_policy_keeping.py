"""What of a call is kept when private data comes in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_agent.dialog.commands import Retrieve, RunTool, Synthesise
from voice_agent.dialog.event_log import command_entry, event_entry
from voice_agent.dialog.events import (
    CallStarted,
    DtmfReceived,
    Event,
    PassagesReady,
    ReplyReceived,
    SpeechPaused,
    ToolFinished,
    TranscriptReady,
)
from voice_agent.dialog.records import StageTimes, TurnRecord
from voice_agent.plan import Outcome
from voice_agent.policy.detect import DETECTORS
from voice_agent.policy.engine import PolicyEngine
from voice_agent.policy.keeping import IN_CLEAR, Keeper
from voice_agent.policy.rules import PolicySet, Redact
from voice_agent.ports import Passage, ReplyChunk, ToolCall

DIGITS = "4111111111111111"
CARD = "4111 1111 1111 1111"
SPOKEN = "four one one one one one one one one one one one one one one one"


def keeper() -> Keeper:
    return Keeper(PolicyEngine(PolicySet((Redact("all", tuple(DETECTORS)),))))


def heard(utterance: int, text: str, *, flushed: bool = True) -> Event:
    return TranscriptReady(utterance, 1, text, 0.9, flushed)


def digits_of(value: Any) -> str:
    return "".join(character for character in json.dumps(value) if character.isdigit())


def texts(kept: Keeper, events: list[Event]) -> list[str]:
    return [kept.entry(event_entry(number, event))["text_pii"] for number, event in enumerate(events)]


def test_a_sentence_that_grows_word_by_word_never_shows_more_than_the_first_digits() -> None:
    words = f"my card is {SPOKEN} thanks".split()
    partials = [heard(1, " ".join(words[:count]), flushed=False) for count in range(1, len(words) + 1)]
    kept = texts(keeper(), partials)
    assert kept[-1] == "my card is [card] thanks"
    most = max(sum(word in ("four", "one") for word in text.split()) for text in kept)
    assert most == IN_CLEAR


def test_a_card_over_several_utterances() -> None:
    pieces = ["my card is 4111", "1111", "1111 yes", "1111", "when do you open"]
    kept = texts(keeper(), [heard(number, text) for number, text in enumerate(pieces, 1)])
    assert kept[0] == "my card is 4111"
    assert kept[-1] == "when do you open"
    assert len("".join(character for text in kept for character in text if character.isdigit())) <= IN_CLEAR


def test_ordinary_numbers_stay_in_the_log() -> None:
    pieces = ["order 123456", "at nine thirty", "two hundred dollars", "from 9 to 5"]
    assert texts(keeper(), [heard(number, text) for number, text in enumerate(pieces, 1)]) == pieces


def streamed(kept: Keeper, pieces: list[str], turn: int = 2) -> list[str]:
    chunks = [ReplyChunk(piece) for piece in pieces[:-1]] + [ReplyChunk(pieces[-1], finish_reason="stop")]
    return [
        kept.entry(event_entry(number, ReplyReceived(turn, chunk)))["chunk"]["text_pii"]
        for number, chunk in enumerate(chunks)
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_a_streamed_card_does_not_slip_through_between_chunks(size: int) -> None:
    text = f"Your card is {CARD}, and your mail is john@example.com. Right?"
    pieces = [text[place : place + size] for place in range(0, len(text), size)]
    kept = "".join(streamed(keeper(), pieces))
    assert len("".join(character for character in kept if character.isdigit())) <= IN_CLEAR
    assert "[card], and your mail is" in kept
    assert kept.endswith("[email]. Right?")
    assert "example" not in kept


def test_a_stream_without_private_data_passes_chunk_by_chunk() -> None:
    pieces = ["We open ", "at nine", " and close at 5", " pm, order 12", "3456 is ready", ".", ""]
    assert streamed(keeper(), pieces) == pieces


@given(
    st.lists(st.sampled_from(["a ", "4", "41", "1111 ", "one ", "+32 ", "x@", "b.com ", ". ", "order "]), min_size=1)
)
def test_a_stream_gives_out_what_it_was_given_but_for_masks(pieces: list[str]) -> None:
    policy = PolicyEngine(PolicySet(()))
    assert "".join(streamed(Keeper(policy), pieces)) == "".join(pieces)


def test_two_replies_at_once_do_not_mix() -> None:
    kept = keeper()
    first = kept.entry(event_entry(1, ReplyReceived(2, ReplyChunk("call 555-867-"))))
    second = kept.entry(event_entry(2, ReplyReceived(3, ReplyChunk("5309 is", finish_reason="stop"))))
    assert second["chunk"]["text_pii"] == "5309 is"
    assert "867" not in first["chunk"]["text_pii"] or len(digits_of(first["chunk"])) <= IN_CLEAR


def test_keys_are_kept_as_long_as_they_may_be_an_order_number() -> None:
    kept = keeper()
    pressed = [kept.entry(event_entry(100 * number, DtmfReceived(digit))) for number, digit in enumerate(DIGITS)]
    assert "".join(entry["digit_pii"] for entry in pressed) == DIGITS[:IN_CLEAR] + "x" * 10
    later = kept.entry(event_entry(60_000, DtmfReceived("5")))
    assert later["digit_pii"] == "5"


def test_clauses_of_a_turn_are_read_together() -> None:
    kept = keeper()
    first = kept.entry(command_entry(1, Synthesise(2, 0, "It is 4111 1111,")))
    second = kept.entry(command_entry(2, Synthesise(2, 1, "1111 1111, correct?")))
    other = kept.entry(command_entry(3, Synthesise(3, 0, "1111 1111, correct?")))
    assert first["text_pii"] == "It is 4111 1111,"
    assert second["text_pii"] == "[card], correct?"
    assert other["text_pii"] == "1111 1111, correct?"


def test_arguments_and_results_of_tools() -> None:
    kept = keeper()
    arguments = {"order": "2345678901", "phone": "867-5309", "cards": [CARD, int(DIGITS)], "note": {"to": "a@b.com"}}
    entry = kept.entry(command_entry(1, RunTool(2, 0, "order", arguments)))
    assert entry["arguments_pii"] == {
        "order": "2345678901",
        "phone": "[phone]",
        "cards": ["[card]", "[card]"],
        "note": {"to": "[email]"},
    }
    asked = kept.entry(event_entry(1, ReplyReceived(2, ReplyChunk(tool_call=ToolCall("pay", {"card": CARD})))))
    assert asked["chunk"]["tool_call"]["arguments_pii"] == {"card": "[card]"}
    done = kept.entry(
        event_entry(1, ToolFinished(2, 0, Outcome("pay", True, {"card": CARD, "n": 3}, f"paid by {CARD}")))
    )
    assert done["outcome"]["value_pii"] == {"card": "[card]", "n": 3}
    assert done["outcome"]["say_pii"] == "paid by [card]"


def test_what_nobody_said_is_left_alone() -> None:
    kept = keeper()
    started = event_entry(0, CallStarted("CA1", "+15558675309", "+15558675300"))
    assert kept.entry(started) == started
    passage = Passage("c", "Call 555-867-5309", "Call 555-867-5309", "h", "s.md", 1.0, 1.0, 1.0)
    found = event_entry(0, PassagesReady(2, (passage,)))
    assert kept.entry(found) == found
    paused = event_entry(4_111_111_111_111_111, SpeechPaused(1, 4_111_111_111_111_111))
    assert kept.entry(paused) == paused
    assert kept.entry(command_entry(0, Retrieve(2, f"pay {CARD}")))["query_pii"] == "pay [card]"


def record(caller: str, agent: str = "", said: str | None = None) -> TurnRecord:
    return TurnRecord("CA1", 1, "reply", StageTimes(), caller, 1.0, agent, agent if said is None else said)


def test_turn_records() -> None:
    kept = keeper().turn(record(f"card {CARD}", f"So {CARD}, is it?", "So 4111 1111"))
    assert kept.caller_text_pii == "card [card]"
    assert kept.agent_text_pii == "So [card], is it?"
    assert kept.heard_text_pii == "So [card]"


def test_a_card_over_two_turns() -> None:
    kept = keeper()
    assert kept.turn(record("my card is 4111 1111", "Yes?")).caller_text_pii == "my card is 4111 1111"
    assert kept.turn(record("1111 1111", "Thanks.")).caller_text_pii == "[card]"


@given(st.integers(0, 60))
def test_heard_stays_a_prefix_of_what_was_said(cut: int) -> None:
    text = f"Pay {CARD} to john@example.com or call 555-867-5309 now please."
    kept = keeper().turn(record("", text, text[:cut].rstrip()))
    assert kept.agent_text_pii.startswith(kept.heard_text_pii)
