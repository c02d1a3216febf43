"""Documents to chunks: sentences under one heading path, up to a number of words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kb.document import HEADING_SEPARATOR, Block, BlockKind, Chunk, Document
from kb.sentences import as_sentence, split_sentences

# A list of short items after "we sell:" reads as one sentence up to this many words.
_LIST_WORDS = 40
_ITEM_WORDS = 6


def chunk(document: Document, *, max_words: int) -> tuple[Chunk, ...]:
    """Chunks in document order; a sentence longer than ``max_words`` is a chunk of its own, never cut."""
    chunks: list[Chunk] = []
    for heading, sentences in _sections(document.blocks):
        for group in _packed(sentences, max_words):
            chunks.append(Chunk(index=len(chunks), heading=heading, sentences=tuple(group)))
    return tuple(chunks)


def _sections(blocks: Sequence[Block]) -> Iterator[tuple[str, list[str]]]:
    """Heading path and the sentences under it, for every heading that has any."""
    path: list[tuple[int, str]] = []
    sentences: list[str] = []
    for block in _lists_joined(blocks):
        if block.kind is not BlockKind.HEADING:
            sentences.extend(as_sentence(sentence) for sentence in split_sentences(block.text))
            continue
        if sentences:
            yield HEADING_SEPARATOR.join(text for _, text in path), sentences
            sentences = []
        path = [entry for entry in path if entry[0] < block.level]
        path.append((block.level, block.text))
    if sentences:
        yield HEADING_SEPARATOR.join(text for _, text in path), sentences


def _packed(sentences: Sequence[str], max_words: int) -> Iterator[list[str]]:
    group: list[str] = []
    words = 0
    for sentence in sentences:
        length = len(sentence.split())
        if group and words + length > max_words:
            yield group
            group, words = [], 0
        group.append(sentence)
        words += length
    if group:
        yield group


def _lists_joined(blocks: Sequence[Block]) -> Iterator[Block]:
    """Blocks, with "We sell:" and its short items made one sentence: alone, neither half answers anything."""
    position = 0
    while position < len(blocks):
        block = blocks[position]
        items = _items_after(blocks, position) if block.text.endswith(":") and block.kind is BlockKind.PARAGRAPH else []
        if items:
            last = f" and {items[-1]}" if len(items) > 1 else items[-1]
            yield Block(BlockKind.PARAGRAPH, as_sentence(f"{block.text[:-1]} {', '.join(items[:-1])}{last}"))
        else:
            yield block
        position += 1 + len(items)


def _items_after(blocks: Sequence[Block], position: int) -> list[str]:
    """The short items that follow, or nothing when one of them is a sentence or the list is long."""
    items: list[str] = []
    for block in blocks[position + 1 :]:
        if block.kind is not BlockKind.ITEM:
            break
        items.append(block.text.rstrip(".;,"))
    words = [len(item.split()) for item in items]
    return items if words and max(words) <= _ITEM_WORDS and sum(words) <= _LIST_WORDS else []
