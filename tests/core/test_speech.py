"""The segmenter, the store of caller audio and the sample clock."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from voice_agent.fading import FadeSettings
from voice_agent.speech import (
    CallerAudioStore,
    SampleClock,
    SpeechFade,
    SpeechOnset,
    SpeechPause,
    SpeechRise,
    SpeechSegmenter,
    SpeechSettings,
    SpeechSignal,
)

QUIET, LOUD = [-70.0] * 4, [-20.0] * 4
WINDOW = 256
PROBABILITY = {"#": 0.9, "-": 0.4, ".": 0.02}


def feed(segmenter: SpeechSegmenter, timeline: str, *, playing: bool = False) -> list[SpeechSignal]:
    """``#`` speech, ``-`` between the thresholds (both loud), ``.`` silence, ``l`` loud but no speech."""
    signals = []
    for letter in timeline:
        level = QUIET if letter == "." else LOUD
        signal = segmenter.accept(PROBABILITY.get(letter, 0.02), level, playing=playing)
        if signal is not None:
            signals.append(signal)
    return signals


def make(**changes: float | FadeSettings) -> SpeechSegmenter:
    return SpeechSegmenter(SpeechSettings(**changes))  # type: ignore[arg-type]


def test_onset_and_pause_carry_the_exact_loud_positions() -> None:
    segmenter = make()
    assert feed(segmenter, "....") == []
    assert segmenter.accept(0.9, [-70, -70, -20, -20], playing=False) is None
    assert segmenter.accept(0.9, LOUD, playing=False) == SpeechOnset(1, 4 * WINDOW + 128, resumed=False)
    assert segmenter.accept(0.9, [-20, -70, -70, -70], playing=False) is None
    assert feed(segmenter, "..") == []
    assert feed(segmenter, ".") == [SpeechPause(1, 6 * WINDOW + 64)]  # 100 ms are up in the third quiet window


def test_the_onset_reaches_back_over_unbroken_sound_but_not_for_ever() -> None:
    assert feed(make(), "..l##") == [SpeechOnset(1, 2 * WINDOW, resumed=False)]
    assert feed(make(), "l.l##") == [SpeechOnset(1, 2 * WINDOW, resumed=False)]
    assert feed(make(), "..llllllll##") == [SpeechOnset(1, (10 - 3) * WINDOW, resumed=False)]


def test_one_window_of_noise_is_no_onset_and_hysteresis_keeps_speech_up() -> None:
    assert feed(make(), "#.#.#.--.") == []
    assert feed(make(), "##-------") == [SpeechOnset(1, 0, resumed=False)]


def silence_told_after(probability: float, **changes: float) -> int | None:
    """Windows of silence, judged like this, until the pause is told; None: it never is."""
    segmenter = make(**changes)
    feed(segmenter, "....####")
    for count in range(1, 20):
        if isinstance(segmenter.accept(probability, QUIET, playing=False), SpeechPause):
            return count
    return None


SOFT, LOW = [-34.0] * 4, [-49.0] * 4


def falling(*windows: list[float], lead: int = 10, sure: float = 0.9, **changes: float) -> list[SpeechSignal | None]:
    """What is told of these windows behind ``lead`` loud ones."""
    segmenter = make(fade=FadeSettings(**{"after_ms": 300, **changes}))  # type: ignore[arg-type]
    feed(segmenter, "#" * lead)
    return [segmenter.accept(sure, levels, playing=False) for levels in windows]


def test_a_voice_that_dies_away_has_faded_sooner_than_one_that_is_cut_off() -> None:
    assert falling(SOFT, SOFT, SOFT, LOW)[3] == SpeechFade(1)
    assert falling(LOW, LOW) == [None, SpeechFade(1)], "the closure of a plosive is shorter"
    assert falling(SOFT, LOW, LOW) == [None, None, SpeechFade(1)], "soft for one window: it was cut off"
    assert falling(LOW, SOFT, SOFT, LOW) == [None] * 4, "each sound begins anew, and 64 ms are not long"
    assert falling(*[SOFT] * 8) == [None] * 8, "soft is not silent"


def test_a_fall_is_told_once_and_again_behind_any_sound() -> None:
    burst = [-49.0, -22.0, -49.0, -49.0]
    assert falling(LOW, LOW, LOW) == [None, SpeechFade(1), None], "a longer one says nothing new"
    assert falling(LOW, LOW, burst, LOW) == [None, SpeechFade(1), None, SpeechFade(1)]


