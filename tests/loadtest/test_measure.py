import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.measure import Percentiles, Stretch, measure, stretches
from loadtest.playout import Underrun
from loadtest.recording import read_stereo, write_stereo
from voice_agent.audio.g711 import mulaw_decode, mulaw_encode
from voice_agent.errors import ConfigError


def channel(total_ms, *parts, noise=0):
    """A channel that is loud in each (start_ms, end_ms)."""
    audio = np.random.default_rng(1).normal(0, noise, total_ms * 8) if noise else np.zeros(total_ms * 8)
    for start_ms, end_ms in parts:
        samples = np.arange((end_ms - start_ms) * 8)
        audio[start_ms * 8 : end_ms * 8] += 8000 * np.sin(2 * np.pi * 300 * samples / 8000)
    return audio.astype(np.int16)


def test_voice_to_voice_is_last_loud_step_to_first_loud_step():
    caller = channel(6000, (1000, 2000), (4000, 4500))
    agent = channel(6000, (100, 700), (2460, 3300), (5260, 5900))
    found = measure(caller, agent)
    assert [(turn.caller_end_ms, turn.agent_start_ms, turn.v2v_ms) for turn in found.turns] == [
        (2000, 2460, 460),
        (4500, 5260, 760),
    ]
    assert found.greeting_ms == 100
    assert found.barge_ins == ()
    assert (found.v2v_ms.p50, found.v2v_ms.p95) == (460, 760)


def test_line_noise_is_not_speech():
    found = measure(channel(4000, (1000, 2000), noise=20), channel(4000, (2400, 3000), noise=20))
    assert [turn.v2v_ms for turn in found.turns] == [400]


def test_the_burst_of_a_last_consonant_ends_the_words_and_a_click_alone_does_not():
    agent = channel(6000, (3000, 4000))
    assert [turn.v2v_ms for turn in measure(channel(6000, (1000, 2000), (2120, 2140)), agent).turns] == [860]
    assert [turn.v2v_ms for turn in measure(channel(6000, (1000, 2000), (2400, 2420)), agent).turns] == [1000]


@pytest.mark.parametrize("at_ms", range(2120, 2140, 2))
def test_a_soft_burst_of_8_ms_is_heard_wherever_it_begins(at_ms):
    caller = channel(6000, (1000, 2000))
    burst = channel(6000, (at_ms, at_ms + 8)) // 16  # -41 dBFS; over 20 ms it is -45
    latency_ms = measure(caller + burst, channel(6000, (3000, 4000))).turns[0].v2v_ms
    assert 0 <= 3000 - (at_ms + 8) - latency_ms + 10 <= 20


def test_a_pause_inside_the_callers_words_belongs_to_them():
    found = measure(channel(5000, (1000, 1500), (1900, 2400)), channel(5000, (3000, 4000)))
    assert [(turn.caller_start_ms, turn.v2v_ms) for turn in found.turns] == [(1000, 600)]


def test_words_without_an_answer_are_no_turn():
    found = measure(channel(8000, (1000, 1500), (4000, 4500)), channel(8000, (5000, 6000)))
    assert [turn.caller_start_ms for turn in found.turns] == [4000]


def test_barge_in_is_first_loud_caller_frame_to_last_loud_agent_frame_and_its_answer_a_turn():
    caller = channel(8000, (3000, 4200))
    agent = channel(8000, (1000, 3160), (4700, 6000))
    found = measure(caller, agent)
    assert [(item.caller_start_ms, item.latency_ms) for item in found.barge_ins] == [(3000, 160)]
    assert [turn.v2v_ms for turn in found.turns] == [500]


def test_an_agent_that_talks_on_is_not_a_barge_in():
    found = measure(channel(9000, (2000, 2600)), channel(9000, (1000, 7000)))
    assert found.barge_ins == ()
    assert found.turns == ()


def test_a_click_is_not_an_answer():
    agent = channel(4000, (2100, 2120), (2600, 3000))
    assert [turn.v2v_ms for turn in measure(channel(4000, (1000, 2000)), agent).turns] == [600]


def test_silence_measures_nothing():
    found = measure(channel(1000), channel(1000))
    assert (found.turns, found.barge_ins, found.greeting_ms) == ((), (), None)
    assert found.v2v_ms == Percentiles()


def test_holes_are_told_apart():
    holes = [
        Underrun(100, 60, starved=True, cleared=False),
        Underrun(300, 40, starved=True, cleared=False),
        Underrun(900, 80, starved=False, cleared=False),
        Underrun(2000, 5000, starved=False, cleared=False),
        Underrun(9000, 100, starved=False, cleared=True),
    ]
    found = measure(channel(100), channel(100), underruns=holes, lateness_ms=[0.1, 0.2, 5.0])
    assert found.starved_ms == 100
    assert [hole.at_ms for hole in found.pauses] == [900]
    assert found.lateness_ms.largest == 5.0


@given(
    start=st.integers(5, 100),
    length=st.integers(2, 60),
    latency=st.integers(2, 100),
    answer=st.integers(2, 50),
)
def test_any_latency_is_found_exactly(start, length, latency, answer):
    end = start + length
    caller = channel((end + latency + answer + 5) * 20, (start * 20, end * 20))
    agent = channel(len(caller) // 8, ((end + latency) * 20, (end + latency + answer) * 20))
    assert [turn.v2v_ms for turn in measure(caller, agent).turns] == [latency * 20]


def test_stretches_merge_over_short_holes_only():
    audio = channel(3000, (0, 200), (500, 700), (1500, 1700))
    assert stretches(audio, 300) == [Stretch(0, 700), Stretch(1500, 1700)]
    assert len(stretches(audio, 100)) == 3


def test_percentiles_are_nearest_rank():
    assert Percentiles.of(list(range(1, 101))) == Percentiles(100, 50.0, 95.0, 100.0)
    assert Percentiles.of([7]) == Percentiles(1, 7.0, 7.0, 7.0)


def test_recording_round_trip(tmp_path):
    caller, agent = channel(1000, (100, 500)), channel(800, (200, 300))
    path = tmp_path / "new" / "call.wav"
    write_stereo(path, mulaw_encode(caller), mulaw_encode(agent))
    left, right = read_stereo(path)
    assert np.array_equal(left, mulaw_decode(mulaw_encode(caller)))
    assert np.array_equal(right[: len(agent)], mulaw_decode(mulaw_encode(agent)))
    assert not right[len(agent) :].any()


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "call.wav"
    path.write_bytes(b"RIFFxxxxWAVE")
    with pytest.raises(ConfigError, match="WAV"):
        read_stereo(path)
