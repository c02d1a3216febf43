import math
import random

import numpy as np
import pytest

from loadtest.leg import MediaLeg, StreamIds
from loadtest.measure import loud_mulaw, measure_loud
from loadtest.playout import Underrun
from loadtest.swarm.stats import LateTicks, slope, spread
from voice_agent.audio.g711 import mulaw_decode, mulaw_encode
from voice_agent.audio.levels import loud_frames
from voice_agent.twilio import messages


def test_percentiles_are_nearest_rank():
    found = spread([[float(value)] for value in range(1, 101)])
    assert (found.count, found.p50.value, found.p95.value, found.largest) == (100, 50.0, 95.0, 100.0)
    assert found.p50.low < 50 < found.p50.high
    assert found.p95.low < 95 <= found.p95.high


def test_an_interval_over_calls_is_wider_than_one_over_turns_that_are_alike():
    chance = random.Random(3)
    calls = [[level] * 20 for level in (chance.gauss(400, 50) for _ in range(20))]
    by_call = spread(calls)
    by_turn = spread([[value] for call in calls for value in call])
    assert by_call.p50.value == by_turn.p50.value
    assert by_call.p50.high - by_call.p50.low > 2 * (by_turn.p50.high - by_turn.p50.low)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = 0
    for seed in range(60):
        values = np.random.default_rng(seed).normal(400, 50, 80)
        found = spread([[value] for value in values], seed=seed)
        held += found.p50.low <= 400 <= found.p50.high
    assert 50 <= held <= 60


def test_nothing_has_no_percentiles_and_one_call_no_interval():
    assert spread([]) is None
    assert spread([[], []]) is None
    single = spread([[1.0, 2.0, 3.0]])
    assert (single.p50.low, single.p50.value, single.p50.high) == (2.0, 2.0, 2.0)


def test_a_slope_is_found_in_noise_and_none_where_there_is_none():
    chance = np.random.default_rng(2)
    at = list(range(0, 1000, 20))
    noise = chance.normal(0, 200, len(at))
    grows = slope(at, [5000 + 3.0 * x + n for x, n in zip(at, noise, strict=True)])
    flat = slope(at, [5000 + n for n in noise])
    assert grows.low < 3.0 < grows.high
    assert grows.low > 2.0
    assert flat.low < 0 < flat.high
    assert slope([1, 2, 3], [1, 2, 3]) is None
    assert slope([5] * 20, range(20)) is None


def test_samples_that_wander_by_themselves_do_not_grow():
    chance, found = np.random.default_rng(3), []
    for _ in range(40):
        wandering = [0.0]
        for step in chance.normal(0, 1, 119):
            wandering.append(0.9 * wandering[-1] + step)
        found.append(slope(range(120), wandering))
    assert sum(not estimate.low <= 0 <= estimate.high for estimate in found) <= 6


def test_a_slope_does_not_follow_one_outlier():
    values = [100.0] * 30
    values[-1] = 1e6
    assert slope(range(30), values).value == 0.0


def test_late_ticks_of_all_generators():
    late = LateTicks.of([{1: 90, 300: 5}, {1: 4, 52: 1}], largest_ms=31.0)
    assert (late.ticks, late.p50_ms, late.over_frame, late.largest_ms) == (100, 0.1, 5, 31.0)
    assert late.p95_ms == 5.2
    assert LateTicks.of([], 0.0).ticks == 0


def test_loudness_by_table_is_loudness_by_samples():
    chance = np.random.default_rng(1)
    levels = np.repeat(10 ** chance.uniform(0, 4, 300), 40)
    audio = mulaw_encode((chance.standard_normal(len(levels)) * levels).clip(-32768, 32767).astype(np.int16)) + b"\xff"
    assert loud_mulaw(audio).tolist() == loud_frames(mulaw_decode(audio), 40, -45.0).tolist()
    assert loud_mulaw(b"").tolist() == []


def test_gaps_while_the_generator_was_late_are_counted_apart():
    holes = [Underrun(1000, 100, True, False), Underrun(3000, 60, True, False), Underrun(4000, 60, False, False)]
    late = [0.5] * 400
    late[152] = 25.0
    quiet = np.zeros(1600, dtype=bool)
    found = measure_loud(quiet, quiet, underruns=holes, lateness_ms=late)
    assert found.starved == (holes[0],)
    assert found.starved_late == (holes[1],)


def test_a_frame_is_written_as_the_slow_way_writes_it():
    class Wire:
        waiting_bytes = 0
        sent = b""

        def send(self, text):
            self.sent = text

    leg = MediaLeg(StreamIds("MZ1", "CA1", "AC1"))
    wire = Wire()
    leg.open(wire, {})
    frame = bytes(range(160))
    leg.tick(frame)
    slow = messages.build_media(2, "MZ1", chunk=1, timestamp_ms=0, payload=frame)
    assert wire.sent == slow.encode()


@pytest.mark.parametrize(
    "text", ['{"event": "media", "streamSid": "MZ1", "media": {"payload": "%%%="}}', '{"event": "x"}']
)
def test_what_the_carrier_cannot_read_breaks_the_stream(text):
    leg = MediaLeg(StreamIds("MZ1", "CA1", "AC1"))
    leg.take(text.encode())
    assert leg.protocol_error.startswith("Twilio error 31924")


def test_audio_is_read_alike_however_it_is_written():
    fast, slow = (MediaLeg(StreamIds("MZ1", "CA1", "AC1")) for _ in range(2))
    fast.take(messages.media("MZ1", b"\x01" * 320).encode())
    slow.take(b' {"streamSid": "MZ1", "event": "media", "media": {"payload": "%b"}}' % (b"AQEB" * 106 + b"AQE="))
    assert fast.playout.queued_ms == slow.playout.queued_ms == 40
    assert math.isclose(fast.playout.queued_ms, 40)
