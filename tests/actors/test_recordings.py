"""Recorded phrases: made at the start, played when no engine speaks, ahead of what does not come."""

from __future__ import annotations

from dataclasses import replace

import pytest
from local_plane import PHRASES, Gate, LocalPlane, kit_of, until
from test_call_shell import Call

from actors.call.phrases import Recordings, texts_of
from actors.call.turn_audio import TurnAudio
from engines.listening import listened
from voice_agent.dialog.policy import TurnPolicy
from voice_agent.dialog.records import TurnRecord
from voice_agent.errors import EngineFailedError
from voice_agent.ports import SpeechChunk

QUICK = TurnPolicy(endpoint_ms=120, endpoint_short_ms=100, endpoint_long_ms=150, filler_after_ms=200)


def recorded(call: Call) -> Call:
    """The call with a recording of every phrase; each is one byte, repeated."""
    texts = texts_of(PHRASES, 0)
    call.kit.recordings.audio |= {text: bytes([100 + at]) * 800 for at, text in enumerate(texts)}
    return call


@pytest.mark.parametrize("stage", ["transcribe", "search", "reply", "speak"])
async def test_a_stage_that_hangs_is_covered_by_the_recording_and_goes_on_when_it_is_back(stage):
    plane = LocalPlane()
    async with recorded(Call(plane, policy=QUICK)) as call:
        await call.played(1)
        gate = plane.gates[stage] = Gate()
        call.say()
        filler = call.kit.recordings.of(PHRASES.filler)
        await until(lambda: any(play.audio == filler for play in call.gateway.plays()))
        before = len(call.gateway.plays())
        del plane.gates[stage]
        gate.open()
        if stage == "transcribe":
            await call.played(call.gateway.plays()[-1].turn)
        await until(lambda: len(call.gateway.plays()) > before)
        assert any(play.audio[:1] == b"\x10" for play in call.gateway.plays()[before:])


async def test_when_no_engine_speaks_the_apology_is_played_and_the_call_goes_on():
    plane = LocalPlane()
    async with recorded(Call(plane)) as call:
        await call.played(1)
        plane.failures["speak"].extend(EngineFailedError("no voice") for _ in range(4))
        call.say()
        apology = next(text for text in texts_of(PHRASES, 0) if PHRASES.apology.startswith(text))
        await until(lambda: any(p.audio == call.kit.recordings.of(apology) for p in call.gateway.plays()))
        await call.played(call.gateway.plays()[-1].turn)
        assert not call.shell.over
    records = call.journal.of(TurnRecord)
    assert records[-1].kind == "apology"
    assert records[-1].engines["tts"] == "recorded"


def mute(plane: LocalPlane, silent: str, heard: int) -> None:
    """From here on the plane's voice is silent for this text behind so many pieces, and listened to as in a replica."""
    speak = plane.speak

    async def given(request):
        pieces = 0
        async for chunk in speak(request):
            pieces += 1
            fails = request.text == silent and pieces > heard
            yield replace(chunk, audio=b"\xff" * len(chunk.audio)) if fails else chunk

    plane.speak = lambda request: listened(given(request), request.text)


@pytest.mark.parametrize("heard", [0, 1])
@pytest.mark.parametrize("silent", ["We open at nine.", "Come in."])
async def test_silence_for_words_ends_in_the_apology_and_none_of_it_is_played(silent, heard):
    plane = LocalPlane()
    plane.speech_ms = 4000
    async with recorded(Call(plane)) as call:
        await call.played(1)
        mute(plane, silent, heard)
        call.say()
        apology = next(text for text in texts_of(PHRASES, 0) if PHRASES.apology.startswith(text))
        await until(lambda: any(p.audio == call.kit.recordings.of(apology) for p in call.gateway.plays()))
        await call.played(call.gateway.plays()[-1].turn)
        assert not call.shell.over
    assert not any(b"\xff" * 80 in play.audio for play in call.gateway.plays())
    # Another replica is asked of what was not heard; what broke off is said again.
    asked = [(request.text, request.again) for request in plane.requests["speak"]]
    assert asked[-2:] == [(silent, False), (silent, heard > 0)]
    cut, apologised = call.journal.of(TurnRecord)[-2:]
    assert (cut.outcome, set(cut.failed_stages)) == ("cut", {"synthesise"})
    assert (apologised.kind, apologised.engines["tts"]) == ("apology", "recorded")


async def test_a_greeting_that_cannot_be_spoken_is_played_from_its_recording():
    plane = LocalPlane()
    plane.failures["speak"].extend(EngineFailedError("no voice") for _ in range(2))
    async with recorded(Call(plane)) as call:
        await until(lambda: call.gateway.plays())
        assert call.gateway.plays()[0].audio in call.kit.recordings.audio.values()


async def test_every_phrase_is_recorded_as_the_dialog_cuts_it():
    plane = LocalPlane()
    recordings = Recordings(texts_of(PHRASES, 0))
    await recordings.record(plane, "slt")
    assert set(recordings.audio) == set(texts_of(PHRASES, 0))
    assert {PHRASES.filler, PHRASES.hold} <= set(recordings.audio)
    assert {request.voice for request in plane.requests["speak"]} == {"slt"}
    assert not recordings.missing


async def test_silence_and_failures_are_told_and_leave_the_phrase_out(caplog):
    plane = LocalPlane()
    plane.failures["speak"].append(EngineFailedError("no voice"))

    async def mute(request):
        yield SpeechChunk(b"\xff" * 8000, last=True)

    recordings = Recordings({"One moment.": "filler"})
    await recordings.record(plane, "")
    assert recordings.missing == ["filler"]
    plane.speak = mute
    await recordings.record(plane, "")
    assert recordings.missing == ["filler", "filler"]
    assert not recordings.audio
    assert "phrase not recorded" in caplog.text


def test_a_phrase_goes_ahead_of_what_has_not_begun_and_never_into_the_middle_of_a_clause():
    sent: list[tuple[int, bytes, bool]] = []
    audio = TurnAudio(lambda clause, piece, last, _: sent.append((clause, piece, last)))
    audio.release(interruptible=True)
    audio.open(0)
    audio.open(1, ahead=True)
    audio.add(1, b"phrase", last=True)
    audio.add(0, b"words", last=False)
    audio.open(2, ahead=True)
    audio.add(2, b"phrase", last=True)
    assert sent == [(1, b"phrase", True), (0, b"words", False)]
    audio.fail(0)
    assert sent[2:] == [(0, b"", True), (2, b"phrase", True)]


def test_a_kit_has_no_recordings_before_the_process_is_warm():
    assert kit_of(LocalPlane(), None).recordings.of(PHRASES.filler) is None
