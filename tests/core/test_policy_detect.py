"""Private data, written, spaced and spoken; and the ordinary speech that must stay as it is."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voice_agent.policy.detect import DETECTORS
from voice_agent.policy.engine import PolicyEngine
from voice_agent.policy.numbers import luhn_valid
from voice_agent.policy.rules import PolicySet, Redact

WORDS = "zero one two three four five six seven eight nine".split()


def engine(*kinds: str, allow: tuple[str, ...] = ()) -> PolicyEngine:
    return PolicyEngine(PolicySet((Redact("all", kinds or tuple(DETECTORS), allow=allow),)))


ALL = engine()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("my card is 4111 1111 1111 1111 thanks", "my card is [card] thanks"),
        ("card 4111-1111-1111-1111 12 25 code 123", "card [card] 12 25 code 123"),
        ("it is 378282246310005.", "it is [card]."),
        ("four one one one one one one one one one one one one one one one", "[card]"),
        ("four triple one, quadruple one double one double one, one one one one", "[card]"),
        ("forty one eleven eleven eleven eleven eleven eleven eleven", "[card]"),
        ("four one one one uh one one one one and then one one one one one one one one", "[card]"),
        ("4 1 1 1 / 1 1 1 1 : 1 1 1 1 ; 1 1 1 1", "[card]"),
        ("five oh oh five one one one one one one one one one one one seven", "[card]"),
        ("٤١١١ ١١١١ ١١١١ ١١١١", "[card]"),
        ("41111111111111111225123", "[card]"),
        ("call me at 555-867-5309 please", "call me at [phone] please"),
        ("my number is five five five eight six seven five three oh nine", "my number is [phone]"),
        ("one 800 555 0100", "[phone]"),
        ("eight hundred five five five oh one double oh", "[phone]"),
        ("one eight hundred five five five oh one nine nine", "[phone]"),
        ("+32 2 555 01 00 is it", "[phone] is it"),
        ("plus three two two five five five zero one zero zero", "[phone]"),
        ("0032 2 555 01 00", "[phone]"),
        ("020 7946 0958", "[phone]"),
        ("oh four seven one twelve thirty four fifty six", "[phone]"),
        ("reach me at 867-5309", "reach me at [phone]"),
        ("078-05-1120", "[us_ssn]"),
        ("my social is zero seven eight zero five one one two zero", "my social is [us_ssn]"),
        ("write to John.Smith+tag@mail.example.co.uk.", "write to [email]."),
        ("john@example.com and jane@example.org", "[email] and [email]"),
        ("my email is john dot smith at gmail dot com thanks", "my email is [email] thanks"),
        ("email john smith at harbor street dot example", "email [email]"),
        ("j o h n four two at example dot co dot uk", "[email]"),
        ("it's john at example.com", "it's [email]"),
        ("jane underscore doe at mega dash mail dot com", "[email]"),
        ("jane underscore doe at webmail dot com", "[email]"),
        ("be68 5390 0754 7034", "[iban]"),
        ("b e six eight five three nine zero zero seven five four seven zero three four", "[iban]"),
        ("GB29 NWBK 6016 1331 9268 19 ok", "[iban] ok"),
        ("bravo echo 68 5390 0754 7034", "[iban]"),
        ("AB 12 34 56 C", "[uk_nino]"),
        ("my national insurance number is ab 12 34 56 c", "my national insurance number is [uk_nino]"),
        ("alpha bravo one two three four five six charlie", "[uk_nino]"),
        ("i was born on the 3rd of march 1980 in ghent", "i was born on the [birth_date] in ghent"),
        ("my birthday is 03/12/1980", "my birthday is [birth_date]"),
    ],
)
def test_private_data_is_masked(text: str, kept: str) -> None:
    assert ALL.redact(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "two hundred dollars and fifty cents",
        "we are open from nine to six and on saturday from ten to four",
        "monday nine to five, tuesday nine to five, wednesday nine to one",
        "it costs 1,250,000 dollars or $19.99 or 29.99 39.99 49.99",
        "prices are 0.50, 1.25, 2.75, 3.50",
        "nineteen ninety nine, twenty nine ninety nine, thirty nine ninety nine",
        "my order number is 123456",
        "order one two three four five six",
        "my order number is 2345678901",
        "order number 1234567 to call you about",
        "on 2024-01-15 10:30:45",
        "between 2019 and 2024, in room 404",
        "bus number seven stops one to two minutes for one",
        "look at our website harborstreet dot com",
        "find us at harborstreet dot com",
        "we meet at nine dot the twenty fifth of december",
        "we have it at 10 20 30 a day",
        "BE68 5390 0754 7035",
        "4111 1111 1111 1112",
        "000-12-3456",
        "born free in twenty places",
        "the address of our shop is twelve harbor street",
        "version 10.0.19045 at 192.168.100.200",
        "@home we are at it",
        "half past ten, quarter to eleven, one two three go",
    ],
)
def test_ordinary_speech_stays(text: str) -> None:
    assert ALL.redact(text) == text


def test_public_values_stay_however_they_are_said() -> None:
    policy = engine("email", "phone", allow=("Hello@Harbor-Street.example", "+32 2 555 01 00"))
    for text in (
        "write to hello@harbor-street.example",
        "write to hello at harbor street dot example",
        "call plus three two two five five five zero one zero zero",
    ):
        assert policy.redact(text) == text
    assert policy.redact("write to joe@harbor-street.example") == "write to [email]"


def test_a_detector_finds_only_its_own() -> None:
    text = "4111 1111 1111 1111 or john@example.com"
    assert engine("email").redact(text) == "4111 1111 1111 1111 or [email]"
    assert engine("card").redact(text) == "[card] or john@example.com"


def card(prefix: str) -> str:
    return next(prefix + str(digit) for digit in range(10) if luhn_valid(prefix + str(digit)))


cards = st.text("0123456789", min_size=12, max_size=18).map(card)
gaps = st.sampled_from(["", " ", "-", "  ", ". ", ", ", "\u00a0", "\u2009", "/", "\n", "\t", "_", " : ", "\u200b"])
speech = st.sampled_from(["", "my card is ", "well the number would be ", "so it is 2 of them, "])


@given(cards, st.data(), speech, speech)
def test_no_card_survives_in_any_spacing(number: str, data: st.DataObject, before: str, after: str) -> None:
    said = "".join(digit + data.draw(gaps) for digit in number[:-1]) + number[-1]
    kept = ALL.redact(f"{before}{said} {after}")
    assert sum(character.isdigit() for character in kept) <= 1 + 1  # the "2" of the speech round it, at most


@given(cards, st.booleans(), st.data())
def test_no_spoken_card_survives(number: str, oh: bool, data: st.DataObject) -> None:
    words, place = [], 0
    while place < len(number):
        digit = number[place]
        word = "oh" if oh and digit == "0" else WORDS[int(digit)]
        repeated = number[place : place + 3] == digit * 3 and data.draw(st.booleans())
        words.append(f"triple {word}" if repeated else word)
        place += 3 if repeated else 1
    kept = ALL.redact("yes " + " ".join(words) + " please")
    assert not set(kept.split()) & {*WORDS, "oh", "triple"}


pieces = st.sampled_from(
    "oh double at dot com for to and plus born phone order social a b e ab be GB 555 867-5309 4111 1111 11 0471 +32 @ "
    ". , - : $ / march of ssn [card] [phone] \x00 \x01 john@example.com 12 hundred thirty uh".split(" ")
    + WORDS
)


@given(st.lists(st.tuples(pieces, st.sampled_from(["", " "])), max_size=30))
@example([("john@example.com", "")] * 3)
def test_masking_again_changes_nothing(parts: list[tuple[str, str]]) -> None:
    once = ALL.redact("".join(a + b for a, b in parts))
    assert ALL.redact(once) == once


@given(st.text())
def test_masking_any_text_again_changes_nothing(text: str) -> None:
    once = ALL.redact(text)
    assert ALL.redact(once) == once


NUMBERS = ("ten", "teen", "ty", "eleven", "twelve", "at", "oh", "born", "birth", "dob", *WORDS)


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz'.,!?- ", min_size=1, max_size=12), max_size=20))
def test_text_without_digits_and_at_is_unchanged(parts: list[str]) -> None:
    text = " ".join(part for part in parts if not any(word in part for word in NUMBERS))
    assert ALL.redact(text) == text


def test_the_cost_is_linear() -> None:
    """Four times the text must not cost ten times the work, counted in calls of the interpreter."""
    import sys

    def work(text: str) -> int:
        count = 0

        def trace(*_: object) -> None:
            nonlocal count
            count += 1

        policy = engine()
        sys.setprofile(trace)
        try:
            policy.redact(text)
        finally:
            sys.setprofile(None)
        return count

    shuffled = random.Random(7)
    for unit in ("1 ", "one at x dot ", "a b 1 2 ", "john.", "@a.b ", "4111 1111 ", "born 1 may "):
        short, long = unit * 50, unit * 200
        assert work(long) < 10 * work(short) + 2_000, unit
    mixed = [shuffled.choice(("1", "two", "at", "dot", "com", "a", "+", "555", "-")) for _ in range(800)]
    assert work(" ".join(mixed)) < 10 * work(" ".join(mixed[:200])) + 2_000
