"""A replica that dies or stalls in the middle of a clause: the caller hears each byte of it once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from local_plane import Gate, ListJournal, LocalPlane, kit_of, until

from actors.call.clause_speech import speech_of
from actors.call.turn_audio import TurnAudio
from engines.simulated import SimulatedTextToSpeech
from voice_agent.errors import DeadlineExceededError, EngineFailedError, ReplicaLostError, ReplicaStalledError
from voice_agent.ports import SpeakRequest, SpeechChunk

REQUEST = SpeakRequest("CA1", 2, 0, "we open at nine every single morning", voice="words")
QUICK = SimulatedTextToSpeech(first_audio_ms=0, speed=10_000)


class Spoken:
    """A clause as a turn takes it: ``pieces`` until it ended or, with ``failure``, broke off."""

    def __init__(self, plane, **kit):
        self.plane, self.pieces, self.failure = plane, [], None
        self._kit = replace(kit_of(plane, ListJournal()), **kit)
        self._turn = TurnAudio(lambda *_: None)
        self._turn.open(0)

    async def run(self, request=REQUEST):
        try:
            async for piece in speech_of(self._kit, request, lambda: self._turn.ahead_ms):
                self._turn.add(0, piece.audio, last=piece.last)
                self.pieces.append(piece)
        except (EngineFailedError, DeadlineExceededError) as failure:
            self.failure = type(failure)
        await until(lambda: self.plane.open_requests == 0)
        return self

    @property
    def audio(self):
        return b"".join(piece.audio for piece in self.pieces)

    @property
    def requests(self):
        return self.plane.requests["speak"]


async def chunks(request=REQUEST):
    return [chunk async for chunk in QUICK.speak(request)]


@pytest.fixture(params=[ReplicaLostError, ReplicaStalledError], autouse=True)
def death(request, monkeypatch):
    """Each of these is true of a replica that is killed, and of one that stalls while there is another."""
    monkeypatch.setattr(LocalPlane, "death", request.param)
    return request.param


async def plane_with(*streams, deaths=()):
    plane = LocalPlane()
    plane.speech.extend(streams)
    plane.deaths["speak"].extend(deaths)
    return plane


@pytest.mark.parametrize("deaths", [(), (1,), (7,), (12,), (3, 4, 11), (0, 2)])
async def test_the_rest_by_another_replica_makes_the_clause_what_it_would_have_been(deaths):
    whole = await chunks()
    assert len(whole) > max(deaths, default=0)
    spoken = await Spoken(await plane_with(*[whole] * 4, deaths=deaths)).run()
    assert spoken.failure is None
    assert spoken.audio == b"".join(chunk.audio for chunk in whole)
    assert [piece.last for piece in spoken.pieces] == [False] * (len(spoken.pieces) - 1) + [True]
    assert spoken.pieces[-1].word_ends_ms == whole[-1].word_ends_ms
    assert len(spoken.requests) == len(deaths) + 1
    assert not any(request.again for request in spoken.requests)


async def test_the_second_answer_may_come_in_other_pieces():
    whole = b"".join(chunk.audio for chunk in await chunks())
    pieces = [SpeechChunk(whole[:3000]), SpeechChunk(whole[3000:9001]), SpeechChunk(whole[9001:], last=True)]
    spoken = await Spoken(await plane_with(await chunks(), pieces, deaths=(3,))).run()
    assert spoken.audio == whole


async def test_a_replica_is_told_that_what_is_left_out_has_not_to_be_heard_first():
    spoken = await Spoken(await plane_with(await chunks(), await chunks(), deaths=(5,))).run()
    assert -1000 <= spoken.requests[1].ahead_ms <= 0


async def test_a_second_answer_that_is_shorter_than_what_was_heard_ends_the_clause():
    whole = await chunks()
    short = [whole[0], replace(whole[1], last=True, word_ends_ms=(200, 400))]
    spoken = await Spoken(await plane_with(whole, short, deaths=(5,))).run()
    assert spoken.audio == b"".join(chunk.audio for chunk in whole[:5])
    assert (spoken.pieces[-1].audio, spoken.pieces[-1].last) == (b"", True)


async def test_another_engine_does_not_go_on_in_the_middle_of_a_clause():
    first = [replace(chunk, engine="coqui") for chunk in await chunks()]
    other = [replace(chunk, engine="flite") for chunk in await chunks()]
    spoken = await Spoken(await plane_with(first, other, deaths=(2,))).run()
    assert spoken.failure is EngineFailedError
    assert spoken.audio == first[0].audio + first[1].audio


async def test_replicas_that_fail_without_anything_new_are_not_asked_for_ever(death):
    spoken = await Spoken(await plane_with(*[await chunks()] * 9, deaths=(3, 2, 3, 3, 3))).run()
    assert spoken.failure is death
    assert len(spoken.requests) == 2


async def test_a_rest_that_comes_too_late_is_given_up():
    plane = await plane_with(*[[SpeechChunk(b"1" * 80), SpeechChunk(b"2" * 80, last=True)]] * 2, deaths=(1,))
    plane.gates["speak-middle"] = Gate()
    spoken = await Spoken(plane, behind_s=0.05, patience_s=600.0).run()
    assert spoken.failure is DeadlineExceededError
    assert spoken.audio == b"1" * 80


async def test_the_rest_is_late_by_the_ear_and_not_by_when_it_was_asked_for(death):
    plane = LocalPlane()

    async def speak(request):
        plane.requests["speak"].append(request)
        yield SpeechChunk(b"1" * 80)
        await asyncio.sleep(0.1)
        if len(plane.requests["speak"]) == 1:
            raise death("found out late")
        yield SpeechChunk(b"2" * 80, last=True)

    plane.speak = speak
    spoken = await Spoken(plane, behind_s=0.05).run()
    assert spoken.failure is DeadlineExceededError
    assert len(spoken.requests) == 2
    assert spoken.audio == b"1" * 80


@pytest.mark.parametrize("error", [DeadlineExceededError("stalled"), EngineFailedError("fell silent")])
async def test_a_stall_without_another_replica_and_an_engine_at_fault_are_for_the_dialog_to_mend(error):
    plane = LocalPlane()

    async def speak(request):
        plane.requests["speak"].append(request)
        yield SpeechChunk(b"1" * 80)
        raise error

    plane.speak = speak
    spoken = await Spoken(plane).run()
    assert spoken.failure is type(error)
    assert len(spoken.requests) == 1
