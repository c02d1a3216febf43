"""The gateway with the real voice detector and synthesised speech."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_kit import agent_audio, running, silence, until

from actors.link.messages import Play
from engines import registry
from voice_agent.audio.g711 import mulaw_decode
from voice_agent.audio.levels import loud_frames
from voice_agent.dialog.events import PlayoutHeld, PlayoutStarted, SpeechPaused, SpeechResumed, SpeechStarted
from voice_agent.errors import EngineUnavailableError
from voice_agent.ports import SpeakRequest
from voice_agent.speech import SAMPLES_PER_MS, SpeechSettings

pytestmark = pytest.mark.audio


@pytest.fixture(scope="module")
def sentence() -> bytes:
    """A few seconds of speech, mu-law 8 kHz, cut to its first and last loud frame.

    By level: the synthesiser's breath before and behind the words differs with all that it said before, and none of it
    is speech.
    """

    async def speak() -> bytes:
        engine = registry.load("tts", "auto", {})
        request = SpeakRequest("CA0", 1, 0, "Could you tell me when you are open on Saturday, please?")
        return b"".join([chunk.audio async for chunk in engine.speak(request)])

    try:
        registry.load("vad", "silero", {})
        audio = asyncio.run(speak())
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    frame = 10 * SAMPLES_PER_MS
    loud = np.flatnonzero(loud_frames(mulaw_decode(audio), frame, SpeechSettings().quiet_db))
    return audio[loud[0] * frame : (loud[-1] + 1) * frame]


def told(bench: Any, caller: Any) -> list[Any]:
    """Where the caller speaks and where not."""
    events = bench.host.events(caller.call_id)
    return [event for event in events if isinstance(event, SpeechStarted | SpeechResumed | SpeechPaused)]


async def test_a_spoken_sentence_is_one_utterance_with_times_close_to_the_truth(
    tmp_path: Path, sentence: bytes
) -> None:
    async with running(tmp_path, media={"vad_engine": "silero"}) as bench:
        caller = await bench.call()
        await caller.audio(silence(700) + sentence + silence(700), pace=1.0)
        # Pauses within it are told as well: it is over when all of it is up and the last that is told is a pause.
        spoken = sentence[800:-800]
        await until(lambda: spoken in bench.host.audio(caller.call_id))
        await until(lambda: isinstance(told(bench, caller)[-1], SpeechPaused))
        events = told(bench, caller)
        started, paused = events[0], events[-1]
        assert {e.utterance for e in events if isinstance(e, SpeechStarted | SpeechPaused)} == {1}
        # All of it came up once and in one piece; where it begins and ends in it is exact, whatever the machine does.
        uploaded = bench.host.audio(caller.call_id)
        assert uploaded.count(spoken) == 1
        assert uploaded.index(spoken) + len(spoken) < len(uploaded)
        # The call's clock follows the arrival of the audio, so a busy machine stretches it, but by no half sentence.
        sentence_ms = len(sentence) // 8
        assert 0.5 * sentence_ms < paused.speech_end_ms - started.onset_ms < 1.5 * sentence_ms


async def test_speaking_over_the_agent_holds_it(tmp_path: Path, sentence: bytes) -> None:
    async with running(tmp_path, media={"vad_engine": "silero"}) as bench:
        caller = await bench.call()
        bench.host.send(Play(caller.call_id, 1, 1, 0, agent_audio(6000), True, True))
        await bench.host.wait_event(caller.call_id, PlayoutStarted)
        await caller.audio(silence(500) + sentence[:12000], pace=1.0)
        held = await bench.host.wait_event(caller.call_id, PlayoutHeld)
        started = await bench.host.wait_event(caller.call_id, SpeechStarted)
        assert started.onset_ms < held.at_ms
