"""The pulse of a gateway: who is called, when, and that it rests."""

from __future__ import annotations

import asyncio

from gateway_kit import until

from actors.gateway.pulse import LONGEST_S, SHORTEST_S, Pulse


async def test_members_are_called_at_each_beat_in_the_order_they_joined() -> None:
    pulse, called = Pulse(), list[str]()

    def first() -> None:
        called.append("first")

    def second() -> None:
        called.append("second")

    pulse.join(first)
    pulse.join(second)
    pulse.join(first)
    await until(lambda: len(called) >= 6)
    pulse.leave(first)
    pulse.leave(second)
    assert called == ["first", "second"] * (len(called) // 2)


async def test_who_leaves_in_a_beat_is_not_called_in_it_any_more() -> None:
    pulse, called = Pulse(), list[str]()

    def first() -> None:
        called.append("first")
        pulse.leave(first)
        pulse.leave(second)

    def second() -> None:
        called.append("second")

    pulse.join(first)
    pulse.join(second)
    await until(lambda: called)
    await asyncio.sleep(3 * SHORTEST_S)
    assert called == ["first"]


async def test_it_rests_without_members_and_beats_again_for_the_next() -> None:
    pulse, beats = Pulse(), list[int]()

    def member() -> None:
        beats.append(len(beats))

    pulse.join(member)
    await until(lambda: beats)
    pulse.leave(member)
    rested = len(beats)
    await asyncio.sleep(3 * LONGEST_S)
    assert len(beats) == rested
    assert len(pulse) == 0
    pulse.join(member)
    await until(lambda: len(beats) > rested)
    pulse.leave(member)


async def test_many_members_make_beats_rarer_up_to_a_frame() -> None:
    pulse = Pulse()
    members = [lambda number=number: None for number in range(500)]
    pulse.join(members[0])
    assert pulse.interval_s == SHORTEST_S
    for member in members:
        pulse.join(member)
    assert pulse.interval_s == LONGEST_S
    for member in members:
        pulse.leave(member)
