"""What was heard of a call can be read back from its recording, sample by sample."""

from __future__ import annotations

import numpy as np

from engines.simulated import SimulatedSpeechToText, SimulatedTextToSpeech
from engines.word_sounds import SILENT_BYTE, word_sound
from engines.word_sounds import words_in as found_in
from voice_agent.audio.g711 import mulaw_encode
from voice_agent.ports import SpeakRequest

MS = 350
WORDS = "We open at nine in the morning.".split()
SILENCE = bytes([SILENT_BYTE])


def words_in(recording: bytes, vocabulary: list[str], duration_ms: int) -> list[tuple[str, int]]:
    return [(heard.word, heard.samples) for heard in found_in(recording, vocabulary, duration_ms)]


def test_words_are_read_back_through_silence_of_any_length() -> None:
    spoken = b"".join(SILENCE * (37 * place) + word_sound(word, MS) for place, word in enumerate(WORDS))
    assert words_in(spoken, [*WORDS, "other"], MS) == [(word, MS * 8) for word in WORDS]
    begins = [heard.at for heard in found_in(spoken, WORDS, MS)]
    assert begins[:3] == [0, 2800 + 37, 2 * 2800 + 3 * 37]


def test_a_hole_a_repeat_and_a_cut_are_seen() -> None:
    first, second = word_sound("We", MS), word_sound("open", MS)
    hole = words_in(first[:1000] + first[1160:] + second, WORDS, MS)
    assert hole == [("We", 1000), ("", 1640), ("open", 2800)]
    assert words_in(first + first[-160:] + second, WORDS, MS) == [("We", 2800), ("", 160), ("open", 2800)]
    assert words_in(first + second[:800], WORDS, MS) == [("We", 2800), ("open", 800)]


def test_no_sample_of_a_word_is_silence_and_words_differ() -> None:
    sounds = {word_sound(f"word{number}", MS) for number in range(200)}
    assert len(sounds) == 200
    assert not any(SILENT_BYTE in sound for sound in sounds)


async def test_the_voice_words_speaks_them_in_chunks() -> None:
    engine = SimulatedTextToSpeech(first_audio_ms=0, speed=1000)
    request = SpeakRequest("call", 1, 0, " ".join(WORDS), "words")
    audio = b"".join([chunk.audio async for chunk in engine.speak(request)])
    assert words_in(audio, WORDS, MS) == [(word, MS * 8) for word in WORDS]


def test_a_recogniser_can_tell_how_much_speech_it_heard() -> None:
    session = SimulatedSpeechToText(texts=["That was {spoken_ms} ms."], final_ms=0).open(call_id="c", utterance=1)
    loud = mulaw_encode((np.sin(np.arange(4000)) * 8000).astype(np.int16))
    session.accept(SILENCE * 1600 + loud)
    session.accept(loud[:800] + SILENCE * 800)
    assert session.result(flush=True).text == "That was 600 ms."
