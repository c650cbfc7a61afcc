"""PDFs, written here by hand: pages of positioned lines in two fonts."""

from __future__ import annotations

import io

import pytest

from pipelines.config import ParsingConfig
from pipelines.parsing.elements import Parsed
from pipelines.parsing.failures import Damaged, Encrypted, Scanned, TooLarge
from pipelines.parsing.parser import parse

CONFIG = ParsingConfig(workers=1)
TextLine = tuple[float, float, float, bool, str]  # x, y, size, bold, text
BODY = [
    "The collectors stop a part of the fog that drifts past them, and the",
    "water runs down the threads into a gutter. It is a well-known prin-",
    "ciple that has been used for a very long time on many islands.",
]


def pdf(
    *pages: list[TextLine], info: str = "", outline: list[tuple[str, int]] | None = None, image: bool = False
) -> bytes:
    objects: list[bytes] = []

    def add(body: str | bytes) -> int:
        objects.append(body.encode("latin-1") if isinstance(body, str) else body)
        return len(objects)

    catalog, tree = add(b""), add(b"")
    fonts = [
        add(f"<< /Type /Font /Subtype /Type1 /BaseFont /{name} /Encoding /WinAnsiEncoding >>")
        for name in ("Helvetica", "Helvetica-Bold")
    ]
    picture = add(
        b"<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8 /Length 1 >>\nstream\n\x7f\nendstream"  # noqa: E501  # one document
    )
    kids = []
    for lines in pages:
        parts = [f"BT /F{int(bold)} {size} Tf {x} {y} Td ({text}) Tj ET" for x, y, size, bold, text in lines]
        if image:
            parts.append("q 100 0 0 100 50 50 cm /I Do Q")
        stream = "\n".join(parts)
        content = add(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        kids.append(add(
            f"<< /Type /Page /Parent {tree} 0 R /MediaBox [0 0 595 842] /Contents {content} 0 R "
            f"/Resources << /Font << /F0 {fonts[0]} 0 R /F1 {fonts[1]} 0 R >> /XObject << /I {picture} 0 R >> >> >>"
        ))  # fmt: skip
    objects[tree - 1] = (
        f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(f'{kid} 0 R' for kid in kids)}] >>".encode()
    )
    extra = ""
    if outline:
        root = len(objects) + 1
        objects.append(
            f"<< /Type /Outlines /First {root + 1} 0 R /Last {root + len(outline)} 0 R /Count {len(outline)} >>".encode()  # noqa: E501  # one document
        )
        for index, (title, page) in enumerate(outline, 1):
            following = f"/Next {root + index + 1} 0 R " if index < len(outline) else ""
            objects.append(
                f"<< /Title ({title}) /Parent {root} 0 R {following}/Dest [{kids[page - 1]} 0 R /Fit] >>".encode()
            )
        extra = f" /Outlines {root} 0 R"
    objects[catalog - 1] = f"<< /Type /Catalog /Pages {tree} 0 R{extra} >>".encode()
    information = add(f"<< {info} >>")
    out = io.BytesIO(b"%PDF-1.7\n")
    out.seek(0, io.SEEK_END)
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.writelines(b"%010d 00000 n \n" % offset for offset in offsets)
    out.write(
        b"trailer << /Size %d /Root %d 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF"
        % (len(objects) + 1, catalog, information, start)
    )
    return out.getvalue()


def page(number: int, *, heading: str = "", bold: str = "") -> list[TextLine]:
    lines: list[TextLine] = [(50, 810, 9, False, "The fog handbook"), (280, 20, 9, False, str(number))]
    y = 760.0
    if heading:
        lines.append((50, y, 18, False, heading))
        y -= 40
    if bold:
        lines.append((50, y, 11, True, bold))
        y -= 25
    for text in BODY:
        lines.append((50, y, 11, False, text))
        y -= 14
    lines.append((50, y - 20, 11, False, "Another paragraph stands apart from it."))
    return lines


def shape(parsed: Parsed) -> list[tuple[str, str, int | None]]:
    return [(element.kind, element.text, element.page) for element in parsed.elements]


def test_a_pdf_has_headings_paragraphs_and_pages_without_headers_and_page_numbers():
    parsed = parse(pdf(page(1, heading="How it works"), page(2, bold="In detail"), page(3)), "application/pdf", CONFIG)
    body = (
        "The collectors stop a part of the fog that drifts past them, and the water runs down the threads into a gutter. "  # noqa: E501  # one document
        "It is a well-known principle that has been used for a very long time on many islands."
    )
    apart = "Another paragraph stands apart from it."
    assert shape(parsed) == [
        ("heading", "How it works", 1),
        ("paragraph", body, 1),
        ("paragraph", apart, 1),
        ("heading", "In detail", 2),
        ("paragraph", body, 2),
        ("paragraph", apart, 2),
        ("paragraph", body, 3),
        ("paragraph", apart, 3),
    ]
    assert [element.level for element in parsed.elements if element.kind == "heading"] == [1, 2]
    assert parsed.title == "How it works"
    assert parsed.pages == 3


