"""A call through the gateway: audio in, speech events, playout with hold and resume, DTMF, hang-up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from gateway_kit import agent_audio, running, silence, until, voice

from actors.link.messages import CallerAudio, CallEvent, Control, Play, Snapshot
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
from voice_agent.twilio.messages import OutClear, OutMark, OutMedia


async def test_start_registers_and_is_idempotent(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        assert await bench.gateway.start() == await bench.gateway.start()
        assert [entry[0] for entry in bench.dispatcher.asked] == ["register_gateway"]


async def test_attach_carries_what_the_stream_was_given(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.dial()
        await caller.start(caller="+15550001", called="+15550002", traceparent="00-a-b-01")
        await until(lambda: bench.host.of_call(caller.call_id))
        attach = bench.host.attach(caller.call_id)
        assert (attach.epoch, attach.snapshot) == (1, b"")
        assert (attach.caller_pii, attach.called, attach.traceparent) == ("+15550001", "+15550002", "00-a-b-01")


@pytest.mark.parametrize("frame", [160, 37, 4000])
async def test_speech_is_uploaded_whole_with_its_preroll_whatever_the_frames(tmp_path: Path, frame: int) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        spoken = silence(500) + voice(400) + silence(400)
        await caller.audio(spoken, frame=frame)
        await bench.host.wait_event(caller.call_id, SpeechPaused)
        kinds = [type(e) for e in bench.host.events(caller.call_id) if isinstance(e, SpeechStarted | SpeechPaused)]
        assert kinds == [SpeechStarted, SpeechPaused]
        uploaded = bench.host.audio(caller.call_id)
        assert voice(400) in uploaded
        begin = spoken.index(uploaded)
        assert (500 - 240 - 8) * 8 <= begin <= (500 - 240) * 8
        messages = bench.host.of_call(caller.call_id)
        assert [m.offset_samples for m in messages if isinstance(m, CallerAudio)][:2] == [0, 800]
        # All audio of the utterance is there before its pause is told.
        pause_at = messages.index(CallEvent(caller.call_id, bench.host.events(caller.call_id, SpeechPaused)[0]))
        assert not any(isinstance(m, CallerAudio) for m in messages[pause_at:])


async def test_speech_resumes_an_open_utterance_and_close_makes_the_next_a_new_one(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        await caller.audio(silence(300) + voice(300) + silence(600) + voice(300, 2) + silence(300))
        await bench.host.wait_event(caller.call_id, SpeechPaused, 2)
        assert bench.host.events(caller.call_id, SpeechResumed)[0].utterance == 1
        assert voice(300, 2) in bench.host.audio(caller.call_id)
        bench.host.send(Control(caller.call_id, 1, "close_utterance", number=1))
        await asyncio.sleep(0.1)
        await caller.audio(voice(300) + silence(300))
        assert (await bench.host.wait_event(caller.call_id, SpeechStarted, 2)).utterance == 2


async def test_a_clause_is_paced_marked_and_reported(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        audio = agent_audio(700)
        for at in range(0, len(audio), 1600):
            bench.host.send(Play(caller.call_id, 1, 1, 0, audio[at : at + 1600], at + 1600 >= len(audio), True))
        started = await bench.host.wait_event(caller.call_id, PlayoutStarted)
        await asyncio.sleep(0.05)
        assert len(caller.heard()) <= 400 * 8  # the lead, and not the whole clause
        played = await bench.host.wait_event(caller.call_id, ClausePlayed)
        assert (played.turn, played.clause) == (1, 0)
        assert caller.heard() == audio
        assert [m.name for m in caller.of(OutMark)] == ["t1.c0.e0"]
        assert [len(m.payload) for m in caller.of(OutMedia)] == [800] * 7
        # Twilio's echo comes back at once here, so only the order is sure: never before the last chunk was due.
        assert played.at_ms - started.at_ms >= 700 - 240
        assert (await bench.status())["playout"]["starved"] == 0


async def test_barge_in_clears_at_once_and_resume_goes_on_at_the_unheard_sample(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call(echo_marks=False)
        audio = agent_audio(3000)
        bench.host.send(Play(caller.call_id, 1, 1, 0, audio, True, True))
        await bench.host.wait_event(caller.call_id, PlayoutStarted)
        await caller.audio(silence(400) + voice(300), pace=1.0)
        held = await bench.host.wait_event(caller.call_id, PlayoutHeld)
        order = [type(e) for e in bench.host.events(caller.call_id)]
        assert order.index(PlayoutHeld) < order.index(SpeechStarted)
        await until(lambda: caller.of(OutClear))
        before = caller.heard()
        await asyncio.sleep(0.3)
        assert caller.heard() == before
        assert caller.sent[-1] == caller.of(OutClear)[0]
        bench.host.send(Control(caller.call_id, 1, "resume"))
        await until(lambda: caller.of(OutMark))
        after = caller.heard()[len(before) :]
        assert audio == audio[: len(audio) - len(after)] + after
        assert (len(audio) - len(after)) // 8 == held.heard_ms
        assert len(before) // 8 - 240 <= held.heard_ms <= len(before) // 8
        assert caller.of(OutMark)[0].name == "t1.c0.e1"
        await caller.echo("t1.c0.e0")
        await caller.echo("t1.c0.e1")
        await bench.host.wait_event(caller.call_id, ClausePlayed)
        assert len(bench.host.events(caller.call_id, ClausePlayed)) == 1


async def test_words_that_may_not_be_interrupted_play_on(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        bench.host.send(Play(caller.call_id, 1, 1, 0, agent_audio(1000), True, False))
        await bench.host.wait_event(caller.call_id, PlayoutStarted)
        await caller.audio(silence(200) + voice(300) + silence(300))
        await bench.host.wait_event(caller.call_id, ClausePlayed)
        assert caller.heard() == agent_audio(1000)
        assert caller.of(OutClear) == []
        assert bench.host.events(caller.call_id, SpeechStarted)


async def test_clear_drops_a_turn_and_later_audio_of_it_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        bench.host.send(Play(caller.call_id, 1, 1, 0, agent_audio(2000), True, True))
        await bench.host.wait_event(caller.call_id, PlayoutStarted)
        bench.host.send(Control(caller.call_id, 1, "clear", number=1))
        bench.host.send(Play(caller.call_id, 1, 1, 1, agent_audio(100, 7), True, True))
        bench.host.send(Play(caller.call_id, 1, 2, 0, agent_audio(200, 8), True, True))
        await bench.host.wait_event(caller.call_id, ClausePlayed)
        assert caller.heard().endswith(agent_audio(200, 8))
        assert agent_audio(100, 7) not in caller.heard()
        assert len(caller.of(OutClear)) == 1
        assert (await bench.status())["counters"]["refused_plays"] == 1


async def test_hold_and_resume_by_the_actor(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        bench.host.send(Control(caller.call_id, 1, "hold"))
        bench.host.send(Play(caller.call_id, 1, 1, 0, agent_audio(100), True, True))
        await asyncio.sleep(0.2)
        assert caller.heard() == b""
        bench.host.send(Control(caller.call_id, 1, "resume"))
        await bench.host.wait_event(caller.call_id, ClausePlayed)


async def test_a_mark_that_never_comes_times_out(tmp_path: Path) -> None:
    async with running(tmp_path, media={"mark_timeout_s": 0.2}) as bench:
        caller = await bench.call(echo_marks=False)
        bench.host.send(Play(caller.call_id, 1, 1, 0, agent_audio(100), True, True))
        await bench.host.wait_event(caller.call_id, ClausePlayed)
        assert (await bench.status())["playout"]["marks_timed_out"] == 1


async def test_keys_are_passed_on(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        for digit in "1#A":
            await caller.dtmf(digit)
        await bench.host.wait_event(caller.call_id, DtmfReceived, 3)
        assert [e.digit for e in bench.host.events(caller.call_id, DtmfReceived)] == ["1", "#", "A"]


async def test_messages_of_an_older_epoch_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        bench.host.send(Play(caller.call_id, 0, 1, 0, agent_audio(100), True, True))
        bench.host.send(Snapshot(caller.call_id, 0, b"old"))
        bench.host.send(Control(caller.call_id, 0, "hang_up"))
        bench.host.send(Play(caller.call_id, 1, 2, 0, agent_audio(100, 1), True, True))
        await bench.host.wait_event(caller.call_id, ClausePlayed)
        assert caller.heard() == agent_audio(100, 1)
        assert (await bench.status())["counters"]["stale_messages"] == 3


async def test_the_actor_hangs_up(tmp_path: Path) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        bench.host.send(Control(caller.call_id, 1, "hang_up", reason="goodbye"))
        assert await caller.closed() == (1000, "call ended")
        await bench.until_empty()
        assert bench.dispatcher.released(caller.call_id) == ["goodbye"]
        await until(lambda: bench.host.detached(caller.call_id))


@pytest.mark.parametrize(
    ("how", "reason"), [("stop", "caller_hung_up"), ("close", "stream_lost"), ("die", "stream_lost")]
)
async def test_the_stream_ends_while_the_agent_speaks(tmp_path: Path, how: str, reason: str) -> None:
    async with running(tmp_path) as bench:
        caller = await bench.call()
        bench.host.send(Play(caller.call_id, 1, 1, 0, agent_audio(5000), True, True))
        await bench.host.wait_event(caller.call_id, PlayoutStarted)
        await caller.audio(voice(200))
        if how == "die":
            caller.die()
        else:
            await getattr(caller, how)()
        status = await bench.until_empty()
        assert status["ended"] == {reason: 1}
        assert bench.dispatcher.released(caller.call_id) == [reason]
        await until(lambda: bench.host.detached(caller.call_id))
        assert bench.host.detached(caller.call_id)[0].reason == reason
        # A dialog whose stream is lost is not told of an end: it may go on.
        told = [CarrierStopped(reason)] if how == "stop" else []
        assert bench.host.events(caller.call_id, CarrierStopped) == told


async def test_twenty_calls_at_once_each_hear_their_own_agent(tmp_path: Path) -> None:
    async with running(tmp_path, calls={"max_calls": 20}) as bench:
        callers = [await bench.call() for _ in range(20)]

        async def converse(index: int) -> None:
            caller = callers[index]
            audio = agent_audio(600, index)
            bench.host.send(Play(caller.call_id, 1, 1, 0, audio, True, False))
            spoken = silence(200) + voice(300, index + 1) + silence(300)
            await caller.audio(spoken, pace=1.0)
            await bench.host.wait_event(caller.call_id, ClausePlayed)
            await bench.host.wait_event(caller.call_id, SpeechPaused)
            assert caller.heard() == audio
            assert voice(300, index + 1) in bench.host.audio(caller.call_id)

        async with asyncio.TaskGroup() as group:
            for index in range(20):
                group.create_task(converse(index))
        status = await bench.status()
        assert len(status["calls"]) == 20
        assert status["links"] == 1
        assert status["attached"] == 20
        for caller in callers:
            await caller.stop()
        assert (await bench.until_empty())["ended"] == {"caller_hung_up": 20}