def test_a_low_voice_fades_within_a_window_and_that_is_told_once() -> None:
    segmenter = make(fade=FadeSettings(after_ms=300))
    feed(segmenter, "#" * 10)
    assert not segmenter.falling
    segmenter.accept(0.9, LOW, playing=False)
    assert segmenter.falling
    position = segmenter.position
    assert segmenter.accept_levels(LOW[:1], 64) is None, "40 ms may be a closure"
    assert segmenter.accept_levels(LOW[:1], 64) == SpeechFade(1)
    assert (segmenter.heard_to, segmenter.falling) == (position + 128, False)
    assert segmenter.accept(0.9, LOW, playing=False) is None
    assert segmenter.heard_to == segmenter.position == position + WINDOW


def test_a_voice_sinks_before_it_is_low_until_its_fall_is_told() -> None:
    segmenter, sunk = make(fade=FadeSettings(after_ms=600)), [-37.0] * 4
    feed(segmenter, "#" * 10)
    segmenter.accept(0.9, sunk, playing=False)
    assert not segmenter.sinking, "speech so short does not fade"
    feed(segmenter, "#" * 10)
    assert not segmenter.sinking
    told = []
    for levels in (sunk, LOW, LOW):
        told.append(segmenter.accept(0.9, levels, playing=False))
        assert segmenter.sinking == (told[-1] is None)
    assert told[-1] == SpeechFade(1)
    segmenter.accept(0.9, sunk, playing=False)
    assert segmenter.sinking, "any sound may be followed by another fall"


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from([-20.0, -34.0, -49.0, -70.0]), min_size=4, max_size=4), st.integers(0, 3))
    )
)
def test_what_is_taken_ahead_counts_once(windows: list[tuple[list[float], int]]) -> None:
    """With looks into windows that are not full, no fall is missed, told later, or told twice."""
    whole, eager = (make(fade=FadeSettings(after_ms=0)) for _ in range(2))
    for segmenter in (whole, eager):
        feed(segmenter, "##")
    told = False
    for levels, looks in windows:
        sooner = []
        for frame in levels[:looks]:
            if eager.falling:
                sooner.append(eager.accept_levels([frame], 64))
        signals = [signal for signal in (*sooner, eager.accept(0.9, levels, playing=False)) if signal is not None]
        told = told or SpeechFade(1) in signals
        if whole.accept(0.9, levels, playing=False) == SpeechFade(1):
            assert told
        if levels[-1] >= -34.0:
            told = False
        assert sum(isinstance(signal, SpeechFade) for signal in signals) <= 1


def test_a_voice_that_faded_has_risen_when_it_goes_on_and_not_at_the_burst_of_a_consonant() -> None:
    assert falling(LOW, LOW, LOUD, LOW) == [None, SpeechFade(1), None, None]
    assert falling(LOW, LOW, LOUD, LOUD, LOUD) == [None, SpeechFade(1), None, SpeechRise(1), None]
    assert falling(LOUD, LOUD) == [None, None], "it had not faded"


def test_few_words_do_not_fade() -> None:
    assert falling(LOW, LOW, lead=7) == [None, None]
    assert falling(LOW, LOW, lead=8) == [None, SpeechFade(1)]


def test_a_voice_fades_into_a_loud_background() -> None:
    segmenter, noise = make(fade=FadeSettings(after_ms=300)), [-38.0] * 4
    for _ in range(300):
        segmenter.accept(0.02, noise, playing=False)
    feed(segmenter, "#" * 10)
    told = [segmenter.accept(0.9, noise, playing=False) for _ in range(2)]
    assert told == [None, SpeechFade(1)], "28 dB below the voice are below the background"


def test_the_level_ends_speech_before_a_detector_that_lags_but_not_against_one_that_is_sure() -> None:
    assert silence_told_after(0.7) == silence_told_after(0.0) == 4
    assert silence_told_after(0.95) is None
    assert silence_told_after(0.7, pause_ms=64) == 2


