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

_LONGEST_FIRST = tuple(reversed(CARD_DIGITS))
_NANP_CUTS = ({3, 6}, {3}, {6})
_MAX_PAIRS = 3
_TRUNK_LENGTHS = (12, 11, 10, 9)
_SSN_DIGITS = 9
_SSN_AREA = 3
_E164 = (8, 15)


class _Row:
    """The digits of a run in one row, and where its joints are."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.digits = "".join(group.digits for group in run)
        self.starts: list[int] = []
        self.last_group: dict[int, int] = {}
        place = 0
        for number, group in enumerate(run):
            self.starts.append(place)
            place += len(group.digits)
            self.last_group[place] = number

    def cuts(self, first: int, last: int) -> set[int]:
        """Joints between two groups, counted in digits from the first."""
        begin = self.starts[first]
        return {self.starts[number] - begin for number in range(first + 1, last + 1)}

    def span(self, first: int, last: int) -> Span:
        """Where these groups stand in the text."""
        return self.run[first].start, self.run[last].end

    def end_within(self, first: int, limit: int) -> int:
        """End in the text of the last group of at most ``limit`` digits from ``first`` on."""
        ends = [number for end, number in self.last_group.items() if 0 < end - self.starts[first] <= limit]
        return self.run[max(ends, default=first)].end


def luhn_valid(digits: str) -> bool:
    """The check digit of ISO/IEC 7812-1 annex B fits."""
    return _Luhn(digits).fits(0, len(digits))


class _Luhn:
    """Check digits of all pieces of a row of digits, each in constant time."""

    def __init__(self, digits: str) -> None:
        # Sums with every second digit doubled, once from the first digit on and once from the second.
        self._sums: tuple[list[int], list[int]] = ([0], [0])
        for place, digit in enumerate(digits):
            value = int(digit)
            doubled = value * 2 - 9 * (value > 4)
            self._sums[0].append(self._sums[0][-1] + (value if place % 2 == 0 else doubled))
            self._sums[1].append(self._sums[1][-1] + (doubled if place % 2 == 0 else value))

    def fits(self, start: int, end: int) -> bool:
        sums = self._sums[(end - 1) % 2]
        return (sums[end] - sums[start]) % 10 == 0


def cards(reading: Reading) -> list[Span]:
    """Whatever has the length and check digit of a card, between any two joints of a run.

    Overlapping candidates are all taken: a chance match beside a card must not leave half of the card standing.
    """
    spans = []
    for run in reading.runs:
        row = _Row(run)
        if len(row.digits) < CARD_DIGITS.start:
            continue
        luhn = _Luhn(row.digits)
        for first, group in enumerate(run):
            begin = row.starts[first]
            if len(group.digits) >= CARD_DIGITS.stop and _holds_card(luhn, begin, begin + len(group.digits)):
                spans.append((group.start, group.end))
            for length in _LONGEST_FIRST:
                last = row.last_group.get(begin + length)
                if last is not None and luhn.fits(begin, begin + length):
                    spans.append(row.span(first, last))
                    break
    return spans


def _holds_card(luhn: _Luhn, begin: int, end: int) -> bool:
    """Digits without any joint that hold a card somewhere: number, expiry and code written as one."""
    return any(luhn.fits(start, start + 16) for start in range(begin, end - 15))


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
    row = _Row(part)
    international = _international(reading, row)
    if international is not None:
        yield international
        return
    said = reading.nearest_before(part[0].token, (_PHONE, _OTHER_NUMBERS), _REACH)
    first = 0 if said != 1 else len(part)
    while first < len(part):
        last = _national_end(row, first, announced=said == 0)
        if last is None:
            first += 1
        else:
            yield row.span(first, last)
            first = last + 1


def _international(reading: Reading, row: _Row) -> Span | None:
    """A plus, the word plus, or 00, and 8 to 15 digits behind it (ITU-T E.164)."""
    for place, group in enumerate(row.run):
        begin = row.starts[place]
        rest = len(row.digits) - begin
        if rest < _E164[0]:
            return None
        before = reading.tokens[group.token - 1] if group.token else None
        if reading.text[group.start - 1 : group.start] == "+":
            return group.start - 1, row.end_within(place, _E164[1])
        if before is not None and before.text == "plus":
            return before.start, row.end_within(place, _E164[1])
        if rest > _E164[0] + 2 and row.digits.startswith("00", begin) and row.digits[begin + 2] != "0":
            return group.start, row.end_within(place, _E164[1] + 2)
    return None


def _national_end(row: _Row, first: int, *, announced: bool) -> int | None:
    """Place of the last group of a national number that begins at ``first``; the longest counts."""
    begin = row.starts[first]
    lead = row.digits[begin]
    lengths = _TRUNK_LENGTHS if lead == "0" else (11,) if lead == "1" else (10, 7) if announced else (10,)
    for length in lengths:
        last = row.last_group.get(begin + length)
        if last is not None and _is_national(row, first, last):
            return last
    return None


def _is_national(row: _Row, first: int, last: int) -> bool:
    begin, group = row.starts[first], row.run[first]
    digits = row.digits[begin : row.starts[last] + len(row.run[last].digits)]
    if digits[0] == "0":
        # A national number with its trunk prefix, as in most of Europe. A price like 0.50 does not begin so.
        return digits[1] != "0" and (group.spoken or len(group.digits) > 1)
    if not _has_area_and_exchange(digits):
        return False
    pairs = sum(item.spoken and len(item.digits) > 1 and item.digits[-2:] != "00" for item in row.run[first : last + 1])
    cuts = row.cuts(first, last)
    if pairs > _MAX_PAIRS:
        return False
    if len(digits) == 7:
        return cuts == {3} or len(cuts) >= 5
    if len(digits) == 11:
        cuts = {cut - 1 for cut in cuts if cut > 1}
    return not cuts or cuts in _NANP_CUTS or len(cuts) >= 5


def _has_area_and_exchange(digits: str) -> bool:
    """North American: ten digits, or eleven with a leading 1; area code and exchange begin with 2 to 9."""
    area = len(digits) % 10
    return len(digits) == 7 or (digits[area] >= "2" and digits[area + 3] >= "2")


def social_security_numbers(reading: Reading) -> list[Span]:
    """Nine digits as 3-2-4; in any other form only after "social" or "SSN". Numbers never given out do not count."""
    spans = []
    for run in reading.runs:
        for part in firm(run):
            announced = reading.nearest_before(part[0].token, (_SOCIAL,), _REACH + 2) is not None
            row = _Row(part)
            for first, group in enumerate(part):
                if not announced and (group.spoken or len(group.digits) != _SSN_AREA):
                    continue
                last = row.last_group.get(row.starts[first] + _SSN_DIGITS)
                if last is not None and _is_social(row, first, last, announced=announced):
                    spans.append(row.span(first, last))
    return spans


def _is_social(row: _Row, first: int, last: int, *, announced: bool) -> bool:
    begin = row.starts[first]
    return (announced or row.cuts(first, last) == {3, 5}) and _was_given_out(row.digits[begin : begin + _SSN_DIGITS])


def _was_given_out(digits: str) -> bool:
    """Social Security Administration, randomised numbering: no area 000, 666, 9xx; no group 00; no serial 0000."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"
