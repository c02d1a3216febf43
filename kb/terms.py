"""The lexical side of retrieval: informative stems of a text, and its BM25-weighted sparse vector."""

from __future__ import annotations

import zlib
from collections import Counter
from functools import lru_cache

from kb.spoken import spoken_words

_STOP_WORDS = frozenset(
    """
    a about above after again all also am an and any are aren't as at be because been before being below between both
    but by can can't cannot could couldn't did didn't do does doesn't doing don't down during each few for from further
    get give got had has have having he her here hers him his how i i'd i'll i'm i've if in into is isn't it it's its
    itself just know let's like may me might more most must my myself need no nor not of off ok okay on once only or
    other ought our ours out over own please shall she should so some such take tell than thank thanks that that's the
    their theirs them then there there's these they they're this those through to too uh um under until up us use very
    want was wasn't we we'd we'll we're we've were what what's when where which while who whom why will with won't would
    yes you you'd you'll you're you've your yours going go hi hello hey well really actually
    """.split()
)
# What callers say to any company about anything: that no document has such a word tells nothing about the question.
_COMMON_WORDS = frozenset(
    """
    address allow ask available bought business buy call caller charge company cost customer day email expensive
    fast find guy happen help home hour house information kind lady last late long look lot mail make man many money
    month much name near number offer order people person place point policy possible price question quick quickly
    rate right run sell somebody someone something sort staff start stop store stuff talk thing time today tomorrow
    tonight try type visit week work year yesterday
    """.split()
)
# Words for one thing in trade: a document that has one of them knows what the others mean.
_ALIKE = (
    "warranty guarantee", "rent hire rental", "flat puncture", "gift voucher", "check cheque", "paid refund reimburse",
    "payment installment instalment", "cancel revoke", "order purchase", "ship parcel shipment package",
    "website online", "close shut", "monday weekday", "book reserve", "price fee",
)  # fmt: skip
# BM25's constants; the average length is fixed, since sentences are short and the corpus grows.
_K1, _B, _AVERAGE_WORDS = 1.2, 0.5, 8.0


def stem(word: str) -> str:
    """A light English stem: plural, possessive, ``-ing``, ``-ed`` and final ``e`` come off."""
    word = word.removesuffix("'s").replace("'", "")
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for suffix in ("ing", "ed"):
        bare = word.removesuffix(suffix)
        if bare != word and len(bare) >= 3 and any(vowel in bare for vowel in "aeiouy"):
            word = bare[:-1] if bare[-1] == bare[-2] and bare[-1] not in "lsz" else bare
            break
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


_COMMON_STEMS = frozenset(stem(word) for word in _COMMON_WORDS)


_SAME = {stem(word): frozenset(map(stem, group.split())) for group in _ALIKE for word in group.split()}


@lru_cache(maxsize=512)
def terms(text: str) -> tuple[str, ...]:
    """Stems of the informative words, in order, repeated when the text repeats them.

    A search asks for those of its question three times, and for those of the sentences that it finds.
    """
    return tuple(stem(word) for word in spoken_words(text) if word not in _STOP_WORDS)


def telling_terms(text: str) -> frozenset[str]:
    """Stems of the words that say what a question is about: not those callers use whatever they ask."""
    return frozenset(terms(text)) - _COMMON_STEMS


def alike(term: str) -> frozenset[str]:
    """The term and those that mean the same."""
    return _SAME.get(term, frozenset()) | {term}


def term_share(query: frozenset[str], text: str) -> float:
    """Share of the query's terms in ``text``, in [0, 1]; 0 for a query without informative terms."""
    return len(query & set(terms(text))) / len(query) if query else 0.0


def term_id(term: str) -> int:
    """Dimension of a term in the sparse vector: a stable 32-bit hash, so that no dictionary has to be kept."""
    return zlib.crc32(term.encode())


def document_vector(text: str) -> dict[int, float]:
    """BM25 term-frequency part by term id; the store multiplies the inverse document frequency in."""
    counts = Counter(term_id(term) for term in terms(text))
    norm = _K1 * (1 - _B + _B * counts.total() / _AVERAGE_WORDS)
    return {term: count * (_K1 + 1) / (count + norm) for term, count in counts.items()}


def query_vector(text: str) -> dict[int, float]:
    """Weight 1 for each distinct term."""
    return {term_id(term): 1.0 for term in terms(text)}
