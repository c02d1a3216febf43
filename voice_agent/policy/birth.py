"""Dates of birth: a date after "born", "birthday" or the like."""

from __future__ import annotations

from voice_agent.policy.digits import group_at
from voice_agent.policy.reading import Reading, Span

_ANNOUNCING = frozenset("born birthday birthdate birth dob".split())
_MONTHS = frozenset(
    "january february march april may june july august september october november december jan feb mar apr jun jul aug "
    "sep sept oct nov dec".split()
)
_ORDINALS = frozenset(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth thirtieth st nd rd th".split()
)
_BETWEEN = frozenset("of the and hundred thousand".split())
_REACH = 6


def birth_dates(reading: Reading) -> list[Span]:
    """A date begins within a few words after it was announced, and has at least two parts."""
    spans, place = [], 0
    while place < len(reading.tokens):
        end, parts = _date(reading, place)
        announced = parts >= 2 and reading.nearest_before(place, (_ANNOUNCING,), _REACH) is not None
        if announced:
            spans.append((reading.tokens[place].start, reading.tokens[end].end))
        place = end + 1 if parts else place + 1
    return spans


def _date(reading: Reading, place: int) -> tuple[int, int]:
    """The last token of what may be a date, and how many parts it has."""
    end, parts = place, 0
    while place < len(reading.tokens):
        word = reading.tokens[place].text
        group = group_at(reading.text, reading.tokens, place)
        if group is not None:
            place += group[1]
        elif word in _MONTHS or word in _ORDINALS or (parts and word in _BETWEEN):
            place += 1
        else:
            break
        if word not in _BETWEEN:
            end, parts = place - 1, parts + 1
    return end, parts
