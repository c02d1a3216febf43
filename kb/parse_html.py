"""HTML to blocks, by Beautiful Soup over the standard library's parser.

That parser does not close elements whose end tag is left out, so a paragraph can end up inside the heading before it.
Therefore text is read in document order and belongs to the nearest block element around it, however deep.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PreformattedString, Tag
from bs4.exceptions import ParserRejectedMarkup

from kb.document import Block, BlockKind
from kb.tables import rows_to_sentences
from voice_agent.errors import DocumentError

# Navigation and machinery, not content.
_DROPPED = ("script", "style", "noscript", "template", "nav", "svg", "iframe", "form", "button", "head")
_HEADING = re.compile(r"^h([1-6])$")
_INLINE = frozenset("a abbr b bdi cite code data dfn em i kbd mark q s small span strong sub sup time u var".split())


def parse_html(data: bytes) -> tuple[Block, ...]:
    """Headings, paragraphs, items, definition lists and tables, in document order; the title for a missing h1.

    Raises:
        DocumentError: binary data, or markup the parser rejects.
    """
    if b"\x00" in data[:4096] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DocumentError("binary data in an HTML file")
    try:
        soup = BeautifulSoup(data, "html.parser")
    except (ParserRejectedMarkup, RecursionError) as error:
        raise DocumentError(f"not HTML that can be read: {error}") from error
    title = _joined(soup.title.strings) if soup.title else ""
    for element in soup.find_all(_DROPPED):
        element.extract()
    for line_break in soup.find_all("br"):
        line_break.replace_with(" ")
    blocks = [block for block in _blocks(soup) if block.text]
    if title and not any(block.kind is BlockKind.HEADING and block.level == 1 for block in blocks):
        blocks.insert(0, Block(BlockKind.HEADING, title, 1))
    return tuple(blocks)


def _blocks(soup: BeautifulSoup) -> Iterator[Block]:
    tables: set[int] = set()
    term = ""
    for home, strings in itertools.groupby(_strings(soup), key=_home):
        if home.name == "table":
            if id(home) not in tables:
                tables.add(id(home))
                yield from (Block(BlockKind.ROW, sentence) for sentence in rows_to_sentences(_rows(home)))
            continue
        text = _joined(strings)
        if home.name == "dt":
            term = text.rstrip(":")
        elif home.name == "dd":
            yield Block(BlockKind.ITEM, f"{term}: {text}" if term else text)
        elif heading := _HEADING.match(home.name):
            yield Block(BlockKind.HEADING, text, int(heading.group(1)))
        else:
            yield Block(BlockKind.ITEM if home.find_parent("li") or home.name == "li" else BlockKind.PARAGRAPH, text)


def _strings(element: Tag) -> Iterator[NavigableString]:
    """Text in document order, without comments and declarations."""
    for item in element.descendants:
        if isinstance(item, NavigableString) and not isinstance(item, PreformattedString):
            yield item


def _home(text: NavigableString) -> Tag:
    """The element whose text this is: the innermost table around it, else the nearest block element."""
    table = text.find_parent("table")
    if isinstance(table, Tag):
        return table
    return next(parent for parent in text.parents if parent.name not in _INLINE)


def _rows(table: Tag) -> list[list[str]]:
    """Cells by row, also where rows or cells are not closed and so lie inside one another."""
    rows: list[list[str]] = []
    for row in table.find_all("tr"):
        if row.find_parent("table") is not table:
            continue
        cells = [cell for cell in row.find_all(["td", "th"]) if cell.find_parent("tr") is row]
        rows.append([_joined(item for item in _strings(cell) if _cell_of(item) is cell) for cell in cells])
    return rows


def _cell_of(text: NavigableString) -> Tag | None:
    found = text.find_parent(["td", "th"])
    return found if isinstance(found, Tag) else None


def _joined(strings: Iterable[str]) -> str:
    """Strings as one text. White space is the author's: none is put between "9" and "<b>am</b>"."""
    return " ".join("".join(strings).split())
