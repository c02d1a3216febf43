"""A call outlives its actor; hanging up at any moment leaves nothing behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from gateway_kit import Bench, Caller, FakeHost, agent_audio, running, silence, until, voice

from actors.link.messages import Attach, CallEvent, Control, Play, Snapshot
from voice_agent.dialog.events import (
    CarrierStopped,
    ClausePlayed,
    DtmfReceived,
    PlayoutHeld,
    PlayoutStarted,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
)
from voice_agent.twilio.messages import OutMark


async def attached(host: FakeHost, call_id: str) -> Attach:
    await until(lambda: any(isinstance(m, Attach) for m in host.of_call(call_id)))
    return host.attach(call_id)


async def test_a_new_actor_gets_snapshot_and_utterance_and_the_caller_notices_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=2) as bench:
        first, second = bench.dispatcher.hosts
        caller = await bench.call()
        audio = agent_audio(2000)
        first.send(Play(caller.call_id, 1, 1, 0, audio, True, False))
        first.send(Snapshot(caller.call_id, 1, b"state-1"))
        first.send(Snapshot(caller.call_id, 1, b"state-2"))
        await caller.audio(silence(400) + voice(500), pace=0.5)
        await first.wait_event(caller.call_id, SpeechStarted)
        await until(lambda: len(first.audio(caller.call_id)) >= 4000)
        await first.die()
        attach = await attached(second, caller.call_id)
        assert (attach.epoch, attach.snapshot) == (2, b"state-2")
        started = await second.wait_event(caller.call_id, SpeechStarted)
        assert started == first.events(caller.call_id, SpeechStarted)[0]
        await caller.audio(voice(200, 2) + silence(300), pace=0.5)
        await second.wait_event(caller.call_id, SpeechPaused)
        again = second.audio(caller.call_id)
        assert again.startswith(first.audio(caller.call_id))
        assert voice(500) + voice(200, 2) in again
        await second.wait_event(caller.call_id, ClausePlayed)
        assert caller.heard() == audio
        assert bench.dispatcher.asked[-1] == ("replace", caller.call_id, first.host_id)
        assert (await bench.status())["counters"]["takeovers"] == 1
        # The new one speaks with its epoch, the old one's would be refused.
        second.send(Play(caller.call_id, 2, 2, 0, agent_audio(100, 3), True, True))
        await second.wait_event(caller.call_id, ClausePlayed, 2)
        assert bench.dispatcher.take_overs == []
        second.send(Snapshot(caller.call_id, 2, b"state-3"))
        await until(lambda: bool(bench.dispatcher.take_overs))
        [move] = (await bench.status())["moves"]
        assert bench.dispatcher.take_overs == [("peer_closed", move["listening_ms"] / 1000)]


async def test_a_hold_is_told_to_the_new_actor_and_it_can_resume(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=2) as bench:
        first, second = bench.dispatcher.hosts
        caller = await bench.call()
        audio = agent_audio(1500)
        first.send(Play(caller.call_id, 1, 1, 0, audio, True, True))
        await caller.audio(silence(300) + voice(300) + silence(300), pace=1.0)
        held = await first.wait_event(caller.call_id, PlayoutHeld)
        await first.wait_event(caller.call_id, SpeechPaused)
        await first.die()
        await second.wait_event(caller.call_id, SpeechPaused)
        kinds = [type(e) for e in second.events(caller.call_id)]
        assert kinds == [PlayoutStarted, PlayoutHeld, SpeechStarted, SpeechPaused]
        assert second.events(caller.call_id, PlayoutHeld)[0].heard_ms == held.heard_ms
        before = len(caller.heard())
        second.send(Control(caller.call_id, 2, "close_utterance", number=1))
        second.send(Control(caller.call_id, 2, "resume"))
        await second.wait_event(caller.call_id, ClausePlayed)
        assert audio.endswith(caller.heard()[before:])
        assert (
            len(audio) - len(caller.heard()[before:])
            == held.heard_ms * 8 + (len(audio) - len(caller.heard()[before:])) % 8
        )


async def test_the_new_actor_may_say_a_broken_off_clause_again_without_a_stutter(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=2) as bench:
        first, second = bench.dispatcher.hosts
        caller = await bench.call()
        audio = agent_audio(800)
        first.send(Play(caller.call_id, 1, 1, 0, audio[:3000], False, True))
        await first.wait_event(caller.call_id, PlayoutStarted)
        await first.die()
        await attached(second, caller.call_id)
        second.send(Play(caller.call_id, 2, 1, 0, audio, True, True))
        await second.wait_event(caller.call_id, ClausePlayed)
        assert caller.heard() == audio


async def test_what_happened_while_there_was_no_actor_is_told_afterwards(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=2) as bench:
        first, second = bench.dispatcher.hosts
        caller = await bench.call(echo_marks=False)
        first.send(Play(caller.call_id, 1, 1, 0, agent_audio(100), True, True))
        first.send(Snapshot(caller.call_id, 1, b"s"))
        await until(lambda: caller.of(OutMark))
        bench.dispatcher.gate.clear()
        await first.die()
        await until(lambda: ("replace", caller.call_id, first.host_id) in bench.dispatcher.asked)
        await caller.echo("t1.c0.e0")
        await caller.dtmf("5")
        await caller.audio(silence(300) + voice(300) + silence(300))
        bench.dispatcher.gate.set()
        await second.wait_event(caller.call_id, SpeechPaused)
        events = second.events(caller.call_id)
        assert [type(e) for e in events if not isinstance(e, PlayoutStarted)] == [
            ClausePlayed,
            DtmfReceived,
            SpeechStarted,
            SpeechPaused,
        ]
        assert voice(300) in second.audio(caller.call_id)
        assert isinstance(second.of_call(caller.call_id)[0], Attach)


async def test_old_news_is_not_told_again_once_a_snapshot_covers_it(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=2) as bench:
        first, second = bench.dispatcher.hosts
        caller = await bench.call()
        await caller.dtmf("1")
        await caller.dtmf("2")
        await first.wait_event(caller.call_id, DtmfReceived, 2)
        first.send(Snapshot(caller.call_id, 1, b"knows 1", 1))
        await until(lambda: bench.gateway._calls[caller.call_id].counters.snapshots == 1)
        await first.die()
        await attached(second, caller.call_id)
        await second.wait_event(caller.call_id, DtmfReceived)
        assert [e.digit for e in second.events(caller.call_id, DtmfReceived)] == ["2"]
        second.send(Snapshot(caller.call_id, 2, b"knows both", 1))
        await until(lambda: bench.gateway._calls[caller.call_id].counters.snapshots == 2)
        moves = (await bench.status())["moves"]
        assert [(move["call_id"], move["host_id"], move["reason"]) for move in moves] == [
            (caller.call_id, second.host_id, "peer_closed")
        ]
        assert 0 < moves[0]["found_ms"] <= moves[0]["listening_ms"]
        await second.die()
        bench.dispatcher.hosts.append(await FakeHost("call-host-late").start())
        third = bench.dispatcher.hosts[-1]
        await attached(third, caller.call_id)
        await asyncio.sleep(0.02)
        assert third.events(caller.call_id, DtmfReceived) == []


async def test_resumed_speech_counts_from_the_new_actors_numbering(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=2) as bench:
        first, second = bench.dispatcher.hosts
        caller = await bench.call()
        await caller.audio(silence(300) + voice(300) + silence(300))
        await first.wait_event(caller.call_id, SpeechPaused)
        await first.die()
        await second.wait_event(caller.call_id, SpeechPaused)
        await caller.audio(voice(300, 2) + silence(300))
        await second.wait_event(caller.call_id, SpeechResumed)
        await second.wait_event(caller.call_id, SpeechPaused, 2)
        pieces = [m for m in second.of_call(caller.call_id) if hasattr(m, "offset_samples")]
        end = 0
        for piece in pieces:
            assert piece.offset_samples == end
            end += len(piece.audio)


async def test_actors_may_die_one_after_another(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=4) as bench:
        caller = await bench.call()
        for epoch, host in enumerate(bench.dispatcher.hosts[:3], 1):
            assert (await attached(host, caller.call_id)).epoch == epoch
            host.send(Snapshot(caller.call_id, epoch, f"state {epoch}".encode()))
            await asyncio.sleep(0.05)
            await host.die()
        last = await attached(bench.dispatcher.hosts[3], caller.call_id)
        assert (last.epoch, last.snapshot) == (4, b"state 3")


async def test_all_calls_of_a_dead_actor_move(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=2) as bench:
        callers = [await bench.call() for _ in range(8)]
        await bench.dispatcher.hosts[0].die()
        for caller in callers:
            await attached(bench.dispatcher.hosts[1], caller.call_id)
        status = await bench.status()
        assert status["links"] == 1
        assert status["attached"] == 8


async def test_a_host_that_refuses_for_want_of_room_is_replaced(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=2) as bench:
        caller = await bench.call()
        bench.host.send(Control(caller.call_id, 1, "hang_up", reason="full"))
        assert (await attached(bench.dispatcher.hosts[1], caller.call_id)).epoch == 2


async def test_when_there_is_no_other_actor_the_leg_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.gateway.gateway_call.REPLACE_S", 0.5)
    async with running(tmp_path) as bench:
        caller = await bench.call()
        await bench.host.die()
        assert await caller.closed() == (1011, "call actor lost")
        status = await bench.until_empty()
        assert status["ended"] == {"failed": 1}
        assert bench.dispatcher.released(caller.call_id) == ["failed"]


async def test_a_spare_that_comes_late_is_still_taken(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        await bench.host.die()
        await asyncio.sleep(0.3)
        spare = await FakeHost("call-host-late").start()
        bench.dispatcher.hosts.append(spare)
        assert (await attached(spare, caller.call_id)).epoch == 2


async def test_hosts_that_cannot_be_reached_are_given_up_after_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.gateway.gateway_call.RETRY_S", 0.01)
    async with running(tmp_path, hosts=6) as bench:
        for host in bench.dispatcher.hosts:
            await host.die()
        caller = await bench.dial()
        await caller.start()
        assert await caller.closed() == (1011, "no call actor can be reached")
        await bench.until_empty()


async def test_an_actor_that_breaks_the_protocol_loses_its_link(tmp_path: Path) -> None:
    async with running(tmp_path, hosts=2) as bench:
        caller = await bench.call()
        bench.host.send(CallEvent(caller.call_id, DtmfReceived("1")))
        await attached(bench.dispatcher.hosts[1], caller.call_id)


async def test_an_unknown_verb_ends_its_call_and_no_other(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller, other = await bench.call(), await bench.call()
        bench.host.send(Control(caller.call_id, 1, "dance"))
        assert await caller.closed() == (1011, "internal error")
        bench.host.send(Play(other.call_id, 1, 1, 0, agent_audio(100), True, True))
        await bench.host.wait_event(other.call_id, ClausePlayed)


# --- hanging up at any moment ---


async def _connected(bench: Bench, caller: Caller) -> None:
    pass


async def _claiming(bench: Bench, caller: Caller) -> None:
    bench.dispatcher.gate.clear()
    await caller.start()
    await until(lambda: ("claim", caller.call_id) in bench.dispatcher.asked)


async def _attached(bench: Bench, caller: Caller) -> None:
    await caller.start()
    await attached(bench.host, caller.call_id)


async def _speaking(bench: Bench, caller: Caller) -> None:
    await _attached(bench, caller)
    await caller.audio(silence(200) + voice(300))
    await bench.host.wait_event(caller.call_id, SpeechStarted)


async def _playing(bench: Bench, caller: Caller) -> None:
    await _attached(bench, caller)
    bench.host.send(Play(caller.call_id, 1, 1, 0, agent_audio(5000), True, True))
    await bench.host.wait_event(caller.call_id, PlayoutStarted)


async def _held(bench: Bench, caller: Caller) -> None:
    await _playing(bench, caller)
    await caller.audio(silence(200) + voice(300), pace=0.5)
    await bench.host.wait_event(caller.call_id, PlayoutHeld)


async def _replacing(bench: Bench, caller: Caller) -> None:
    await _playing(bench, caller)
    bench.dispatcher.gate.clear()
    await bench.host.die()
    await until(lambda: any(entry[0] == "replace" for entry in bench.dispatcher.asked))


async def _without_actor(bench: Bench, caller: Caller) -> None:
    await _attached(bench, caller)
    await bench.host.die()
    await until(lambda: any(entry[0] == "replace" for entry in bench.dispatcher.asked))


MOMENTS = [_connected, _claiming, _attached, _speaking, _playing, _held, _replacing, _without_actor]


@pytest.mark.parametrize("how", ["stop", "close", "die"])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__.strip("_"))
async def test_hanging_up_leaves_nothing(tmp_path: Path, moment: Any, how: str) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.dial()
        await moment(bench, caller)
        if how == "die":
            caller.die()
        else:
            await getattr(caller, how)()
        status = await bench.until_empty()
        assert status["tasks"] == status["attached"] == 0
        if moment is not _connected:
            reason = "caller_hung_up" if how == "stop" else "stream_lost"
            assert bench.dispatcher.released(caller.call_id) == [reason]
        if moment in (_attached, _speaking, _playing, _held):
            await until(lambda: bench.host.detached(caller.call_id))
            assert bench.host.detached(caller.call_id)[0].reason == reason
            told = [CarrierStopped(reason)] if how == "stop" else []
            assert bench.host.events(caller.call_id, CarrierStopped) == told


async def test_stopping_the_gateway_ends_its_calls_in_words(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        callers = [await bench.call() for _ in range(3)]
        await bench.gateway.stop()
        for caller in callers:
            assert await caller.closed() == (1001, "going away")
            assert bench.dispatcher.released(caller.call_id) == ["drained"]
            assert bench.host.detached(caller.call_id)
        await bench.gateway.stop()
