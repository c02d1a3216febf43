"""What callers say and key, as values of slots."""

from __future__ import annotations

import pytest

from voice_agent.flow import slots
from voice_agent.flow.definition import Choice, SlotType
from voice_agent.flow.spoken import number_of, spelled, spelled_number, spoken_date, spoken_email

SIX = SlotType("digits", 6, 6)
PHONE = SlotType("phone", 7, 15)
TIME = SlotType(
    "choice",
    choices=(
        Choice("morning", (("morning",), ("before", "noon")), "1"),
        Choice("afternoon", (("afternoon",), ("after", "noon")), "2"),
    ),
)


@pytest.mark.parametrize(
    ("slot", "text", "value"),
    [
        (SIX, "four one double two oh seven", "412207"),
        (SIX, "it's four one two, um, two zero seven", "412207"),
        (SIX, "412207", "412207"),
        (SIX, "41-22-07", "412207"),
        (SIX, "forty one twenty two zero seven", "412207"),
        (SIX, "four one two two oh eight no sorry four one two two oh seven", "412207"),
        (SIX, "four one two", None),
        (SIX, "one two three four five six seven", None),
        (SIX, "I don't have it", None),
        (PHONE, "five five five oh one two three", "5550123"),
        (PHONE, "it is 555 867 5309 please", "5558675309"),
        (PHONE, "five five five", None),
        (SlotType("yes_no"), "yes please", "yes"),
        (SlotType("yes_no"), "yeah that's right", "yes"),
        (SlotType("yes_no"), "no thank you", "no"),
        (SlotType("yes_no"), "that is not right", "no"),
        (SlotType("yes_no"), "yes no problem", "yes"),
        (SlotType("yes_no"), "what do you mean", None),
        (SlotType("number", low=1, high=12), "four", "4"),
        (SlotType("number", low=1, high=12), "twelve of them", "12"),
        (SlotType("number", low=1, high=12), "thirteen", None),
        (SlotType("number"), "two point five", "2.5"),
        (SlotType("number"), "a hundred and twenty five", "125"),
        (SlotType("number"), "two thousand and six", "2006"),
        (SlotType("number"), "two or three", None),
        (SlotType("number"), "many", None),
        (SlotType("date"), "on friday", "friday"),
        (SlotType("date"), "friday june the fifth", "06-05"),
        (SlotType("date"), "the twenty first of march", "03-21"),
        (SlotType("date"), "June 5th", "06-05"),
        (SlotType("date"), "february thirtieth", None),
        (SlotType("date"), "tuesday or wednesday", None),
        (SlotType("date"), "tomorrow", None),
        (TIME, "in the afternoon please", "afternoon"),
        (TIME, "before noon", "morning"),
        (TIME, "morning or afternoon", None),
        (TIME, "whenever", None),
        (SlotType("text"), "  my chain   fell off ", "my chain fell off"),
        (SlotType("text"), "um", None),
        (SlotType("email"), "it's john dot doe at example dot com", "john.doe@example.com"),
        (SlotType("email"), "Jane_Bell@example.org.", "jane_bell@example.org"),
        (SlotType("email"), "j o e at example dot com", "joe@example.com"),
        (SlotType("email"), "john at example", None),
    ],
    ids=str,
)
def test_words_fill_a_slot_or_do_not(slot: SlotType, text: str, value: str | None) -> None:
    assert slots.of_words(slot, text) == value


@pytest.mark.parametrize(
    ("slot", "keys", "value"),
    [
        (SIX, "412207", "412207"),
        (SIX, "41220", None),
        (SIX, "41220*", None),
        (PHONE, "5550123", "5550123"),
        (SlotType("yes_no"), "1", "yes"),
        (SlotType("yes_no"), "2", "no"),
        (SlotType("yes_no"), "3", None),
        (SlotType("number", low=0, high=5), "2*5", "2.5"),
        (TIME, "2", "afternoon"),
        (TIME, "9", None),
        (SlotType("text"), "1", None),
    ],
    ids=str,
)
def test_keys_fill_a_slot_or_do_not(slot: SlotType, keys: str, value: str | None) -> None:
    assert slots.of_keys(slot, keys) == value


@pytest.mark.parametrize(
    ("slot", "text", "done"),
    [
        (SIX, "four one two", False),
        (SIX, "four one two two oh", False),
        (SIX, "four one two two oh seven", True),
        (SIX, "let me see", None),
        (PHONE, "five five five", False),
        (PHONE, "five five five oh one two three", None),
        (PHONE, "five five five eight six seven five three oh nine", True),
        (SlotType("yes_no"), "no", True),
        (SlotType("email"), "john at example", False),
        (SlotType("email"), "john at example dot com", True),
        (SlotType("number"), "one hundred", None),
        (SlotType("text"), "my chain fell off", None),
        (SlotType("date"), "friday", True),
        (TIME, "morning", True),
    ],
    ids=str,
)
def test_an_answer_that_has_only_begun_is_seen(slot: SlotType, text: str, done: bool | None) -> None:
    assert slots.finished(slot, text) is done


def test_numbers_as_people_say_them() -> None:
    words = {"zero": "0", "twenty one": "21", "nineteen": "19", "three hundred five": "305", "a thousand": "1000"}
    assert {text: number_of(text) for text in words} == words
    assert number_of("1,200") == "1200"


def test_values_are_spoken_as_people_say_them() -> None:
    assert spelled("4120") == "four one two zero"
    assert spelled_number("5558675309") == "five five five, eight six seven, five three zero nine"
    assert spoken_date("06-05") == "June fifth"
    assert spoken_date("12-31") == "December thirty first"
    assert spoken_date("friday") == "Friday"
    assert spoken_email("john.doe@example.com") == "john dot doe at example dot com"
