"""Cut a streamed reply into clauses that can be spoken one by one, the first as early as it sounds natural."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SENTENCE_END = re.compile(r"[.!?…]+[\"')\]]*(?=\s)|\n+")
_CLAUSE_END = re.compile(r"[,;:](?=\s)|\s[-–—](?=\s)")
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|st|no|vs|etc|e\.g|i\.e|approx|inc|ltd|co|jr|sr|a\.m|p\.m)|\b[A-Za-z])\.$", re.IGNORECASE
)
_TURNING = re.compile(
    r"\s(?=(?:and|or|but|so|because|since|although|while|if|when|where|which|who|that|as|than|then|until|unless|after"
    r"|before|for|from|to|with|within|without|in|into|on|at|by|of|about|over|under|between|through|during)\s)",
    re.IGNORECASE,
)
"""In front of a conjunction or preposition a speaker may take a breath."""
_SURELY_TURNING = re.compile(
    r"\s(?=(?:and|because|although|if|unless|until|whether|whereas|which|during|between|within)\s?$)", re.IGNORECASE
)
"""The same for the last token of a stream, which need not be a whole word yet: these hardly begin another one, and none
of them ends a sentence. The word behind it is not waited for."""
_DIGIT = r"(?:\d+|zero|oh|one|two|three|four|five|six|seven|eight|nine)"
_DIGITS = re.compile(rf"\s*{_DIGIT}\b", re.IGNORECASE)
_ENDS_IN_DIGITS = re.compile(rf"\b{_DIGIT}$", re.IGNORECASE)
_SPEAKABLE = re.compile(r"\w")


@dataclass(slots=True)
class ClauseSplitter:
    """Feed text as it streams; get clauses.

    The first clause may end at a comma once it has ``first_min_chars``, so that the voice starts early, and in front of
    a conjunction or preposition once it has ``first_min_words`` (0: never, for the sake of melody); later ones end
    at sentences, or at a comma beyond ``max_chars``. No comma parts a number that is read out in groups. Joined with
    single spaces the clauses are the text, white space normalised. An end is only an end when white space follows, so
    numbers ("3.50") and streamed halves stay whole.
    """

    first_min_chars: int = 24
    max_chars: int = 180
    first_min_words: int = 0
    buffer: str = ""
    first: bool = True

    def feed(self, text: str) -> list[str]:
        """Take a piece of text; return the clauses it completes."""
        self.buffer += text
        clauses = []
        while (cut := self._cut()) is not None:
            clause, self.buffer = self.buffer[:cut], self.buffer[cut:]
            clauses += self._emit(clause)
        return clauses

    def finish(self) -> list[str]:
        """The text has ended: return what is left."""
        rest, self.buffer = self.buffer, ""
        return self._emit(rest)

    def _emit(self, clause: str) -> list[str]:
        clause = " ".join(clause.split())
        if not _SPEAKABLE.search(clause):
            return []
        self.first = False
        return [clause]

    def _cut(self) -> int | None:
        for match in _SENTENCE_END.finditer(self.buffer):
            head = self.buffer[: match.end()]
            if _SPEAKABLE.search(head) and not _ABBREVIATION.search(head):
                return self._early_cut(match.end()) or match.end()
        return self._early_cut(len(self.buffer))

    def _early_cut(self, limit: int) -> int | None:
        """A comma worth cutting at before ``limit``, or None."""
        if self.first:
            for match in self._commas(limit):
                if match.end() >= self.first_min_chars and limit - match.end() >= self.first_min_chars // 2:
                    return match.end()
            return self._breath(limit)
        if limit <= self.max_chars:
            return None
        commas = [match.end() for match in self._commas(self.max_chars)]
        if commas:
            return commas[-1]
        space = self.buffer.rfind(" ", 1, self.max_chars)
        return space if space > 0 else None

    def _commas(self, limit: int) -> Iterator[re.Match[str]]:
        """Ends of phrases before ``limit``, but for those inside a number."""
        for match in _CLAUSE_END.finditer(self.buffer, 0, limit):
            if not (_ENDS_IN_DIGITS.search(self.buffer, 0, match.start()) and _DIGITS.match(self.buffer, match.end())):
                yield match

    def _breath(self, limit: int) -> int | None:
        """Where the first clause may end inside a phrase, or None. One word alone is not left over."""
        if not self.first_min_words:
            return None
        for match in _TURNING.finditer(self.buffer, 0, limit):
            if self._long_enough(match.start()) and len(self.buffer[match.end() : limit].split()) >= 2:
                return match.start()
        last = _SURELY_TURNING.search(self.buffer) if limit == len(self.buffer) else None
        return last.start() if last is not None and self._long_enough(last.start()) else None

    def _long_enough(self, end: int) -> bool:
        return len(self.buffer[:end].split()) >= self.first_min_words
