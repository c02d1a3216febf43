"""E-mail addresses as they are written and as they are said: ``john@example.com``, "john at example dot com"."""

from __future__ import annotations

from voice_agent.policy.digits import group_at
from voice_agent.policy.reading import Reading, Span

_LOCAL = frozenset("!#$%&'*+/=?^_`{|}~.-")
_TOP = frozenset(
    "com org net edu gov mil info biz name io co ai app dev me tv eu uk us ca au nz ie de at ch fr be nl lu es pt it "
    "dk se no fi is pl cz sk hu ro bg gr tr ru ua in cn jp kr br mx ar za int shop online site tech cloud email "
    "example test invalid".split()
)
_HYPHENS = frozenset(("dash", "hyphen"))
_JOINING = frozenset("dot point underscore dash hyphen minus plus".split())
_NO_NAME = frozenset(
    "us me him her them it you i we look looking visit find order buy meet stay arrive come is are am was were be been "
    "open closed available the a an and or".split()
)
_NO_DOMAIN = frozenset("our the my your his her their a an website site web page www home".split())
_BEFORE_NAME = frozenset(
    "is it's its my the to at email e mail address me and or that's use on for was has would be please write send "
    "contact".split()
)
_SAYING_SO = frozenset("email emails mail mails address".split())
_REACH = 14
_LONGEST_HOST = 3
_LONGEST_NAME = 4
_SPELLED = 40


def emails(reading: Reading) -> list[Span]:
    """Both forms. Linear: what stands round an ``@`` or an "at" is looked at within bounds."""
    text, spans = reading.text, []
    place = text.find("@")
    while place >= 0:
        span = _written(text, place)
        if span is not None:
            spans.append(span)
        place = text.find("@", place + 1)
    for place, token in enumerate(reading.tokens):
        if token.text == "at" and 0 < place < len(reading.tokens) - 2:
            span = _spoken(reading, place)
            if span is not None:
                spans.append(span)
    return spans


def _written(text: str, place: int) -> Span | None:
    """``name@host.top`` (RFC 5322 dot-atom, by and large), with or without a space on each side of the ``@``."""
    last = place - 1 if text[place - 1 : place] == " " else place
    first = last
    while first > 0 and (text[first - 1].isalnum() or text[first - 1] in _LOCAL):
        first -= 1
    begin = place + 2 if text[place + 1 : place + 2] == " " else place + 1
    end = begin
    while end < len(text) and (text[end].isalnum() or text[end] in ".-"):
        end += 1
    host = text[begin:end].rstrip(".-")
    if first == last or "." not in host.strip("."):
        return None
    return first, begin + len(host)


def _spoken(reading: Reading, place: int) -> Span | None:
    announced = reading.nearest_before(place, (_SAYING_SO,), _REACH) is not None
    last = _host_end(reading, place + 1, longest=_LONGEST_HOST if announced else 1)
    first = _name_start(reading, place - 1, announced=announced)
    if last is None or first is None:
        return None
    return reading.tokens[first].start, reading.tokens[last].end


def _host_end(reading: Reading, place: int, *, longest: int) -> int | None:
    """The token of the top level domain, for a host whose first label has up to ``longest`` words; None: no host."""
    tokens, end, limit = reading.tokens, place, place + longest
    while end < min(limit, len(tokens)):
        if tokens[end].text in _NO_DOMAIN:
            return None
        label = _label_after_dot(reading, end)
        if label is not None:
            return _last_label(reading, label)
        if end + 1 < len(tokens) and tokens[end + 1].text in _HYPHENS:
            end += 1
            limit = min(limit + 2, place + _SPELLED)
        end += 1
    return None


def _last_label(reading: Reading, label: tuple[int, str]) -> int | None:
    found = None
    following: tuple[int, str] | None = label
    while following is not None:
        end, text = following
        if text in _TOP:
            found = end
        following = _label_after_dot(reading, end)
    return found


def _label_after_dot(reading: Reading, place: int) -> tuple[int, str] | None:
    """The label behind a dot that follows a token: the place of its last token, and its letters."""
    tokens = reading.tokens
    if place + 1 >= len(tokens):
        return None
    if reading.text[tokens[place].end : tokens[place + 1].start] == ".":
        start = place + 1
    elif tokens[place + 1].text == "dot" and place + 2 < len(tokens):
        start = place + 2
    else:
        return None
    end, text = start, tokens[start].text
    spelled = len(text) == 1
    while spelled and text not in _TOP and end + 1 < len(tokens) and len(tokens[end + 1].text) == 1:
        end += 1
        text += tokens[end].text
    return end, text


def _name_start(reading: Reading, place: int, *, announced: bool) -> int | None:
    """The first token of the name before "at"; None when the words are no name."""
    tokens = reading.tokens
    if tokens[place].text in _NO_NAME or not tokens[place].text[0].isalnum():
        return None
    words, first = 1, place
    while first > 0 and place - first < _SPELLED:
        before = tokens[first - 1].text
        dotted = reading.text[tokens[first - 1].end : tokens[first].start] in (".", "_", "-")
        if (before in _JOINING or dotted) and first > 1 - dotted:
            first -= 1 if dotted else 2
        elif _is_spelled(reading, first - 1) and _is_spelled(reading, first):
            first -= 1
        elif announced and words < _LONGEST_NAME and before not in _BEFORE_NAME and before[0].isalnum():
            first -= 1
            words += 1
        else:
            break
    return first


def _is_spelled(reading: Reading, place: int) -> bool:
    return len(reading.tokens[place].text) == 1 or group_at(reading.text, reading.tokens, place) is not None
