"""PDF text layers to blocks, by pypdf. Headings are told by their size, or by looking like one."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from pypdf import PdfReader
from pypdf.errors import PyPdfError

from kb.document import Block, BlockKind
from kb.parse_text import looks_like_heading
from voice_agent.errors import DocumentError

# What pypdf lets through when a file is broken: its own errors, and those of the pieces it is made of.
_FAULTS = (
    PyPdfError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
_HEADING_RATIO = 1.15
_PAGE_NUMBER = re.compile(r"^(page\s+)?\d+(\s*(/|of)\s*\d+)?$", re.IGNORECASE)
_ITEM = re.compile(r"^(?:[-*•–▪]|\d{1,3}[.)])\s+(.*)$")


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    size: float
    page: int


def parse_pdf(data: bytes) -> tuple[Block, ...]:
    """Headings and paragraphs of a PDF's text layer; running heads and page numbers are left out.

    Raises:
        DocumentError: not a PDF, damaged, locked by a password, or without a text layer (a scan).
    """
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise DocumentError("the PDF is locked by a password")
        lines = [line for number, page in enumerate(reader.pages) for line in _page_lines(page, number)]
        pages = len(reader.pages)
    except _FAULTS as error:
        raise DocumentError(f"damaged or not a PDF ({type(error).__name__}: {error})") from error
    if not any(line.text for line in lines):
        raise DocumentError("the PDF has no text layer (a scan?); run OCR on it first")
    return tuple(_blocks(_without_running_heads(lines, pages)))


def _page_lines(page: Any, number: int) -> Iterator[_Line]:
    """Lines of a page with the font size of their first characters; an empty line keeps a paragraph break."""
    pieces: list[tuple[str, float]] = []

    def visit(text: str, _cm: Any, tm: Any, _font: Any, size: Any) -> None:
        pieces.append((text, abs(float(size or 0)) * (abs(float(tm[3])) or 1.0)))

    page.extract_text(visitor_text=visit)
    text, size = "", 0.0
    for piece, piece_size in pieces:
        first, *rest = piece.split("\n")
        if first.strip() and not text.strip():
            size = piece_size
        text += first
        for part in rest:
            yield _Line(" ".join(text.split()), size, number)
            text, size = part, piece_size
    yield _Line(" ".join(text.split()), size, number)


def _without_running_heads(lines: list[_Line], pages: int) -> list[_Line]:
    seen = Counter({line.text: 0 for line in lines})
    for text, _ in {(line.text, line.page) for line in lines}:
        seen[text] += 1
    repeated = {text for text, count in seen.items() if text and pages >= 3 and count * 2 > pages}
    return [line for line in lines if line.text not in repeated and not _PAGE_NUMBER.match(line.text)]


class _Assembler:
    """Joins lines to paragraphs. A paragraph ends at a heading, an item, or a blank line after an end mark."""

    def __init__(self, body_size: float) -> None:
        self._body_size = body_size
        self._kind = BlockKind.PARAGRAPH
        self._text = ""

    def feed(self, line: _Line) -> Iterator[Block]:
        if not line.text:
            if self._ended:
                yield from self.flush()
        elif self._is_heading(line):
            yield from self.flush()
            yield Block(BlockKind.HEADING, line.text.rstrip(":"), 1 if line.size > self._body_size * 1.5 else 2)
        elif item := _ITEM.match(line.text):
            yield from self.flush()
            self._kind, self._text = BlockKind.ITEM, item.group(1)
        else:
            self._text = _join(self._text, line.text)

    def flush(self) -> Iterator[Block]:
        if self._text:
            yield Block(self._kind, self._text)
        self._kind, self._text = BlockKind.PARAGRAPH, ""

    @property
    def _ended(self) -> bool:
        return self._text.endswith((".", "!", "?", ":"))

    def _is_heading(self, line: _Line) -> bool:
        if line.size > self._body_size * _HEADING_RATIO:
            return len(line.text.split()) <= 14
        return (not self._text or self._ended) and looks_like_heading(line.text) and len(line.text) < 48


def _join(text: str, line: str) -> str:
    """A word broken by a hyphen at the end of a line is put together again."""
    if re.search(r"[a-z]-$", text) and line[:1].islower():
        return text[:-1] + line
    return f"{text} {line}".strip()


def _blocks(lines: list[_Line]) -> Iterator[Block]:
    weighted = [line.size for line in lines for _ in range(len(line.text))]
    assembler = _Assembler(median(weighted or [0.0]))
    for line in lines:
        yield from assembler.feed(line)
    yield from assembler.flush()
