"""Records of the knowledge base: a parsed document, its chunks, and its sentences."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class BlockKind(Enum):
    """What a block of a document is."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    ITEM = "item"
    ROW = "row"


@dataclass(frozen=True, slots=True)
class Block:
    """A heading (``level`` from 1), paragraph, list item, or table row already written as a sentence."""

    kind: BlockKind
    text: str
    level: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file. ``source`` is its name in the knowledge base."""

    source: str
    title: str
    blocks: tuple[Block, ...]


HEADING_SEPARATOR = " > "


def innermost(heading: str) -> str:
    """The last heading of a path."""
    return heading.rsplit(HEADING_SEPARATOR, 1)[-1]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of sentences under one heading. ``heading`` is the path of headings, outermost first, joined by `` > ``."""

    index: int
    heading: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentences as one text."""
        return " ".join(self.sentences)

    @property
    def words(self) -> int:
        """Length in words."""
        return sum(len(sentence.split()) for sentence in self.sentences)
