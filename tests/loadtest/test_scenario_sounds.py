import asyncio

import numpy as np
import pytest
from fake_stack import tone

from loadtest.caller import ScriptedCaller
from loadtest.playout import FRAME_BYTES
from loadtest.script import After, AgentSpeaking, CallerScript, HangUp, Say
from loadtest.sounds import NOISES, Echo, babble, has_words, noise_of, pieces, silence, trimmed
from loadtest.speech import CallerSpeech, background
from voice_agent.audio.g711 import SILENCE, mulaw_decode
from voice_agent.audio.levels import rms_dbfs

QUIET = SILENCE * FRAME_BYTES


def frames(audio):
    return [audio[at : at + FRAME_BYTES] for at in range(0, len(audio), FRAME_BYTES)]


def run(caller, agent_frames):
    """Frames the caller sent while it heard these."""
    return b"".join(caller.tick(frame).frame for frame in agent_frames)


def test_marks_take_a_line_apart():
    assert [(p.words, p.pause_ms, p.noise) for p in pieces("I [700] think [cough] so")] == [
        ("I", 0, ""),
        ("", 700, ""),
        ("think", 0, ""),
        ("", 0, "cough"),
        ("so", 0, ""),
    ]
    assert not has_words("[cough] [300] [click]")
    with pytest.raises(ValueError, match=r"\[cough\]"):
        pieces("[bark]")


@pytest.mark.parametrize("level_db", [-20.0, -30.0, -40.0])
def test_the_echo_is_as_faint_and_as_late_as_told(level_db):
    script = CallerScript("e", (HangUp(After(60_000)),), echo=Echo(level_db, 120))
    agent = tone(400)
    sent = run(ScriptedCaller(script, {}), [*frames(agent), *[QUIET] * 10])
    first = next(number for number, frame in enumerate(frames(sent)) if frame != QUIET)
    assert first * 20 == 120
    back = mulaw_decode(sent)[120 * 8 : 520 * 8]
    assert rms_dbfs(back) - rms_dbfs(mulaw_decode(agent)) == pytest.approx(level_db, abs=1.0)
    assert sent[520 * 8 :] == SILENCE * (len(sent) - 520 * 8)


def test_echo_is_on_top_of_the_callers_words_and_not_in_the_mouth():
    script = CallerScript("e", (Say("hello", AgentSpeaking(100)), HangUp(After(500))), echo=Echo(-20.0, 40))
    words = tone(200, hz=300)
    caller = ScriptedCaller(script, {("hello", "rms"): words})
    sent = run(caller, frames(tone(600)))
    at = bytes(caller.mouth).index(words)
    assert bytes(caller.mouth).replace(words, b"").strip(SILENCE) == b""
    assert len(caller.mouth) == len(sent)
    assert sent[at : at + len(words)] != words
    assert (caller.spoken[0].start_ms, caller.spoken[0].over_agent) == (at // 8, True)
    assert caller.spoken[0].end_ms == at // 8 + 200


@pytest.mark.parametrize("kind", ["white", "babble"])
def test_noise_has_its_level_and_its_seed(kind):
    noise = background(-35.0, 3, kind)
    assert rms_dbfs(mulaw_decode(noise)) == pytest.approx(-35.0, abs=1.0)
    assert noise == background(-35.0, 3, kind)
    assert noise != background(-35.0, 4, kind)


def test_babble_comes_and_goes_like_syllables():
    def swing(audio):
        levels = [rms_dbfs(audio[at : at + 400].astype(np.int16)) for at in range(0, len(audio) - 400, 400)]
        return np.percentile(levels, 90) - np.percentile(levels, 10)

    assert swing(babble(-30.0, 1)) > 2 * swing(mulaw_decode(background(-30.0, 1)))


def test_noises_are_loud_short_and_always_the_same():
    for name in NOISES:
        audio = noise_of(name)
        assert len(audio) % FRAME_BYTES == 0
        assert len(audio) <= 8000
        assert audio == noise_of(name)
        assert max(rms_dbfs(mulaw_decode(frame)) for frame in frames(audio)) > -30.0


def test_a_pause_inside_a_line_is_as_long_as_it_says():
    class Flite:
        voices = ("rms",)

        async def speak(self, request):
            from voice_agent.ports import SpeechChunk

            yield SpeechChunk(audio=silence(100) + tone(400) + silence(200), last=True)

    speech = CallerSpeech(Flite())
    line = asyncio.run(speech.lines([("one [700] two", "rms")]))["one [700] two", "rms"]
    loud = [number for number, frame in enumerate(frames(line)) if rms_dbfs(mulaw_decode(frame)) > -45.0]
    gaps = np.diff(loud)
    assert loud[0] == 0
    assert int(gaps.max() - 1) * 20 == pytest.approx(700, abs=40)
    assert np.count_nonzero(gaps > 1) == 1
    assert trimmed(SILENCE * 800) == b""


def test_a_line_can_end_in_the_middle_of_a_word():
    script = CallerScript("c", (Say("hello", After(0), cut_ms=100), HangUp(After(0))))
    caller = ScriptedCaller(script, {("hello", "rms"): tone(400)})
    sent = run(caller, [QUIET] * 20)
    assert sum(frame != QUIET for frame in frames(sent)) == 5


def test_a_cough_is_sent_and_is_no_word():
    script = CallerScript("c", (Say("[cough]", After(0)), HangUp(After(500))))
    caller = ScriptedCaller(script, {("[cough]", "rms"): noise_of("cough")})
    sent = run(caller, [QUIET] * 20)
    assert noise_of("cough").strip(SILENCE) in sent
    assert set(caller.mouth) == set(SILENCE)
