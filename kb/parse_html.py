"""HTML to blocks, by Beautiful Soup over the standard library's parser, which accepts broken markup."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bs4 import BeautifulSoup
from bs4.element import Comment, NavigableString, Tag
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
    except ParserRejectedMarkup as error:
        raise DocumentError(f"not HTML: {error}") from error
    title = _text(soup.title) if soup.title else ""
    for element in soup.find_all(_DROPPED):
        element.decompose()
    try:
        blocks = list(_walk(soup))
    except RecursionError as error:
        raise DocumentError("HTML nested too deeply") from error
    if title and not any(block.kind is BlockKind.HEADING and block.level == 1 for block in blocks):
        blocks.insert(0, Block(BlockKind.HEADING, title, 1))
    return tuple(blocks)


def _text(element: Tag | NavigableString) -> str:
    return " ".join(element.get_text(" ").split()).replace(" .", ".").replace(" ,", ",")


def _walk(parent: Tag) -> Iterator[Block]:
    """Blocks below ``parent``; loose inline text between block elements becomes paragraphs."""
    loose: list[str] = []
    for child in parent.children:
        if _is_inline(child):
            loose.append(_text(child) if isinstance(child, Tag | NavigableString) else "")
            continue
        if not isinstance(child, Tag):
            continue
        yield from _paragraph(loose)
        loose = []
        yield from _element(child)
    yield from _paragraph(loose)


def _is_inline(child: object) -> bool:
    if isinstance(child, Tag):
        return child.name in _INLINE
    return isinstance(child, NavigableString) and not isinstance(child, Comment)


def _paragraph(loose: list[str]) -> Iterator[Block]:
    text = " ".join(" ".join(loose).split())
    if text:
        yield Block(BlockKind.PARAGRAPH, text)


def _element(element: Tag) -> Iterator[Block]:
    if heading := _HEADING.match(element.name):
        yield Block(BlockKind.HEADING, _text(element), int(heading.group(1)))
    elif element.name == "table":
        rows = [[_text(cell) for cell in row.find_all(["th", "td"])] for row in element.find_all("tr")]
        yield from (Block(BlockKind.ROW, sentence) for sentence in rows_to_sentences(rows))
    elif element.name == "dl":
        yield from _definitions(element)
    elif element.name in ("li", "p") and not element.find(["p", "ul", "ol", "table", "div"]):
        yield Block(BlockKind.ITEM if element.name == "li" else BlockKind.PARAGRAPH, _text(element))
    else:
        yield from _walk(element)


def _definitions(element: Tag) -> Iterator[Block]:
    term = ""
    for child in element.find_all(["dt", "dd"]):
        if child.name == "dt":
            term = _text(child).rstrip(":")
        else:
            yield Block(BlockKind.ITEM, f"{term}: {_text(child)}" if term else _text(child))
