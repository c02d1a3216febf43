"""Private data in a text: which detectors there are, and how what they found is masked.

Every detector is linear in the length of the text. Masking ends when nothing is found any more, so a masked text is
left as it is when it is masked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from voice_agent.policy.birth import birth_dates
from voice_agent.policy.digits import group_at
from voice_agent.policy.identifiers import ibans, national_insurance_numbers
from voice_agent.policy.mail import emails
from voice_agent.policy.numbers import cards, phones, social_security_numbers
from voice_agent.policy.reading import Reading, Span
from voice_agent.policy.tokens import hidden, tokens_of


@dataclass(frozen=True, slots=True)
class Detector:
    """Finds one kind of private data. It is worth asking when the text has a run of ``digits``, or ``total`` digits in
    all, or, for ``at``, an at-sign or the word.
    """

    find: Callable[[Reading], list[Span]]
    spoken: str
    digits: int = 0
    total: int = 0
    at: bool = False


DETECTORS: Mapping[str, Detector] = {
    "card": Detector(cards, "a card number", digits=13),
    "iban": Detector(ibans, "an account number", total=10),
    "us_ssn": Detector(social_security_numbers, "a social security number", digits=9),
    "uk_nino": Detector(national_insurance_numbers, "a national insurance number", total=6),
    "phone": Detector(phones, "a phone number", digits=7),
    "email": Detector(emails, "an e-mail address", at=True),
    "birth_date": Detector(birth_dates, "a date of birth"),
}
"""By name, in the order they are asked: what has a checksum first. ``spoken`` is said in place of what was found."""


class Private(NamedTuple):
    """A piece of private data in a text."""

    start: int
    end: int
    kind: str


def find(reading: Reading, kinds: Sequence[str], allow: frozenset[str] = frozenset()) -> list[Private]:
    """Private data of these kinds, as far as one pass finds it: hide it and look again until nothing comes.

    Args:
        reading: the text.
        kinds: names of detectors.
        allow: public values, as ``bare`` writes them.
    """
    for kind, detector in DETECTORS.items():
        if kind in kinds and _worthwhile(reading, detector):
            spans = [span for span in detector.find(reading) if bare(reading.text[slice(*span)]) not in allow]
            if spans:
                return [Private(start, end, kind) for start, end in _merged(spans)]
    return []


def hide(text: str, found: Iterable[Private]) -> str:
    """The text with what was found made unreadable; of the same length."""
    for start, end, _ in found:
        text = hidden(text, start, end)
    return text


def bare(value: str) -> str:
    """A value without its form: ``John@Example.com`` and "john at example dot com" are one, and so are digits."""
    tokens, text, place, last = tokens_of(value), "", 0, 0
    while place < len(tokens):
        token, group = tokens[place], group_at(value, tokens, place)
        text += "@" if "@" in value[last : token.start] or token.text == "at" else ""
        if group is not None:
            text += group[0].digits
        elif token.text not in ("at", "dot", "plus"):
            text += token.text
        place += 1 if group is None else group[1]
        last = token.end
    return text


def _worthwhile(reading: Reading, detector: Detector) -> bool:
    if detector.at:
        return "@" in reading.text or "at" in reading.lowered
    return reading.most_digits >= detector.digits and reading.all_digits >= detector.total


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
