"""The caller's side of a call: what is told of a voice that falls, and when."""

from __future__ import annotations

import asyncio

import numpy as np
from gateway_kit import silence

from actors.gateway.caller_ear import CallerEar
from actors.gateway.vad_batch import VadBatch
from configs.settings import MediaSettings
from engines.vad_energy import EnergyVad
from voice_agent.audio.g711 import mulaw_encode
from voice_agent.dialog.events import Event, SpeechFaded

PACKET = 160


class Owner:
    """Keeps what the ear tells, each with how much of the caller it had heard."""

    now_ms = 0

    def __init__(self) -> None:
        self.heard = 0
        self.events: list[tuple[int, Event]] = []
        self.uploads: list[tuple[int, bytes]] = []
        self.closely: list[tuple[int, bool]] = []

    def agent_heard(self) -> bool:
        return False

    def caller_began(self) -> None: ...

    def listen_closely(self, closely: bool) -> None:
        self.closely.append((self.heard, closely))

    def event(self, event: Event) -> None:
        self.events.append((self.heard, event))

    def upload(self, utterance: int, offset_samples: int, audio: bytes) -> None:
        self.uploads.append((offset_samples, audio))

    def fault(self, error: Exception) -> None:
        raise error


def tone(ms: int) -> bytes:
    return mulaw_encode((8000 * np.sin(2 * np.pi * 300 * np.arange(8 * ms) / 8000)).astype(np.int16))


async def test_a_fall_is_told_with_the_packet_that_shows_it_and_goes_up_with_all_that_was_heard() -> None:
    closely: list[tuple[int, bool]] = []
    for begin_ms in range(0, 32, 4):
        owner = Owner()
        ear = CallerEar(owner, MediaSettings(), VadBatch(EnergyVad()))
        audio = silence(600 + begin_ms) + tone(1500) + silence(200)
        over = (600 + begin_ms + 1500) * 8
        for at in range(0, len(audio) - PACKET + 1, PACKET):
            owner.heard = at + PACKET
            ear.hear(audio[at : at + PACKET])
            await asyncio.sleep(0)
        told = [(heard, event) for heard, event in owner.events if isinstance(event, SpeechFaded)]
        assert len(told) == 1
        # 48 ms of low frames of 8 ms, the first of which begins up to a frame behind the last sound, and a packet.
        behind = told[0][0] - over
        assert 48 * 8 <= behind <= (48 + 8) * 8 + PACKET
        closely += owner.closely
        assert not owner.closely or owner.closely[-1] == (told[0][0], False), "the fall is told: packets may wait again"
        ends = [offset + len(piece) for offset, piece in owner.uploads]
        assert [offset for offset, _ in owner.uploads] == [0, *ends[:-1]], "without a hole, and nothing twice"
    assert {on for _, on in closely} == {True, False}
