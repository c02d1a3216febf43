"""A call goes to another actor while its own lives, and to the next when an actor cannot read it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from gateway_kit import FakeHost, agent_audio, running, silence, until, voice

from actors.link.messages import FAULT, HANDED_OVER, UNREADABLE, Attach, Control, Play, Snapshot
from voice_agent.admission import HostAddress
from voice_agent.dialog.events import ClausePlayed, DtmfReceived, SpeechPaused, SpeechStarted


async def attached(host: FakeHost, call_id: str, count: int = 1) -> Attach:
    found: list[Any] = []

    def seen() -> bool:
        found[:] = [message for message in host.of_call(call_id) if isinstance(message, Attach)]
        return len(found) >= count

    await until(seen)
    return found[-1]


async def test_the_next_actor_has_the_call_before_the_former_lets_go(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=2) as bench:
        first, second = bench.dispatcher.hosts
        caller = await bench.call()
        audio = agent_audio(1500)
        first.send(Play(caller.call_id, 1, 1, 0, audio, True, False))
        first.send(Snapshot(caller.call_id, 1, b"state"))
        await caller.dtmf("1")
        await first.wait_event(caller.call_id, DtmfReceived)
        assert second.address is not None
        move = asyncio.create_task(bench.gateway.move_call(caller.call_id, second.address))
        attach = await attached(second, caller.call_id)
        assert (attach.epoch, attach.snapshot) == (2, b"state")
        await second.wait_event(caller.call_id, DtmfReceived)
        second.send(Snapshot(caller.call_id, 2, b"mine"))
        assert await move == second.host_id
        await until(lambda: first.detached(caller.call_id))
        assert first.detached(caller.call_id)[0].reason == HANDED_OVER
        # What the former owner says now is no longer of this call.
        first.send(Play(caller.call_id, 1, 2, 0, agent_audio(300, 3), True, True))
        await second.wait_event(caller.call_id, ClausePlayed)
        assert caller.heard() == audio
        status = await bench.status()
        assert status["counters"]["moves"] == 1
        assert status["counters"]["takeovers"] == 0
        assert ("replace", caller.call_id, first.host_id) not in bench.dispatcher.asked
        assert [move["reason"] for move in status["moves"]] == ["moved"]


async def test_words_spoken_while_the_call_moves_are_heard_whole(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=2) as bench:
        first, second = bench.dispatcher.hosts
        caller = await bench.call()
        await caller.audio(silence(300) + voice(400), pace=0.5)
        await first.wait_event(caller.call_id, SpeechStarted)
        assert second.address is not None
        move = asyncio.create_task(bench.gateway.move_call(caller.call_id, second.address))
        await caller.audio(voice(300, 2) + silence(300), pace=0.5)
        await second.wait_event(caller.call_id, SpeechPaused)
        second.send(Snapshot(caller.call_id, 2, b"mine"))
        assert await move == second.host_id
        assert voice(400) + voice(300, 2) in second.audio(caller.call_id)


async def test_an_actor_that_cannot_be_reached_leaves_the_call_where_it_is(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        nowhere = HostAddress("call-host-gone", "127.0.0.1", 1)
        assert await bench.gateway.move_call(caller.call_id, nowhere) == bench.host.host_id
        assert not bench.host.detached(caller.call_id)
        bench.host.send(Play(caller.call_id, 1, 1, 0, agent_audio(100), True, True))
        await bench.host.wait_event(caller.call_id, ClausePlayed)


@pytest.mark.parametrize("why", [UNREADABLE, FAULT])
async def test_an_actor_that_cannot_go_on_with_the_call_gives_it_back(tmp_path: Path, why: str) -> None:
    async with running(tmp_path, hosts=2) as bench:
        first, second = bench.dispatcher.hosts
        caller = await bench.call()
        first.send(Snapshot(caller.call_id, 1, b"state"))
        assert second.address is not None
        move = asyncio.create_task(bench.gateway.move_call(caller.call_id, second.address))
        await attached(second, caller.call_id)
        bench.dispatcher.hosts.reverse()
        second.send(Control(caller.call_id, 2, "hang_up", reason=why))
        again = await attached(first, caller.call_id, 2)
        assert (again.epoch, again.snapshot) == (3, b"state")
        assert await move in ("", first.host_id)
        assert ("replace", caller.call_id, second.host_id) in bench.dispatcher.asked
        assert bench.dispatcher.released(caller.call_id) == []


async def test_a_call_that_is_gone_does_not_move(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        assert bench.host.address is not None
        assert await bench.gateway.move_call("CA-nobody", bench.host.address) == ""
