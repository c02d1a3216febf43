"""Payment cards, telephone numbers and social security numbers, written or spoken."""

from __future__ import annotations

from collections.abc import Iterator

from voice_agent.policy.digits import Run, firm
from voice_agent.policy.reading import Reading, Span

CARD_DIGITS = range(13, 20)
"""Lengths of payment card numbers (ISO/IEC 7812-1)."""

_PHONE = frozenset(
    "phone telephone mobile cell cellphone landline call reach text sms fax whatsapp callback dial ring".split()
)
_OTHER_NUMBERS = frozenset(
    "order orders ticket reference invoice case booking reservation tracking serial part article account "
    "confirmation".split()
)
_SOCIAL = frozenset("ssn social security".split())
_REACH = 6

_NANP_CUTS = ({3, 6}, {3}, {6})
_MAX_PAIRS = 3


def luhn_valid(digits: str) -> bool:
    """The check digit of ISO/IEC 7812-1 annex B fits."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        if place % 2:
            value = value * 2 - 9 * (value > 4)
        total += value
    return total % 10 == 0


def cards(reading: Reading) -> list[Span]:
    """Whatever has the length and check digit of a card, between any two joints of a run.

    Overlapping candidates are all taken: a chance match beside a card must not leave half of the card standing.
    """
    spans = []
    for run in reading.runs:
        for first in range(len(run)):
            last = _longest_card(run, first)
            if last is not None:
                spans.append((run[first].start, run[last].end))
    return spans


def _longest_card(run: Run, first: int) -> int | None:
    digits, found = "", None
    for place in range(first, len(run)):
        digits += run[place].digits
        if len(digits) >= CARD_DIGITS.stop:
            # Digits without any joint that hold a card somewhere: number, expiry and code written as one.
            return first if found is None and place == first and _holds_card(digits) else found
        if len(digits) in CARD_DIGITS and luhn_valid(digits):
            found = place
    return found


def _holds_card(digits: str) -> bool:
    return any(luhn_valid(digits[start : start + 16]) for start in range(len(digits) - 15))


def phones(reading: Reading) -> list[Span]:
    """E.164 with a plus or 00, national numbers with a trunk 0, North American ones; short ones after "phone", "call".

    Digits that were announced as an order, a ticket or the like are left alone, except behind a plus.
    """
    spans: list[Span] = []
    for run in reading.runs:
        for part in firm(run):
            spans += _phones_in(reading, part)
    return spans


def _phones_in(reading: Reading, part: Run) -> Iterator[Span]:
    international = _international(reading, part)
    if international is not None:
        yield international
        return
    said = reading.nearest_before(part[0].token, (_PHONE, _OTHER_NUMBERS), _REACH)
    if said == 1:
        return
    place = 0
    while place < len(part):
        end = _national_end(part, place, announced=said == 0)
        if end is None:
            place += 1
        else:
            yield part[place].start, part[end].end
            place = end + 1


def _international(reading: Reading, part: Run) -> Span | None:
    """A plus, the word plus, or 00, and 8 to 15 digits behind it (ITU-T E.164)."""
    for place, group in enumerate(part):
        before = reading.tokens[group.token - 1] if group.token else None
        plus = reading.text[group.start - 1 : group.start] == "+"
        said = before is not None and before.text == "plus"
        start = before.start if said and before is not None else group.start - plus
        digits = "".join(item.digits for item in part[place:])
        double_zero = digits.startswith("00") and digits[2:3] != "0"
        if (plus or said) and len(digits) >= 8:
            return start, part[_end_within(part, place, 15)].end
        if double_zero and len(digits) >= 11:
            return start, part[_end_within(part, place, 17)].end
    return None


def _end_within(part: Run, place: int, limit: int) -> int:
    count, end = 0, place
    for number in range(place, len(part)):
        count += len(part[number].digits)
        if count > limit:
            break
        end = number
    return end


def _national_end(part: Run, first: int, *, announced: bool) -> int | None:
    """Place of the last group of a national number that begins at ``first``; the longest counts."""
    digits, cuts, pairs, best = "", set[int](), 0, None
    for place in range(first, len(part)):
        group = part[place]
        digits += group.digits
        pairs += group.spoken and len(group.digits) > 1 and not group.digits.endswith("00")
        if len(digits) > 12:
            break
        if _trunk(digits, part[first].digits, spoken=part[first].spoken) or (
            pairs <= _MAX_PAIRS and (_north_american(digits, cuts) or (announced and _local(digits, cuts)))
        ):
            best = place
        cuts.add(len(digits))
    return best


def _trunk(digits: str, first: str, *, spoken: bool) -> bool:
    """A national number with its trunk prefix, as in most of Europe. A price like 0.50 does not begin so."""
    return digits[0] == "0" and digits[1:2] not in ("", "0") and 9 <= len(digits) <= 12 and (spoken or len(first) > 1)


def _north_american(digits: str, cuts: set[int]) -> bool:
    """Ten digits, or eleven with a leading 1: area code and exchange begin with 2 to 9; joints where they may be."""
    if len(digits) == 11 and digits[0] == "1":
        digits, cuts = digits[1:], {cut - 1 for cut in cuts if cut > 1}
    if len(digits) != 10 or digits[0] < "2" or digits[3] < "2":
        return False
    return not cuts or cuts in _NANP_CUTS or len(cuts) >= 5


def _local(digits: str, cuts: set[int]) -> bool:
    """Seven digits as 3-4, or one by one."""
    return len(digits) == 7 and (cuts == {3} or len(cuts) >= 5)


def social_security_numbers(reading: Reading) -> list[Span]:
    """Nine digits as 3-2-4; in any other form only after "social" or "SSN". Numbers never given out do not count."""
    spans = []
    for run in reading.runs:
        for part in firm(run):
            announced = reading.nearest_before(part[0].token, (_SOCIAL,), _REACH + 2) is not None
            for first in range(len(part)):
                end = _social_end(part, first, announced=announced)
                if end is not None:
                    spans.append((part[first].start, part[end].end))
    return spans


def _social_end(part: Run, first: int, *, announced: bool) -> int | None:
    digits, cuts = "", list[int]()
    for place in range(first, len(part)):
        digits += part[place].digits
        if len(digits) >= 9:
            usual = cuts == [3, 5] and not part[first].spoken
            return place if len(digits) == 9 and (usual or announced) and _was_given_out(digits) else None
        cuts.append(len(digits))
    return None


def _was_given_out(digits: str) -> bool:
    """Social Security Administration, randomised numbering: no area 000, 666, 9xx; no group 00; no serial 0000."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"
