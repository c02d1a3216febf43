"""What of a clause was heard, given how much of its audio was played."""

from __future__ import annotations

from collections.abc import Sequence


def word_ends(text: str, duration_ms: int, word_ends_ms: Sequence[int] = ()) -> list[int]:
    """End of each whitespace-separated word in ms from the clause's start.

    Uses the engine's own times when it gave one per word; otherwise shares the duration out by characters, with a
    word's punctuation counted as the pause it is.
    """
    words = text.split()
    if len(word_ends_ms) == len(words):
        return list(word_ends_ms)
    weights = [len(word) + 1 + 2 * (word[-1] in ",;:.!?") for word in words]
    total, run, ends = sum(weights), 0, []
    for weight in weights:
        run += weight
        ends.append(duration_ms * run // total)
    return ends


def heard_prefix(text: str, heard_ms: int, duration_ms: int, word_ends_ms: Sequence[int] = ()) -> str:
    """The words of ``text`` whose audio was over when playout stopped after ``heard_ms``. A prefix, word by word."""
    words = text.split()
    if heard_ms <= 0:
        return ""
    if heard_ms >= duration_ms > 0:
        return " ".join(words)
    ends = word_ends(text, duration_ms, word_ends_ms)
    count = 0
    while count < len(words) and ends[count] <= heard_ms:
        count += 1
    return " ".join(words[:count])
