import numpy as np

from loadtest.hearing import compare, words_between, words_over

RATE = 8000


def speech(seconds, seed=1):
    """Noise in syllables: unlike a tone, every piece of it is like no other."""
    random = np.random.default_rng(seed)
    count = int(seconds * RATE)
    syllables = 0.35 + 0.65 * np.abs(np.sin(np.arange(count) * 2 * np.pi * 2.0 / RATE))
    return (4000 * random.standard_normal(count).clip(-3, 3) * syllables).astype(np.int16)


def quiet(ms):
    return np.zeros(ms * 8, dtype=np.int16)


def test_the_same_words_are_whole_wherever_they_begin():
    meant = speech(3)
    found = compare(np.concatenate((quiet(370), meant, quiet(500))), meant)
    assert found.found_share == 1.0
    assert (found.lost_ms, found.repeated_ms) == (0, 0)
    assert abs(found.played_ms - 3000) <= 20


def test_a_hold_is_no_loss():
    meant = speech(3)
    held = np.concatenate((quiet(100), meant[: 8 * 1300], quiet(900), meant[8 * 1300 :], quiet(200)))
    found = compare(held, meant)
    assert found.found_share > 0.85
    assert (found.lost_ms, found.repeated_ms) == (0, 0)


def test_words_lost_behind_a_hold_are_found():
    meant = speech(3)
    torn = np.concatenate((meant[: 8 * 1300], quiet(600), meant[8 * 1700 :]))
    assert abs(compare(torn, meant).lost_ms - 400) <= 40


def test_words_said_twice_are_found():
    meant = speech(3)
    again = np.concatenate((meant[: 8 * 1300], quiet(600), meant[8 * 900 :]))
    assert abs(compare(again, meant).repeated_ms - 400) <= 40


def test_an_interruption_tells_how_far_it_got():
    meant = speech(3)
    found = compare(np.concatenate((quiet(50), meant[: 8 * 1230], quiet(1000))), meant)
    assert abs(found.played_ms - 1230) <= 20
    assert found.lost_ms == 0


def test_another_text_is_not_found():
    assert compare(speech(3, seed=2), speech(3, seed=1)).found_share == 0.0


def test_ms_as_words():
    assert words_between(900, 3000, 10) == 3
    assert words_between(0, 0, 0) == 0
    assert words_over((100, 400, 900), 400) == 2
