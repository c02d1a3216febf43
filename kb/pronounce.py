"""How words are pronounced: the CMU dictionary in the pocketsphinx wheel, and rules for words it lacks."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from voice_agent.errors import EngineUnavailableError

PHONES = frozenset(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
)
_LETTERS = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        "EY|B IY|S IY|D IY|IY|EH F|JH IY|EY CH|AY|JH EY|K EY|EH L|EH M|EH N|OW|P IY|K Y UW|AA R|EH S|T IY|Y UW|V IY|"
        "D AH B AH L Y UW|EH K S|W AY|Z IY".split("|"),
        strict=True,
    )
)
_SIBILANTS = frozenset({"S", "Z", "SH", "ZH", "CH", "JH"})
_VOICELESS = frozenset({"P", "T", "K", "F", "TH"})
_LONGEST_GUESS = 24

# Spelling to sound, tried in this order at each position; `^` and `$` stand for the ends of the word.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), phones)
    for pattern, phones in (
        (r"tion", "SH AH N"), (r"ssion", "SH AH N"), (r"sion", "ZH AH N"), (r"ture(?=$|s$)", "CH ER"),
        (r"ough", "AO"), (r"augh", "AO"), (r"igh", "AY"), (r"tch", "CH"), (r"sch", "SH"), (r"dge", "JH"),
        (r"^kn", "N"), (r"^wr", "R"), (r"^ps", "S"), (r"^x", "Z"), (r"wh", "W"), (r"ph", "F"), (r"ch", "CH"),
        (r"sh", "SH"), (r"th", "TH"), (r"ck", "K"), (r"qu", "K W"), (r"gh", "G"), (r"ng(?=$|s$)", "NG"),
        (r"nk", "NG K"), (r"(?<=[aeiouy])le$", "L"), (r"le$", "AH L"), (r"(?<=[td])ed$", "IH D"),
        (r"(?<=[^td])ed$", "D"), (r"ies$", "IY Z"), (r"ey$", "IY"), (r"(?<=[^aeiou])y$", "IY"), (r"^y", "Y"),
        (r"eigh", "EY"), (r"eer", "IH R"), (r"ear", "IH R"), (r"air", "EH R"), (r"are$", "EH R"), (r"ore$", "AO R"),
        (r"ire$", "AY ER"), (r"oor", "AO R"), (r"our", "AO R"), (r"ar", "AA R"), (r"or", "AO R"), (r"er", "ER"),
        (r"ir", "ER"), (r"ur", "ER"), (r"ee", "IY"), (r"ea", "IY"), (r"ai", "EY"), (r"ay", "EY"), (r"oa", "OW"),
        (r"oo", "UW"), (r"ou", "AW"), (r"ow$", "OW"), (r"ow", "AW"), (r"oi", "OY"), (r"oy", "OY"), (r"au", "AO"),
        (r"aw", "AO"), (r"ew", "UW"), (r"ue$", "UW"), (r"ie", "IY"), (r"ei", "IY"), (r"ia", "IY AH"), (r"io", "IY OW"),
        (r"a(?=[^aeiouwxy]e)", "EY"), (r"e(?=[^aeiouwxy]e$)", "IY"), (r"i(?=[^aeiouwxy]e)", "AY"),
        (r"o(?=[^aeiouwxy]e)", "OW"), (r"u(?=[^aeiouwxy]e)", "UW"), (r"(?<=[^aeiou])e$", ""),
        (r"c(?=[eiy])", "S"), (r"g(?=[eiy])", "JH"), (r"(?<=[aeiou])s$", "Z"), (r"x", "K S"), (r"a$", "AH"),
        (r"o$", "OW"), (r"i$", "IY"), (r"a", "AE"), (r"b", "B"), (r"c", "K"), (r"d", "D"), (r"e", "EH"), (r"f", "F"),
        (r"g", "G"), (r"h", "HH"), (r"i", "IH"), (r"j", "JH"), (r"k", "K"), (r"l", "L"), (r"m", "M"), (r"n", "N"),
        (r"o", "AA"), (r"p", "P"), (r"q", "K"), (r"r", "R"), (r"s", "S"), (r"t", "T"), (r"u", "AH"), (r"v", "V"),
        (r"w", "W"), (r"y", "IH"), (r"z", "Z"), (r"'", ""),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pronunciations:
    """Pronunciations by word, each a string of phones. ``guessed`` are by rule; ``skipped`` have none."""

    found: Mapping[str, tuple[str, ...]]
    guessed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(slots=True)
class Lexicon:
    """The dictionary: pronunciations by word."""

    entries: dict[str, list[str]] = field(default_factory=dict)

    def pronounce(self, words: Iterable[str]) -> Pronunciations:
        """Pronunciations of the words: as listed, as a form or compound of listed words, spelled out, or by rule."""
        found: dict[str, tuple[str, ...]] = {}
        guessed: list[str] = []
        skipped: list[str] = []
        for word in sorted(set(words)):
            listed = self.entries.get(word) or self._derived(word)
            if listed:
                found[word] = tuple(listed)
            elif phones := guess(word):
                found[word] = (phones,)
                guessed.append(word)
            else:
                skipped.append(word)
        return Pronunciations(found, tuple(guessed), tuple(skipped))

    def _derived(self, word: str) -> list[str]:
        """Plural and possessive forms, and compounds of up to three listed words."""
        for ending in ("'s", "es", "s"):
            stem = word.removesuffix(ending)
            if stem != word and len(stem) >= 2 and stem in self.entries:
                return [with_s(phones) for phones in self.entries[stem]]
        if word.endswith("'") and word[:-1] in self.entries:
            return self.entries[word[:-1]]
        return self._compound(word, parts=3)

    def _compound(self, word: str, parts: int) -> list[str]:
        for cut in sorted(range(3, len(word) - 2), key=lambda cut: abs(2 * cut - len(word))):
            head, tail = self.entries.get(word[:cut]), word[cut:]
            if not head:
                continue
            rest = self.entries.get(tail) or (self._compound(tail, parts - 1) if parts > 2 else [])
            if rest:
                return [f"{head[0]} {rest[0]}"]
        return []


def dictionary_path() -> Path:
    """The CMU dictionary inside the pocketsphinx wheel.

    Raises:
        EngineUnavailableError: pocketsphinx is not installed.
    """
    spec = importlib.util.find_spec("pocketsphinx")
    if spec is None or not spec.submodule_search_locations:
        raise EngineUnavailableError("the pronunciation dictionary is missing: `pip install pocketsphinx`")
    return Path(next(iter(spec.submodule_search_locations))) / "model" / "en-us" / "cmudict-en-us.dict"


def load_lexicon(path: Path | None = None) -> Lexicon:
    """Read a dictionary in CMU format; variants are marked ``word(2)``.

    Raises:
        EngineUnavailableError: there is no dictionary.
    """
    lexicon = Lexicon()
    try:
        lines = (path or dictionary_path()).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise EngineUnavailableError(f"the pronunciation dictionary cannot be read: {error}") from error
    for line in lines:
        word, _, phones = line.partition(" ")
        lexicon.entries.setdefault(word.partition("(")[0], []).append(phones.strip())
    return lexicon


def with_s(phones: str) -> str:
    """The phones of a plural or possessive."""
    last = phones.split()[-1]
    return f"{phones} " + ("IH Z" if last in _SIBILANTS else "S" if last in _VOICELESS else "Z")


def guess(word: str) -> str:
    """Phones of an unlisted word by rule; letter names when it has no vowel; empty when it is beyond guessing."""
    letters = word.replace(".", "")
    if not letters.replace("'", "").isalpha() or not letters.isascii() or len(letters) > _LONGEST_GUESS:
        return ""
    if not re.search(r"[aeiouy]", letters):
        return " ".join(_LETTERS[letter] for letter in letters if letter != "'")
    phones: list[str] = []
    # A doubled consonant sounds once.
    letters = re.sub(r"([b-df-hj-np-tv-z])\1", r"\1", letters)
    position = 0
    while position < len(letters):
        match, sound = next(
            (match, sound) for pattern, sound in _RULES if (match := pattern.match(letters, position)) is not None
        )
        phones.extend(sound.split())
        position = match.end()
    return " ".join(phones)