def test_a_soft_voice_is_judged_by_its_own_level() -> None:
    segmenter = make()
    soft, pause_ms = [-54.0] * 4, 100
    for _ in range(200):
        segmenter.accept(0.0, [-75.0] * 4, playing=False)
    for _ in range(300):
        assert not isinstance(segmenter.accept(0.9, [-45.0] * 4, playing=False), SpeechPause)
    for _ in range(2 * pause_ms // 32):
        assert segmenter.accept(0.5, soft, playing=False) is None


def test_only_what_stands_out_of_the_background_is_worth_judging() -> None:
    segmenter = make()
    for _ in range(300):
        segmenter.accept(0.0, [-60.0] * 4, playing=False)
    assert not segmenter.worth_judging(-59.0)
    assert segmenter.worth_judging(-50.0)
    feed(segmenter, "##")
    assert segmenter.worth_judging(-59.0)


def test_more_windows_may_be_asked_while_the_agent_speaks() -> None:
    segmenter = make(onset_windows_playing=4)
    assert feed(segmenter, "###", playing=True) == []
    assert feed(segmenter, "#", playing=True) == [SpeechOnset(1, 0, resumed=False)]


def test_speech_resumes_an_open_utterance_and_begins_a_new_one_after_close() -> None:
    segmenter = make()
    assert [type(s) for s in feed(segmenter, "##.....##.....")] == [SpeechOnset, SpeechPause, SpeechOnset, SpeechPause]
    assert feed(segmenter, "##")[0] == SpeechOnset(1, 14 * WINDOW, resumed=True)
    assert not segmenter.close(2)
    assert segmenter.close(1)
    assert not segmenter.speaking
    assert feed(segmenter, "##") == [SpeechOnset(2, 16 * WINDOW, resumed=False)]


def test_a_steady_hum_becomes_background() -> None:
    segmenter = make()
    for _ in range(300):
        segmenter.accept(0.02, [-30.0] * 4, playing=False)
    signals = [segmenter.accept(0.9, [-30.0, -30.0, -10.0, -10.0], playing=False) for _ in range(2)]
    assert signals[1] == SpeechOnset(1, 300 * WINDOW + 128, resumed=False)
    quiet = [segmenter.accept(0.02, [-30.0] * 4, playing=False) for _ in range(4)]
    assert quiet[-1] == SpeechPause(1, 302 * WINDOW)


@given(st.lists(st.tuples(st.sampled_from("#-.l"), st.booleans(), st.integers(0, 9)), max_size=200))
def test_onsets_and_pauses_alternate_and_never_go_back(windows: list[tuple[str, bool, int]]) -> None:
    segmenter = make()
    speaking, last, number = False, 0, 0
    for letter, playing, close in windows:
        for signal in feed(segmenter, letter, playing=playing):
            if isinstance(signal, SpeechFade | SpeechRise):
                assert speaking
                assert signal.utterance == number
                continue
            if isinstance(signal, SpeechOnset):
                assert not speaking
                assert last <= signal.at < segmenter.position
                assert signal.utterance in (number, number + 1)
                assert signal.resumed == (signal.utterance == number)
                number, last = signal.utterance, signal.at
            else:
                assert speaking
                assert last <= signal.end <= segmenter.position
                last = signal.end
            speaking = isinstance(signal, SpeechOnset)
        if close == 0 and segmenter.close(number):
            speaking = False
        assert segmenter.speaking == speaking


# --- the store ---


def stream(samples: int) -> bytes:
    return random.Random(7).randbytes(samples)


def test_an_utterance_begins_a_preroll_before_its_onset() -> None:
    store = CallerAudioStore(keep_samples=240_000, preroll_samples=800)
    audio = stream(4000)
    store.append(audio)
    store.open(2000)
    assert store.take(4000, 800) == [(0, audio[1200:2000]), (800, audio[2000:2800]), (1600, audio[2800:3600])]
    assert store.pause(4000) == [(2400, audio[3600:4000])]
    assert store.take(4000, 800) == []
    assert store.replay() == [(0, audio[1200:4000])]


def test_a_long_silence_inside_an_utterance_is_left_out_but_for_the_preroll() -> None:
    store = CallerAudioStore(keep_samples=240_000, preroll_samples=800)
    audio = stream(20_000)
    store.append(audio)
    store.open(1000)
    store.pause(3000)
    store.resume(15_000)
    assert store.pause(16_000) == [(2800, audio[14_200:16_000])]
    store.resume(16_200)
    assert store.pause(16_400) == [(4600, audio[16_000:16_400])]
    assert store.replay() == [(0, audio[200:3000]), (2800, audio[14_200:16_400])]
    store.close()
    assert store.replay() == []


def test_a_new_utterance_does_not_repeat_audio_of_the_one_before() -> None:
    store = CallerAudioStore(keep_samples=240_000, preroll_samples=800)
    audio = stream(5000)
    store.append(audio)
    store.open(1000)
    store.pause(3000)
    store.close()
    store.open(3100)
    assert store.pause(5000) == [(0, audio[3000:5000])]


def test_the_store_is_bounded_and_replays_what_it_still_has() -> None:
    store = CallerAudioStore(keep_samples=8000, preroll_samples=0)
    audio = stream(100_000)
    sent = b""
    for at in range(0, len(audio), 160):
        store.append(audio[at : at + 160])
        if at == 0:
            store.open(0)
        sent += b"".join(piece for _, piece in store.take(store.end, 800))
        assert store.held_samples <= 9000 + 160
    assert audio.startswith(sent)
    pieces = store.replay()
    again = b"".join(piece for _, piece in pieces)
    assert pieces[0][0] == 0
    assert len(again) >= 7000
    assert sent.endswith(again)
    store.append(bytes(800))
    assert store.take(store.end, 800)[0][0] == len(again)  # numbering goes on behind what the new owner was given


def test_dropped_audio_reads_as_silence() -> None:
    store = CallerAudioStore(keep_samples=100, preroll_samples=0)
    store.append(stream(1000))
    first_kept = 1000 - store.held_samples
    assert store.window(first_kept - 10, 20) == b"\xff" * 10 + stream(1000)[first_kept : first_kept + 10]


@given(st.lists(st.tuples(st.sampled_from(["audio", "open", "resume", "pause", "take"]), st.integers(0, 900))))
def test_pieces_of_an_utterance_are_gapless_in_it_and_never_overlap_in_the_stream(steps: list[tuple[str, int]]) -> None:
    store = CallerAudioStore(keep_samples=10**6, preroll_samples=300)
    audio = b"".join(n.to_bytes(4, "big") for n in range(100_000))
    utterance = b""
    opened = False
    for verb, amount in steps:
        if verb == "audio":
            store.append(audio[store.end : store.end + amount])
        elif verb == "open":
            store.open(max(0, store.end - amount))
            utterance, opened = b"", True
        elif verb == "resume" and opened:
            store.resume(max(0, store.end - amount))
        elif verb in ("pause", "take") and opened:
            pieces = store.pause(store.end) if verb == "pause" else store.take(store.end, 100)
            for offset, piece in pieces:
                assert offset == len(utterance)
                utterance += piece
        if opened:
            assert b"".join(piece for _, piece in store.replay()) == utterance
    words = [utterance[n : n + 4] for n in range(0, len(utterance) - 3, 4)]
    if all(step[1] % 4 == 0 for step in steps):
        assert words == sorted(set(words))


# --- the clock ---


def test_positions_become_times_by_the_least_lateness() -> None:
    clock = SampleClock()
    for n in range(1, 200):
        clock.arrived(n * 160, n * 20 + 7 + (n * 37) % 60)  # late by 7 to 66 ms
    assert clock.to_ms(8000, 99_999) == 1007
    assert clock.to_ms(8000, 500) == 500
    assert clock.to_ms(0, 99_999) == 7


def test_the_clock_follows_lost_audio_within_seconds() -> None:
    clock = SampleClock()
    for n in range(1, 100):
        clock.arrived(n * 160, n * 20)
    for n in range(100, 400):  # a second was lost
        clock.arrived(n * 160, n * 20 + 1000)
    assert clock.to_ms(400 * 160, 99_999) == 9000


def test_a_clock_that_has_heard_nothing_counts_from_zero() -> None:
    assert SampleClock().to_ms(800, 1000) == 100


def test_a_released_store_holds_nothing_and_reads_as_silence():
    store = CallerAudioStore(keep_samples=800, preroll_samples=0)
    store.append(b"\x01" * 400)
    store.open(0)
    store.release()
    store.append(b"\x02" * 400)
    assert (store.held_samples, store.end) == (0, 800)
    assert store.window(200, 256) == b"\xff" * 256
    assert store.take(800, 100) == []
