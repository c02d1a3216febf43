import base64
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_agent.errors import ProtocolError
from voice_agent.twilio import messages

VECTORS = Path(__file__).parent / "vectors"
GOOD = json.loads((VECTORS / "twilio_good.json").read_text())
BAD = json.loads((VECTORS / "twilio_bad.json").read_text())
SID = "MZ1"


@pytest.mark.parametrize("vector", GOOD, ids=lambda vector: vector["name"])
def test_good_vectors(vector):
    parsed = messages.parse(vector["text"])
    assert type(parsed).__name__ == vector["type"]
    for name, expected in vector["fields"].items():
        found = getattr(parsed, name)
        assert (found.hex() if isinstance(found, bytes) else found) == expected


@pytest.mark.parametrize("vector", BAD, ids=lambda vector: vector["name"])
def test_broken_vectors_say_what_is_wrong(vector):
    with pytest.raises(ProtocolError, match=vector["error"]) as caught:
        messages.parse(vector["text"])
    assert len(str(caught.value)) < 200, "a peer's garbage must not fill the log"


def test_binary_message_is_refused_by_both_sides():
    for parse in (messages.parse, messages.parse_outbound):
        with pytest.raises(ProtocolError, match="binary"):
            parse(b"{}")


@given(
    sequence=st.integers(0, 10**12),
    chunk=st.integers(0, 10**9),
    timestamp_ms=st.integers(0, 10**9),
    payload=st.binary(max_size=400),
)
def test_media_both_ways(sequence, chunk, timestamp_ms, payload):
    text = messages.build_media(sequence, SID, chunk=chunk, timestamp_ms=timestamp_ms, payload=payload)
    assert messages.parse(text) == messages.Media(sequence, SID, chunk, timestamp_ms, payload)
    assert messages.parse_outbound(messages.media(SID, payload)) == messages.OutMedia(SID, payload)


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=4))
def test_start_carries_parameters(parameters):
    text = messages.build_start(1, SID, call_sid="CA1", account_sid="AC1", parameters=parameters)
    assert messages.parse(text) == messages.Start(1, SID, "CA1", "AC1", parameters)


def test_the_other_events_both_ways():
    assert messages.parse(messages.build_connected()) == messages.Connected()
    assert messages.parse(messages.build_dtmf(4, SID, "5")) == messages.Dtmf(4, SID, "5")
    assert messages.parse(messages.build_mark(5, SID, "a")) == messages.Mark(5, SID, "a")
    stop = messages.build_stop(6, SID, call_sid="CA1", account_sid="AC1")
    assert messages.parse(stop) == messages.Stop(6, SID, "CA1", "AC1")
    assert messages.parse_outbound(messages.mark(SID, "a")) == messages.OutMark(SID, "a")
    assert messages.parse_outbound(messages.clear(SID)) == messages.OutClear(SID)


def test_every_number_but_the_format_is_a_string():
    text = messages.build_media(7, SID, chunk=8, timestamp_ms=9, payload=b"\xff")
    message = json.loads(text)
    assert (message["sequenceNumber"], message["media"]["chunk"], message["media"]["timestamp"]) == ("7", "8", "9")
    assert base64.b64decode(message["media"]["payload"]) == b"\xff"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"event": "media", "media": {"payload": ""}}, "streamSid is missing"),
        ({"event": "media", "streamSid": SID, "media": {"payload": "?"}}, "not base64"),
        ({"event": "mark", "streamSid": SID, "mark": {"name": ""}}, "must not be empty"),
        ({"event": "start", "streamSid": SID}, "unknown event"),
    ],
)
def test_the_carrier_refuses_bad_messages(message, error):
    with pytest.raises(ProtocolError, match=error):
        messages.parse_outbound(json.dumps(message))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.dictionaries(
                st.sampled_from(["event", "media", "start", "mark", "streamSid", "sequenceNumber", "payload", "name"])
                | st.text(max_size=5),
                x,
                max_size=5,
            )
            | st.lists(x, max_size=3)
        ),
        max_leaves=20,
    )
)
def test_any_json_is_parsed_or_refused(value):
    for parse in (messages.parse, messages.parse_outbound):
        try:
            parsed = parse(json.dumps(value))
        except ProtocolError:
            continue
        assert dataclasses.is_dataclass(parsed)


def test_sequence_in_order():
    tracker = messages.SequenceTracker()
    assert all(tracker.observe(number) for number in range(1, 50))
    assert (tracker.missing, tracker.late, tracker.repeated) == (0, 0, 0)


def test_sequence_gap_late_and_repeat():
    tracker = messages.SequenceTracker()
    in_order = [tracker.observe(number) for number in (1, 2, 5, 3, 3, 6, 6)]
    assert in_order == [True, True, True, False, False, True, False]
    assert (tracker.missing, tracker.late, tracker.repeated) == (1, 1, 2)


def test_sequence_jump_does_not_eat_memory():
    tracker = messages.SequenceTracker()
    tracker.observe(1)
    tracker.observe(10**15)
    assert tracker.missing == 10**15 - 2
    assert len(tracker._skipped) <= tracker.REMEMBERED


@given(st.permutations(list(range(1, 30))))
def test_sequence_shuffled_but_whole_leaves_nothing_missing(order):
    tracker = messages.SequenceTracker()
    tracker.observe(0)
    for number in order:
        tracker.observe(number)
    assert tracker.missing == 0
    assert tracker.repeated == 0


@pytest.mark.parametrize("stream_sid", ["MZ1", 'quoted""sid', "back\\slash"])
def test_a_media_frame_with_audio_in_it_is_the_media_message(stream_sid: str) -> None:
    before, behind = messages.media_frame(stream_sid)
    assert (before + base64.b64encode(b"\x00\xff~audio") + behind).decode() == messages.media(
        stream_sid, b"\x00\xff~audio"
    )
