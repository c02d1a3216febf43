"""Regular expressions of users, tried on the texts that are worst for them before any caller is.

Python's engine backtracks, so a small pattern can take for ever on a text made for it. Each pattern is therefore taken
apart, texts are made in which each of its repetitions goes on and on and then fails, and it is timed on them: from
short ones up, so that even an exponential pattern is found out within milliseconds.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

LENGTH: Final = 1_000
"""Characters of the longest text tried; some minutes of speech."""

LIMIT_MS: Final = 1.0
"""A linear pattern needs a few hundredths of this; a quadratic one more than all of it."""

_REPEATS: Final = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_TRIES: Final = 3
_MANY: Final = 8
_BRANCHES: Final = 6
_ATTACKS: Final = 60

# The parser behind ``re.compile``; it has no public name.
_parser: Any = importlib.import_module("re._parser")


def problem(pattern: str) -> str | None:
    """What is wanted instead of this pattern; None when it will do."""
    try:
        compiled = re.compile(pattern)
        tree = list(_parser.parse(pattern))
    except (re.error, RecursionError, OverflowError) as error:
        return f"a regular expression is wanted ({error})"
    if any(chr(item).isupper() for item in _literals(tree)):
        return "lower-case letters are wanted: it is searched in lower-case text"
    if any(str(kind).startswith("GROUPREF") for kind, _ in _nodes(tree)):
        return "a pattern without back-references is wanted: they cannot be matched in linear time"
    if compiled.search("") is not None:
        return "a pattern that does not match the empty text is wanted"
    if any(_counts_the_uncertain(node) for node in _nodes(tree)):
        return "a pattern that does not count what itself may be there or not, like (a?){20}, is wanted"
    if any(is_slow(compiled, attack) for attack in attacks(tree)):
        return (
            f"a pattern whose cost grows with the text only is wanted: this one took more than {LIMIT_MS:g} ms on "
            f"{LENGTH} characters or fewer; look for repetitions inside or next to each other, like (a+)+, and begin "
            "with \\b"
        )
    return None


def is_slow(pattern: re.Pattern[str], attack: tuple[str, str, str]) -> bool:
    """Is it over the limit on a text cut from ``before + pump * n`` and ended by ``after``?

    Texts grow by one character at first: one more is all it takes to double the time of an exponential pattern.
    """
    before, pump, after = attack
    whole = (before + pump * LENGTH)[:LENGTH]
    size = 1
    while size <= len(whole):
        text = whole[:size] + after
        # Again, because a busy machine makes anything slow once.
        if all(_once_ms(pattern, text) > LIMIT_MS for _ in range(_TRIES)):
            return True
        size += 1 + size // 6 * (size >= 48)
    return False


def _once_ms(pattern: re.Pattern[str], text: str) -> float:
    began_s = time.perf_counter()
    pattern.search(text)
    return (time.perf_counter() - began_s) * 1000


def _counts_the_uncertain(node: Any) -> bool:
    kind, detail = node
    if str(kind) not in _REPEATS or not _MANY < detail[1] < _parser.MAXREPEAT:
        return False
    return any(str(inner) in _REPEATS and low != high for inner, (low, high, *_) in _repeat_nodes(detail[2]))


def _repeat_nodes(tree: Iterable[Any]) -> Iterator[Any]:
    return (node for node in _nodes(tree) if str(node[0]) in _REPEATS)


def attacks(tree: Iterable[Any]) -> Iterator[tuple[str, str, str]]:
    """(before, pump, after) for every repetition, by every branch it has; ``after`` makes the match fail."""
    made: set[tuple[str, str, str]] = set()
    for before, body in _repeats(list(tree), [""]):
        for pump in _samples(body):
            for after in ("", "\x00"):
                made.add((before, pump or "a", after))
    for pump in "a", " ", "0", "a ":
        made.add(("", pump, "\x00"))
    yield from sorted(made)[:_ATTACKS]


def _repeats(tree: list[Any], before: list[str]) -> Iterator[tuple[str, list[Any]]]:
    """Repetitions that may go on, each with a text that leads to it."""
    lead = before
    for node in tree:
        kind, detail = node
        name = str(kind)
        if name in _REPEATS:
            body = list(detail[2])
            if detail[1] > _MANY:
                yield lead[0], body
            yield from _repeats(body, lead)
        else:
            for child in _children(node):
                yield from _repeats(child, lead)
        lead = [text + _samples([node])[0] for text in lead]


def _children(node: Any) -> list[list[Any]]:
    kind, detail = node
    name = str(kind)
    if name == "BRANCH":
        return [list(branch) for branch in detail[1]]
    if name == "SUBPATTERN":
        return [list(detail[3])]
    if name in ("ASSERT", "ASSERT_NOT"):
        return [list(detail[1])]
    if name == "ATOMIC_GROUP":
        return [list(detail)]
    if name in _REPEATS:
        return [list(detail[2])]
    return []


def _nodes(tree: Iterable[Any]) -> Iterator[Any]:
    for node in tree:
        yield node
        for child in _children(node):
            yield from _nodes(child)


def _literals(tree: Iterable[Any]) -> Iterator[int]:
    for kind, detail in _nodes(tree):
        if str(kind) in ("LITERAL", "NOT_LITERAL"):
            yield detail
        elif str(kind) == "IN":
            yield from (item if str(name) == "LITERAL" else item[0] for name, item in detail if _has_character(name))


def _samples(tree: Iterable[Any]) -> list[str]:
    """Some texts that match; at least one."""
    texts = [""]
    for node in tree:
        texts = [text + more for text in texts for more in _node_samples(node)][:_BRANCHES]
    return texts


def _node_samples(node: Any) -> list[str]:
    kind, detail = node
    name = str(kind)
    if name == "LITERAL":
        return [chr(detail)]
    if name == "NOT_LITERAL":
        return ["b" if detail == ord("a") else "a"]
    if name == "ANY":
        return ["a", " "]
    if name == "IN":
        return _class_samples(detail)
    if name in _REPEATS:
        return [text * max(1, detail[0]) for text in _samples(detail[2])]
    if name in ("BRANCH", "SUBPATTERN", "ATOMIC_GROUP"):
        return [text for child in _children(node) for text in _samples(child)][:_BRANCHES]
    return [""]


def _class_samples(detail: list[Any]) -> list[str]:
    """Characters of a class; of a negated one, what it does not name."""
    named = "".join(chr(item if str(kind) == "LITERAL" else item[0]) for kind, item in detail if _has_character(kind))
    categories = [_OF_CATEGORY[str(item)] for kind, item in detail if str(kind) == "CATEGORY"]
    if str(detail[0][0]) == "NEGATE":
        outside = [text for text in "a0 -" if text not in named and text not in categories]
        return outside[:2] or ["~"]
    return [*dict.fromkeys([*named, *categories])][:_BRANCHES] or ["a"]


def _has_character(kind: Any) -> bool:
    return str(kind) in ("LITERAL", "RANGE")


_OF_CATEGORY: Final = {
    "CATEGORY_DIGIT": "0",
    "CATEGORY_NOT_DIGIT": "a",
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_SPACE": "a",
    "CATEGORY_WORD": "a",
    "CATEGORY_NOT_WORD": " ",
}
