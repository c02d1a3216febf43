"""Markdown and plain text to blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kb.document import Block, BlockKind
from kb.tables import rows_to_sentences

_FENCE = re.compile(r"^\s*(```|~~~)")
_ATX = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_SETEXT = re.compile(r"^ {0,3}(=+|-+)\s*$")
_RULE = re.compile(r"^ {0,3}([-*_])(\s*\1){2,}\s*$")
_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+(.*)$")
_TABLE_RULE = re.compile(r"^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FRONT_MATTER = re.compile(r"\A---\s*\n.*?\n(---|\.\.\.)\s*\n", re.DOTALL)
_INLINE = (
    (re.compile(r"!\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])"), r"\1"),
    (re.compile(r"<((?:https?://|mailto:)?[^\s<>]+(?:@|\.)[^\s<>]+)>"), r"\1"),
    (re.compile(r"</?[a-zA-Z][^<>]*>"), " "),
    (re.compile(r"(`+)(.+?)\1"), r"\2"),
    (re.compile(r"(?<!\w)(\*\*\*|\*\*|\*|___|__|_|~~)(?=\S)(.+?)(?<=\S)\1(?!\w)"), r"\2"),
    (re.compile(r"\\([\\`*_{}\[\]()#+\-.!|>])"), r"\1"),
)


def _inline(text: str) -> str:
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def _cells(line: str) -> list[str]:
    return [_inline(cell) for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


class _MarkdownReader:
    """One pass over the lines; a paragraph or item is collected until something else begins."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._kind = BlockKind.PARAGRAPH
        self._lines: list[str] = []
        self._table: list[list[str]] = []
        self._fenced = False

    def feed(self, line: str) -> None:
        if _FENCE.match(line):
            self._fenced = not self._fenced
            self.flush()
        elif not self._fenced:
            self._feed_text(re.sub(r"^\s{0,3}(>\s?)+", "", line))

    def _feed_text(self, line: str) -> None:
        if not line.strip():
            self.flush()
        elif heading := _ATX.match(line):
            self._heading(heading.group(2), len(heading.group(1)))
        elif "|" in line and (self._table or line.lstrip().startswith("|")):
            self._flush_lines()
            if not _TABLE_RULE.match(line):
                self._table.append(_cells(line))
        elif self._is_setext(line):
            text = " ".join(self._lines)
            self._lines = []
            self._heading(text, 1 if "=" in line else 2)
        elif _RULE.match(line):
            self.flush()
        elif item := _ITEM.match(line):
            self.flush()
            self._kind = BlockKind.ITEM
            self._lines = [item.group(1)]
        else:
            self._flush_table()
            self._lines.append(line)

    def _is_setext(self, line: str) -> bool:
        return bool(self._lines) and self._kind is BlockKind.PARAGRAPH and _SETEXT.match(line) is not None

    def _heading(self, text: str, level: int) -> None:
        self.flush()
        self.blocks.append(Block(BlockKind.HEADING, _inline(text), level))

    def flush(self) -> None:
        self._flush_lines()
        self._flush_table()

    def _flush_lines(self) -> None:
        if self._lines:
            self.blocks.append(Block(self._kind, _inline(" ".join(self._lines))))
        self._lines = []
        self._kind = BlockKind.PARAGRAPH

    def _flush_table(self) -> None:
        self.blocks.extend(Block(BlockKind.ROW, sentence) for sentence in rows_to_sentences(self._table))
        self._table = []


def parse_markdown(text: str) -> tuple[Block, ...]:
    """Headings (both styles), paragraphs, items and tables; code blocks, comments and front matter are left out."""
    body = _COMMENT.sub("", _FRONT_MATTER.sub("", text.replace("\r\n", "\n")))
    reader = _MarkdownReader()
    for line in body.split("\n"):
        reader.feed(line)
    reader.flush()
    return tuple(reader.blocks)


def parse_text(text: str) -> tuple[Block, ...]:
    """Paragraphs between blank lines. A lone short line without an end mark is a heading; ``-`` lines are items."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip())
    blocks = [list(_text_blocks([line.strip() for line in part.split("\n") if line.strip()])) for part in paragraphs]
    return tuple(block for part in blocks for block in part)


def _text_blocks(lines: Sequence[str]) -> Iterator[Block]:
    lines = [line for line in lines if not _RULE.match(line) and not _SETEXT.match(line)]
    if lines and looks_like_heading(lines[0]) and (len(lines) == 1 or len(lines[0].split()) <= 6):
        yield Block(BlockKind.HEADING, lines[0].rstrip(":"), 1)
        lines = lines[1:]
    kind, pending = BlockKind.PARAGRAPH, list[str]()
    for line in lines:
        if item := _ITEM.match(line):
            if pending:
                yield Block(kind, " ".join(pending))
            kind, pending = BlockKind.ITEM, [item.group(1)]
        else:
            pending.append(line)
    if pending:
        yield Block(kind, " ".join(pending))


def looks_like_heading(line: str) -> bool:
    """A short line that starts with a capital and has no end mark, in a format that does not mark headings."""
    words = line.split()
    return 0 < len(words) <= 8 and line[0].isupper() and line[-1] not in ".!;," and not _ITEM.match(line)
