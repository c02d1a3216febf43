"""The recogniser's vocabulary: a trigram model and a dictionary made from the knowledge base.

Layout: ``<folder>/<kb_version>/{kb.arpa,kb.dict,meta.json}`` and ``<folder>/current``, a file with the version. The
pointer is written last, so a reader never sees a half-made vocabulary; old versions stay for sessions that use them.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kb.arpa import TrigramModel
from kb.ledger import write_atomically
from kb.phrases import Utterance, likely_utterances
from kb.pronounce import Lexicon, Pronunciations, load_lexicon
from voice_agent.errors import StorageError

ARPA, DICTIONARY, META, CURRENT = "kb.arpa", "kb.dict", "meta.json", "current"
DISCOUNT = 0.5
PRUNE = 1.5
KEPT_VERSIONS = 3
# Part of the version of a vocabulary: raise it when what is made of the same documents changes.
_FORMAT = 5


@dataclass(frozen=True, slots=True)
class VocabularyStats:
    """What a vocabulary holds. ``guessed`` are pronounced by rule, ``skipped`` cannot be recognised."""

    words: int
    utterances: int
    guessed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def write_vocabulary(folder: Path, kb_version: str, material: tuple[Sequence[str], Sequence[str]]) -> VocabularyStats:
    """Make the vocabulary of ``material`` (sentences, headings) and point ``current`` at it.

    One that is there already is kept as it is.

    Raises:
        EngineUnavailableError: there is no pronunciation dictionary.
        StorageError: the files cannot be written.
    """
    target = folder / kb_version
    stats = _existing(target)
    if stats is None:
        utterances = list(likely_utterances(*material, known=_lexicon().entries.__contains__))
        spoken = pronunciations(utterances)
        stats = _write(target, kb_version, utterances, spoken)
    if not _points_at(folder, kb_version):
        write_atomically(folder / CURRENT, kb_version + "\n")
    _drop_old(folder, kb_version)
    return stats


def pronunciations(utterances: Iterable[Utterance]) -> Pronunciations:
    """Pronunciations of every word in the utterances."""
    return _lexicon().pronounce(word for words, _ in utterances for word in words)


@functools.cache
def _lexicon() -> Lexicon:
    return load_lexicon()


def _write(target: Path, kb_version: str, utterances: Sequence[Utterance], spoken: Pronunciations) -> VocabularyStats:
    # A sentence with a word that cannot be pronounced would teach sequences that cannot be heard.
    sayable = [item for item in utterances if all(word in spoken.found for word in item[0])]
    model = TrigramModel(sayable, discount=DISCOUNT, prune=PRUNE)
    words = [word for word in model.vocabulary if word in spoken.found]
    stats = VocabularyStats(len(words), len(sayable), spoken.guessed, spoken.skipped)
    write_atomically(target / ARPA, "\n".join(model.arpa()) + "\n")
    write_atomically(target / DICTIONARY, "\n".join(_dictionary(words, spoken)) + "\n")
    meta = {"kb_version": kb_version, "format": _FORMAT, **asdict(stats)}
    write_atomically(target / META, json.dumps(meta, indent=1))
    return stats


def _dictionary(words: Iterable[str], spoken: Pronunciations) -> Iterable[str]:
    for word in words:
        for number, phones in enumerate(spoken.found[word], start=1):
            yield f"{word if number == 1 else f'{word}({number})'} {phones}"


def _existing(target: Path) -> VocabularyStats | None:
    """Statistics of a finished vocabulary; the meta file is written last, so it vouches for the others."""
    try:
        meta = json.loads((target / META).read_text(encoding="utf-8"))
        if meta["format"] != _FORMAT:
            return None
        return VocabularyStats(meta["words"], meta["utterances"], tuple(meta["guessed"]), tuple(meta["skipped"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{target / META} is damaged ({error}): delete {target} and ingest again") from error


def _points_at(folder: Path, kb_version: str) -> bool:
    current = folder / CURRENT
    return current.exists() and current.read_text(encoding="utf-8").strip() == kb_version


def _drop_old(folder: Path, kb_version: str) -> None:
    """Keep the newest few: recogniser sessions may still be reading the one before."""
    versions = [path for path in folder.iterdir() if (path / META).exists() and path.name != kb_version]
    versions.sort(key=lambda path: (path / META).stat().st_mtime, reverse=True)
    for path in versions[KEPT_VERSIONS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
