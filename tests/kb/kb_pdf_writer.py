"""Write a small PDF by hand: pages of (font size, line) in Helvetica. Makes the sample's PDF and the tests' fixtures.

`python tests/kb/kb_pdf_writer.py` writes kb/sample/riders-club.pdf.
"""

from collections.abc import Sequence
from pathlib import Path

LEFT, TOP, PAGE = 72, 770, (595, 842)


def _content(lines: Sequence[tuple[int, str]]) -> bytes:
    y = TOP
    parts = []
    for size, line in lines:
        y -= int(size * 1.6)
        escaped = line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        if line:
            parts.append(f"BT /F1 {size} Tf 1 0 0 1 {LEFT} {y} Tm ({escaped}) Tj ET")
    return "\n".join(parts).encode("latin-1")


def make_pdf(pages: Sequence[Sequence[tuple[int, str]]]) -> bytes:
    """A PDF of the given pages."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(count))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {count} /Kids [{kids}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, lines in enumerate(pages):
        content = _content(lines)
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {PAGE[0]} {PAGE[1]}] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>".encode()
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n".encode() + content + b"\nendstream")
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets)
    out += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n".encode()
    return bytes(out)


RIDERS_CLUB = [
    [
        (20, "Riders club and classes"),
        (11, ""),
        (14, "Membership"),
        (11, "The riders club costs thirty dollars a year."),
        (11, "Members of the riders club get ten percent off all parts and"),
        (11, "accessories."),
        (11, "You can join the riders club in the shop at any time."),
        (11, ""),
        (14, "Club rides"),
        (11, "A club ride starts at the shop every Sunday at eight in the morning."),
        (11, "Everyone on a club ride must wear a helmet."),
    ],
    [
        (14, "Classes"),
        (11, "We teach a free repair class on the first Tuesday of every month."),
        (11, "Riding lessons for children cost ten dollars an hour."),
        (11, ""),
        (14, "Test rides"),
        (11, "A test ride is free, and you only need to leave a photo ID with us."),
    ],
]

if __name__ == "__main__":
    target = Path(__file__).resolve().parents[2] / "kb" / "sample" / "riders-club.pdf"
    target.write_bytes(make_pdf(RIDERS_CLUB))
