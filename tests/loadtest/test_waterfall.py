import json

from loadtest.waterfall import STAGES, TurnBar, draw, load_turns, spans
from voice_agent.dialog.records import StageTimes

TIMES = {
    "speech_start_ms": 1000,
    "speech_end_ms": 2000,
    "pause_ms": 2100,
    "transcript_ms": 2160,
    "retrieved_ms": 2170,
    "first_token_ms": 2175,
    "first_clause_ms": 2176,
    "first_audio_ms": 2230,
    "endpoint_ms": 2300,
    "released_ms": 2300,
    "playout_started_ms": 2320,
}


def test_every_stage_is_a_field_of_the_records():
    fields = set(StageTimes.__dataclass_fields__)
    assert set(TIMES) <= fields
    for stage in STAGES:
        assert {*stage.begins, stage.end} <= fields


def test_stages_are_told_from_the_callers_last_sound_on():
    found = {stage.label: (begin, end) for stage, begin, end in spans(TIMES)}
    assert found["speech to text"] == (100, 160)
    assert found["deciding that the turn is over"] == (0, 300)
    assert found["release to playout"] == (300, 320)
    assert len(found) == len(STAGES)


def test_a_stage_that_did_not_run_is_left_out():
    without = {name: value for name, value in TIMES.items() if name != "retrieved_ms"}
    labels = {stage.label: (begin, end) for stage, begin, end in spans(without)}
    assert "retrieval" not in labels
    assert labels["reply, first token"] == (160, 175), "it waited for the text then"
    assert spans({"playout_started_ms": 5}) == []


def test_pictures_of_a_call_and_of_none(tmp_path):
    turns = [TurnBar(1, "greeting", {"playout_started_ms": 5}, None), TurnBar(2, "when " * 20, TIMES, 380)]
    for number, shown in enumerate((turns, [])):
        path = tmp_path / "new" / f"{number}.png"
        draw(shown, "a call", path)
        assert path.read_bytes()[:4] == b"\x89PNG"


def test_reads_what_the_journal_and_the_demo_write(tmp_path):
    journal = [{"turn": 3, "kind": "reply", "caller_text_pii": "hello", "times": {**TIMES, "retrieved_ms": None}}]
    demo = {"turns": [{"turn": 3, "kind": "reply", "caller_pii": "hello", "times_ms": TIMES, "v2v_at_socket_ms": 400}]}
    for name, content in (("a", journal), ("b", demo)):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        (bar,) = load_turns(path)
        assert (bar.turn, bar.title, bar.times_ms["pause_ms"]) == (3, "hello", 2100)
    assert bar.v2v_ear_ms == 400
