import contextlib
from pathlib import Path

import pytest
from kb_pdf_writer import RIDERS_CLUB, make_pdf

from kb.chunk import chunk
from kb.document import BlockKind
from kb.parse import MAX_FILE_BYTES, parse, read_bytes
from voice_agent.errors import DocumentError

HEADING, PARAGRAPH, ITEM, ROW = BlockKind.HEADING, BlockKind.PARAGRAPH, BlockKind.ITEM, BlockKind.ROW


def blocks(text: str | bytes, suffix: str) -> list[tuple[BlockKind, str]]:
    data = text.encode() if isinstance(text, str) else text
    return [(block.kind, block.text) for block in parse(data, source=f"x{suffix}", suffix=suffix).blocks]


def test_markdown_keeps_headings_items_and_tables_and_drops_markup() -> None:
    text = """---
title: not content
---
# Shop <!-- note -->
We sell **bikes** and [helmets](https://example.org), `cheap`.
Second line of it.

Setext
------
- one *item*
  goes on
- two

```
code is not content
```
| Bike | Half day | Full day |
|------|:--------:|---------:|
| City | $15 | $25 |
> A quoted paragraph.
"""
    assert blocks(text, ".md") == [
        (HEADING, "Shop"),
        (PARAGRAPH, "We sell bikes and helmets, cheap. Second line of it."),
        (HEADING, "Setext"),
        (ITEM, "one item goes on"),
        (ITEM, "two"),
        (ROW, "City: half day $15, full day $25."),
        (PARAGRAPH, "A quoted paragraph."),
    ]


def test_two_column_table_reads_as_subject_and_value() -> None:
    assert blocks("| Day | Hours |\n|---|---|\n| Monday | nine to five |\n", ".md") == [(ROW, "Monday: nine to five.")]


def test_plain_text_tells_headings_by_their_look() -> None:
    text = "Opening hours\n\nWe open at nine.\nWe close at five.\n\n- bikes\n- helmets\n"
    assert blocks(text, ".txt") == [
        (HEADING, "Opening hours"),
        (PARAGRAPH, "We open at nine. We close at five."),
        (ITEM, "bikes"),
        (ITEM, "helmets"),
    ]


def test_html_keeps_order_and_leaves_navigation_and_scripts_out() -> None:
    text = """<html><head><title>Rent</title><style>p {}</style></head><body><nav>Home</nav>
    <h2>Prices</h2><div>Loose <b>text</b> here.<p>A paragraph.<ul><li>One</li><li>Two</li></ul>
    <table><tr><th>Bike<th>Price<tr><td>City<td>15 dollars</table><dl><dt>Deposit<dd>100 dollars</dl>
    <script>ignored()</script></div><!-- ignored --></body>"""
    assert blocks(text, ".html") == [
        (HEADING, "Rent"),
        (HEADING, "Prices"),
        (PARAGRAPH, "Loose text here."),
        (PARAGRAPH, "A paragraph."),
        (ITEM, "One"),
        (ITEM, "Two"),
        (ROW, "City: 15 dollars."),
        (ITEM, "Deposit: 100 dollars"),
    ]


def test_broken_html_still_gives_its_text() -> None:
    assert blocks(b"<h1>Shop<p>Open at <b>nine<td></html></div><p>Closed", ".html")[-1] == (PARAGRAPH, "Closed")


def test_html_keeps_the_authors_white_space_between_inline_elements() -> None:
    text = "<p>from <b>9</b> <i>a.m.</i>, <b>f</b>ree<br>coffee"
    assert blocks(text, ".html") == [(PARAGRAPH, "from 9 a.m., free coffee")]


def test_deep_html_is_read_or_refused() -> None:
    for text in ("<div>" * 3000 + "<p>Deep.", "<table><tr><td>" * 300 + "x"):
        with contextlib.suppress(DocumentError):
            assert blocks(text, ".html")


def test_pdf_headings_by_size_and_paragraphs_over_lines() -> None:
    found = blocks(make_pdf(RIDERS_CLUB), ".pdf")
    assert (HEADING, "Membership") in found
    joined = " ".join(text for kind, text in found if kind is PARAGRAPH)
    assert "ten percent off all parts and accessories." in joined


def test_pdf_drops_running_heads_and_page_numbers() -> None:
    pages = [[(9, "Acme handbook"), (11, f"Fact number {n} is here."), (9, f"Page {n} of 3")] for n in (1, 2, 3)]
    text = " ".join(text for _, text in blocks(make_pdf(pages), ".pdf"))
    assert text == "Fact number 1 is here. Fact number 2 is here. Fact number 3 is here."


PDF = make_pdf(RIDERS_CLUB)


@pytest.mark.parametrize(
    ("data", "suffix", "reason"),
    [
        (b"no pdf at all", ".pdf", "damaged"),
        (PDF[: len(PDF) // 3], ".pdf", "damaged|no text"),
        (b"%PDF-1.4\n" + bytes(range(256)) * 8, ".pdf", "damaged|no text"),
        (make_pdf([[]]), ".pdf", "no text layer"),
        (b"\x00\x01\x02<html>", ".html", "binary"),
        (b"<html><script>x()</script></html>", ".html", "no text"),
        (b"# Only a heading\n", ".md", "no text"),
        (b"caf\xe9 in latin-1", ".txt", "UTF-8"),
        (b"text\x00text", ".md", "binary"),
        (b"PK\x03\x04", ".docx", r"'\.docx' is not supported; allowed: .*\.md"),
    ],
)
def test_unreadable_documents_say_why(data: bytes, suffix: str, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        parse(data, source=f"x{suffix}", suffix=suffix)


def test_damaged_pdfs_never_raise_anything_else() -> None:
    for position in range(0, len(PDF), 41):
        damaged = PDF[:position] + b"\xff" * 7 + PDF[position + 7 :]
        # Any other error ends the test.
        with contextlib.suppress(DocumentError):
            parse(damaged, source="x.pdf", suffix=".pdf")


def test_read_bytes_names_missing_empty_and_oversized_files(tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text(" \n")
    with (tmp_path / "big.md").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    for name, reason in (("missing.md", "cannot be read"), ("empty.md", "empty"), ("big.md", "larger than")):
        with pytest.raises(DocumentError, match=reason):
            read_bytes(tmp_path / name)


def test_chunks_carry_the_heading_path_and_respect_the_limit() -> None:
    text = "# A\nIntro here.\n## B\n" + "One two three four five. " * 10 + "\n## C\nLast one.\n"
    chunks = chunk(parse(text.encode(), source="x.md", suffix=".md"), max_words=20)
    assert [piece.heading for piece in chunks] == ["A", "A > B", "A > B", "A > B", "A > C"]
    assert all(piece.words <= 20 for piece in chunks)
    assert [piece.index for piece in chunks] == list(range(5))


def test_a_long_sentence_is_never_cut() -> None:
    text = "word " * 50 + "end."
    chunks = chunk(parse(text.encode(), source="x.txt", suffix=".txt"), max_words=20)
    assert [len(piece.sentences) for piece in chunks] == [1]


def test_a_short_list_joins_its_introduction() -> None:
    text = "We accept:\n\n- cash\n- checks\n- cards\n"
    (piece,) = chunk(parse(text.encode(), source="x.md", suffix=".md"), max_words=50)
    assert piece.text == "We accept cash, checks and cards."
