"""Read a file into a :class:`~kb.document.Document`: Markdown, plain text, HTML, PDF.

Every reader keeps headings, makes a list item a sentence and a table row a sentence, and raises
:class:`~voice_agent.errors.DocumentError` with the reason for a file it cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from kb.document import Block, BlockKind, Document
from kb.parse_html import parse_html
from kb.parse_text import parse_markdown, parse_text
from voice_agent.errors import DocumentError

MAX_FILE_BYTES = 64 * 1024 * 1024


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if "\x00" in text:
        raise DocumentError("binary data in a text file")
    return text


def _parse_pdf(data: bytes) -> tuple[Block, ...]:
    # Its library is 10 MB, which a retriever that has no PDF to read does without.
    from kb.parse_pdf import parse_pdf

    return parse_pdf(data)


_READERS: Mapping[str, Callable[[bytes], tuple[Block, ...]]] = {
    ".md": lambda data: parse_markdown(_decode(data)),
    ".markdown": lambda data: parse_markdown(_decode(data)),
    ".txt": lambda data: parse_text(_decode(data)),
    ".html": parse_html,
    ".htm": parse_html,
    ".pdf": _parse_pdf,
}

SUFFIXES = frozenset(_READERS)


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        DocumentError: missing, unreadable, empty, or larger than ``MAX_FILE_BYTES``.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DocumentError(f"larger than {MAX_FILE_BYTES // 2**20} MB; split it")
        data = path.read_bytes()
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}") from error
    if not data.strip():
        raise DocumentError("empty file")
    return data


def parse(data: bytes, *, source: str, suffix: str) -> Document:
    """Parse the bytes of a file whose name ends with ``suffix``.

    Raises:
        DocumentError: the format is unknown, the file is broken, or there is no text in it.
    """
    reader = _READERS.get(suffix.lower())
    if reader is None:
        raise DocumentError(f"{suffix or 'no suffix'!r} is not supported; allowed: {', '.join(sorted(SUFFIXES))}")
    blocks = tuple(block for block in reader(data) if block.text)
    if all(block.kind is BlockKind.HEADING for block in blocks):
        raise DocumentError("no text found in it")
    title = next((block.text for block in blocks if block.kind is BlockKind.HEADING), Path(source).stem)
    return Document(source=source, title=title, blocks=blocks)
