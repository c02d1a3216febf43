"""Audio of a turn: how much of it is still to be heard."""

from __future__ import annotations

from actors.call.turn_audio import TurnAudio


def test_what_is_ahead_counts_all_clauses_from_the_first_audio_on() -> None:
    now_s = 100.0
    audio = TurnAudio(lambda *_: None, clock=lambda: now_s)
    audio.open(0)
    assert audio.ahead_ms == 0
    now_s = 105.0  # nothing was there to be heard until now
    audio.add(0, bytes(8000), last=True)
    assert audio.ahead_ms == 1000
    now_s = 105.4
    audio.open(1)
    audio.add(1, bytes(1600), last=False)
    assert audio.ahead_ms == 800
    now_s = 110.0
    assert audio.ahead_ms == 0
    audio.add(1, bytes(1600), last=False)  # after a hole: the silence is over, and nothing of it is made up for
    assert audio.ahead_ms == 200
