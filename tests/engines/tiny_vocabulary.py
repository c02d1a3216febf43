"""A small language model and dictionary in the format the ingest writes, made from a few sentences."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

from pocketsphinx import get_model_path

SENTENCES = (
    "what are your opening hours",
    "when are you open on saturday",
    "how much does delivery cost",
    "where is your workshop",
    "can i return a bicycle",
    "do you repair electric bicycles",
    "how long does a repair take",
    "do you accept credit cards",
    "thank you goodbye",
    "yes please",
    "no thank you",
)
_BACKOFF = -0.4


def write_vocabulary(folder: Path, version: str = "v1", sentences: tuple[str, ...] = SENTENCES) -> Path:
    """Write ``<folder>/<version>/kb.{arpa,dict}`` and point ``current`` at it; the folder comes back."""
    target = folder / version
    target.mkdir(parents=True)
    lines = [["<s>", *sentence.split(), "</s>"] for sentence in sentences]
    (target / "kb.arpa").write_text(_arpa(lines))
    (target / "kb.dict").write_text(_dictionary({word for line in lines for word in line[1:-1]}))
    (folder / "current").write_text(version)
    return folder


def _arpa(lines: list[list[str]]) -> str:
    counts = [Counter(tuple(line[i : i + n]) for line in lines for i in range(len(line) - n + 1)) for n in (1, 2, 3)]
    out = ["\\data\\", *(f"ngram {n}={len(count)}" for n, count in enumerate(counts, 1))]
    for n, count in enumerate(counts, 1):
        out.append(f"\n\\{n}-grams:")
        for gram, seen in sorted(count.items()):
            below = counts[n - 2][gram[:-1]] if n > 1 else sum(counts[0].values())
            share = math.log10((seen - 0.3 if n > 1 else seen) / below)
            out.append(f"{share:.4f} {' '.join(gram)}" + (f" {_BACKOFF}" if n < 3 else ""))
    return "\n".join([*out, "\n\\end\\", ""])


def _dictionary(words: set[str]) -> str:
    source = Path(os.path.join(get_model_path(), "en-us", "cmudict-en-us.dict")).read_text()
    return "\n".join(line for line in source.splitlines() if line.split(" ")[0].split("(")[0] in words) + "\n"
