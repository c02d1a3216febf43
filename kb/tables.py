"""Table rows as sentences, so that a cell can be found and spoken."""

from __future__ import annotations

from collections.abc import Sequence

from kb.sentences import as_sentence


def rows_to_sentences(rows: Sequence[Sequence[str]]) -> list[str]:
    """One sentence per row; the first row is the header.

    Two columns read "Monday: nine to five."; more read "City bike: half day 15 dollars, full day 25 dollars." A
    table of one row has no header, so its cells are listed.
    """
    filled = [[" ".join(cell.split()) for cell in row] for row in rows if any(cell.strip() for cell in row)]
    if len(filled) == 1:
        return [as_sentence(", ".join(cell for cell in filled[0] if cell))]
    return [sentence for row in filled[1:] if (sentence := _row_sentence(filled[0], row))]


def _row_sentence(header: Sequence[str], row: Sequence[str]) -> str:
    subject, values = row[0], list(zip(header[1:], row[1:], strict=False))
    if len(values) == 1:
        parts = [values[0][1]]
    else:
        parts = [f"{name.lower()} {value}".strip() for name, value in values if value]
    told = ", ".join(part for part in parts if part)
    if not subject or not told:
        return as_sentence(subject or told)
    return as_sentence(f"{subject}: {told}")