def test_rows_in_columns_are_a_table_and_columns_of_text_are_not():
    rows = [("Item", "Unit", "Price"), ("Net", "piece", "120"), ("Mast", "metre", "40"), ("Rope", "metre", "2")]
    lines = [
        (x, 600.0 - 26 * n, 10.0, n == 0, text)
        for n, row in enumerate(rows)
        for x, text in zip((50.0, 200.0, 300.0), row, strict=True)
    ]
    lines.insert(6, (200.0, 600.0 - 26 - 11, 10.0, False, "(boxed)"))  # a cell that goes on in a second line
    parsed = parse(pdf([(50.0, 640.0, 10.0, False, "Before the table."), *lines]), "application/pdf", CONFIG)
    assert shape(parsed) == [
        ("paragraph", "Before the table.", 1),
        ("table", "Item | Unit | Price\nNet | piece (boxed) | 120\nMast | metre | 40\nRope | metre | 2", 1),
    ]
    assert parsed.elements[1].html.startswith("<table><tr><th>Item</th>")
    prose = [(x, 600.0 - 14 * n, 9.0, False, text[:45]) for n, text in enumerate(BODY) for x in (50.0, 320.0)]
    assert "table" not in {kind for kind, _, _ in shape(parse(pdf(prose), "application/pdf", CONFIG))}


def test_the_outline_of_a_pdf_makes_headings_of_plain_lines():
    lines = [
        (50.0, 700.0, 11.0, False, "A plain line"),
        *[(50.0, 680.0 - 14 * n, 11.0, False, text) for n, text in enumerate(BODY)],
    ]
    parsed = parse(pdf(lines, outline=[("A plain line", 1)]), "application/pdf", CONFIG)
    assert shape(parsed)[0] == ("heading", "A plain line", 1)
    assert parsed.elements[0].level == 1


def test_a_paragraph_that_goes_on_over_the_page_is_one():
    first = [(50.0, 700.0 - 14 * n, 11.0, False, text) for n, text in enumerate(BODY[:1])]
    second = [(50.0, 700.0, 11.0, False, "water is collected on the next page.")]
    assert shape(parse(pdf(first, second), "application/pdf", CONFIG)) == [
        ("paragraph", f"{BODY[0]} water is collected on the next page.", 1)
    ]


def test_the_properties_of_a_pdf_become_metadata():
    info = "/Title (On fog) /Author (Ann) /Keywords (fog; water) /CreationDate (D:20240301120000Z) /Subject (A study)"
    parsed = parse(pdf(page(1), info=info), "application/pdf", CONFIG)
    assert parsed.title == "On fog"
    assert parsed.metadata == {
        "author": "Ann", "tags": ["fog", "water"], "created": "2024-03-01T12:00:00+00:00", "description": "A study"
    }  # fmt: skip


def test_a_file_name_in_a_title_property_is_not_the_title():
    parsed = parse(
        pdf(page(1, heading="How it works"), info="/Title (Microsoft Word - draft.doc)"), "application/pdf", CONFIG
    )
    assert parsed.title == "How it works"


def test_pages_that_are_pictures_are_reported_as_scanned():
    with pytest.raises(Scanned, match="2 of its 2 pages"):
        parse(pdf([], [], image=True), "application/pdf", CONFIG)
    parsed = parse(pdf(page(1), [], image=True), "application/pdf", CONFIG)
    assert parsed.metadata["scanned_pages"] == [2]


def test_a_pdf_without_text_and_pictures_is_empty():
    assert parse(pdf([]), "application/pdf", CONFIG).elements == ()


def test_an_encrypted_pdf_is_reported_as_such():
    pypdf = pytest.importorskip("pypdf", reason="pypdf encrypts the test's document")
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(page(1))))
    writer.encrypt("secret", algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    with pytest.raises(Encrypted, match="password"):
        parse(buffer.getvalue(), "application/pdf", CONFIG)


def test_what_is_no_pdf_is_damaged():
    with pytest.raises(Damaged):
        parse(b"%PDF-1.7\nnothing more", "application/pdf", CONFIG)


def test_a_pdf_with_too_much_text_is_refused():
    with pytest.raises(TooLarge, match="max_characters"):
        parse(pdf(page(1), page(2)), "application/pdf", ParsingConfig(workers=1, max_characters=200))
