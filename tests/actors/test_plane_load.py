"""The load of the model plane, and what a call does about it."""

from __future__ import annotations

from actors.call.load import FORGET_S, LIMIT_MS, PlaneLoad


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_load_is_waiting_beside_the_engines_work() -> None:
    load = PlaneLoad(Clock())
    assert load.level == 0.0
    for _ in range(50):
        load.note(took_ms=1000.0, engine_ms=1000.0)
    assert load.level == 0.0, "a slow engine is not a busy one"
    for _ in range(50):
        load.note(took_ms=LIMIT_MS + 60, engine_ms=60)
    assert load.level > 0.9


def test_one_late_answer_is_no_load_and_old_ones_are_forgotten() -> None:
    clock = Clock()
    load = PlaneLoad(clock)
    load.note(took_ms=LIMIT_MS, engine_ms=0)
    assert 0 < load.level < 0.5
    clock.now_s += FORGET_S + 1
    assert load.level == 0.0
