"""Make the corpus's office files, PDFs and mails from the texts in `binary_sources/`.

`binary_sources/a/b.docx.md` becomes `corpus/a/b.docx`. The made files are committed, so the demo does not need
this script or the libraries that it uses (`pip install -r examples/requirements.txt`). A source is a YAML header and
a small part of Markdown: headings, paragraphs, lists, pipe tables and, for slides, lines that begin with "Notes:".
The same sources give the same bytes with the same library versions: all dates come from the header.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import yaml
from docx import Document as WordDocument
from fpdf import FPDF
from fpdf.enums import XPos, YPos
from fpdf.fonts import FontFace
from openpyxl import Workbook
from openpyxl.styles import Font
from pptx import Presentation
from pptx.util import Inches

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "binary_sources"
CORPUS = HERE / "corpus"

ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that the format can express

Kind = Literal["heading", "paragraph", "bullet", "number", "table", "notes"]


@dataclass(frozen=True, slots=True)
class Block:
    """One piece of a source text; `level` is a heading's level or an item's number, `rows` are a table's cells."""

    kind: Kind
    text: str = ""
    level: int = 0
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed source file; `body` is its text without the header."""

    meta: dict[str, Any]
    body: str

    @property
    def created(self) -> datetime:
        """The header's date, midnight UTC where it names no time."""
        value = self.meta["date"]
        if isinstance(value, datetime):
            return value
        assert isinstance(value, date)
        return datetime.combine(value, time(), UTC)

    def blocks(self) -> list[Block]:
        """The body as blocks, in order."""
        return list(_blocks(self.body))

    def sections(self) -> list[tuple[str, list[Block]]]:
        """The blocks under each second-level heading, with that heading: slides or sheets."""
        sections: list[tuple[str, list[Block]]] = []
        for block in self.blocks():
            if block.kind == "heading":
                sections.append((block.text, []))
            else:
                sections[-1][1].append(block)
        return sections


def read_source(path: Path) -> Source:
    """Split a source file into header and body."""
    _, header, body = path.read_text(encoding="utf-8").split("---\n", 2)
    return Source(meta=yaml.safe_load(header), body=body.strip())


def _line_kind(line: str) -> Kind | Literal["blank"]:
    if not line.strip():
        return "blank"
    for pattern, kind in (("#+ ", "heading"), ("- ", "bullet"), (r"\d+\. ", "number"), (r"\|", "table")):
        if re.match(pattern, line):
            return kind  # type: ignore[return-value]  # the literals of the tuple above
    return "notes" if line.startswith("Notes: ") else "paragraph"


def _blocks(body: str) -> Iterator[Block]:
    for kind, group in groupby(body.splitlines(), key=_line_kind):
        lines = list(group)
        if kind == "blank":
            continue
        if kind == "table":
            cells = [tuple(cell.strip() for cell in line.strip().strip("|").split("|")) for line in lines]
            yield Block("table", rows=(cells[0], *cells[2:]))
        elif kind in ("paragraph", "notes"):
            yield Block(kind, " ".join(lines).removeprefix("Notes: "))
        else:
            for line in lines:
                marker, text = line.split(" ", 1)
                level = len(marker) if kind == "heading" else int(marker[:-1]) if kind == "number" else 0
                yield Block(kind, text, level=level)


def make_docx(source: Source) -> bytes:
    """A Word document with real headings, lists and tables."""
    document = WordDocument()
    _set_core_properties(document.core_properties, source)
    for block in source.blocks():
        match block.kind:
            case "heading":
                document.add_heading(block.text, level=block.level - 1)
            case "bullet":
                document.add_paragraph(block.text, style="List Bullet")
            case "number":
                document.add_paragraph(block.text, style="List Number")
            case "table":
                table = document.add_table(rows=0, cols=len(block.rows[0]), style="Table Grid")
                for row in block.rows:
                    for cell, text in zip(table.add_row().cells, row, strict=True):
                        cell.text = text
                document.add_paragraph()
            case _:
                document.add_paragraph(block.text)
    buffer = io.BytesIO()
    document.save(buffer)
    return _fixed_zip(buffer.getvalue(), source)


def make_pptx(source: Source) -> bytes:
    """Slides: the first is the title slide, a slide with a table has no bullets."""
    deck = Presentation()
    _set_core_properties(deck.core_properties, source)
    layouts = deck.slide_layouts
    for number, (title, blocks) in enumerate(source.sections()):
        table = next((block for block in blocks if block.kind == "table"), None)
        slide = deck.slides.add_slide(layouts[0] if number == 0 else layouts[5] if table else layouts[1])
        slide.shapes.title.text = title
        if table:
            size = (len(table.rows), len(table.rows[0]))
            frame = slide.shapes.add_table(*size, Inches(0.5), Inches(1.8), Inches(9), Inches(0.4 * size[0]))
            for at_row, row in enumerate(table.rows):
                for at_column, text in enumerate(row):
                    frame.table.cell(at_row, at_column).text = text
        else:
            lines = [block.text for block in blocks if block.kind in ("bullet", "paragraph")]
            slide.placeholders[1].text = "\n".join(lines)
        for block in blocks:
            if block.kind == "notes":
                slide.notes_slide.notes_text_frame.text = block.text
    buffer = io.BytesIO()
    deck.save(buffer)
    return _fixed_zip(buffer.getvalue(), source)


def make_xlsx(source: Source) -> bytes:
    """A workbook with a sheet for each section: a remark, an empty row, a table with numbers as numbers."""
    book = Workbook()
    book.remove(book.active)
    book.properties.title = source.meta["title"]
    book.properties.creator = source.meta["author"]
    book.properties.created = source.created.replace(tzinfo=None)
    for title, blocks in source.sections():
        sheet = book.create_sheet(title)
        for block in blocks:
            if block.kind != "table":
                sheet.append([block.text])
                sheet.append([])
                continue
            for row in block.rows:
                sheet.append([_number(text) for text in row])
            for cell in sheet[sheet.max_row - len(block.rows) + 1]:
                cell.font = Font(bold=True)
        for column, width in zip("ABCDEF", (12, 34, 60, 16, 20, 16), strict=True):
            sheet.column_dimensions[column].width = width
    buffer = io.BytesIO()
    book.save(buffer)
    return _fixed_zip(buffer.getvalue(), source)


class _Pages(FPDF):
    """A4 pages with the source's running header, and a footer with the page number."""

    def __init__(self, header: str, footer: str) -> None:
        super().__init__(format="A4")
        self._header_text, self._footer_text = header, footer

    def header(self) -> None:
        self.set_font("Helvetica", "I", 8)
        self.cell(0, 6, self._header_text, border="B", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(6)

    def footer(self) -> None:
        self.set_y(-15)
        self.set_font("Helvetica", "I", 8)
        self.cell(0, 6, self._footer_text)
        self.set_x(self.l_margin)
        self.cell(0, 6, f"Page {self.page_no()} of {{nb}}", align="R")


def make_pdf(source: Source) -> bytes:
    """A PDF of several pages, with outline, running header and footer; the fonts hold Latin-1 only."""
    pdf = _Pages(source.meta["header"], source.meta["footer"])
    pdf.set_title(source.meta["title"])
    pdf.set_author(source.meta["author"])
    pdf.set_subject(source.meta["subject"])
    pdf.set_creation_date(source.created)
    pdf.set_margins(22, 18, 22)
    pdf.set_auto_page_break(auto=True, margin=22)
    pdf.add_page()
    for block in source.blocks():
        match block.kind:
            case "heading":
                if pdf.will_page_break(30):
                    pdf.add_page()
                pdf.ln(3)
                pdf.start_section(block.text, level=block.level - 1)
                pdf.set_font("Helvetica", "B", {1: 18, 2: 13}.get(block.level, 11))
                pdf.multi_cell(0, 7, block.text, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
                pdf.ln(1)
            case "table":
                pdf.set_font("Helvetica", "", 9)
                with pdf.table(headings_style=FontFace(emphasis="BOLD"), text_align="LEFT", line_height=5) as table:
                    for row in block.rows:
                        table.row(row)
                pdf.ln(3)
            case _:
                pdf.set_font("Helvetica", "", 10.5)
                indent = 6 if block.kind in ("bullet", "number") else 0
                mark = {"bullet": "- ", "number": f"{block.level}. "}.get(block.kind, "")
                pdf.set_x(pdf.l_margin + indent)
                pdf.multi_cell(0, 5.4, mark + block.text, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
                pdf.ln(1 if indent else 2)
    return bytes(pdf.output())


def make_eml(source: Source) -> bytes:
    """A mail with fixed identifier and boundaries; HTML beside the text and attachments where the header says so."""
    meta = source.meta
    message = EmailMessage(policy=SMTP)
    for name in ("from", "to", "cc", "subject"):
        if name in meta:
            message[name.capitalize()] = meta[name]
    message["Date"] = format_datetime(source.created)
    message["Message-ID"] = f"<{meta['message_id']}>"
    message.set_content(source.body + "\n")
    if meta.get("html"):
        message.add_alternative(_mail_html(source), subtype="html")
        message.set_boundary(f"{meta['boundary']}-alternative")
    for attachment in meta.get("attachments", ()):
        message.add_attachment(attachment["text"], subtype="csv", filename=attachment["name"])
        message.set_boundary(f"{meta['boundary']}-mixed")
    return message.as_bytes()


def _mail_html(source: Source) -> str:
    parts = (f"<p>{escape(part).replace(chr(10), '<br>' + chr(10))}</p>" for part in source.body.split("\n\n"))
    return "<html><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _number(text: str) -> str | int | float | None:
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"\d+\.\d+", text):
        return float(text)
    return text or None


def _set_core_properties(properties: Any, source: Source) -> None:
    properties.title = source.meta["title"]
    properties.author = properties.last_modified_by = source.meta["author"]
    properties.subject = source.meta.get("subject", "")
    properties.keywords = source.meta.get("keywords", "")
    properties.comments = ""
    properties.created = properties.modified = source.created.replace(tzinfo=None)


def _fixed_zip(data: bytes, source: Source) -> bytes:
    """The same office file with the header's date as its modification time and fixed times in the archive."""
    stamp = source.created.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "docProps/core.xml":
                content = re.sub(rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>" + stamp, content)
            entry = zipfile.ZipInfo(name, ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, wherever this runs
            new.writestr(entry, content)
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Source], bytes]] = {
    ".docx": make_docx,
    ".eml": make_eml,
    ".pdf": make_pdf,
    ".pptx": make_pptx,
    ".xlsx": make_xlsx,
}


def make(path: Path) -> bytes:
    """The bytes of the document that a source file describes, cut short where its header says `truncate`."""
    source = read_source(path)
    data = WRITERS[path.with_suffix("").suffix](source)
    return data[: int(len(data) * source.meta.get("truncate", 1))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a committed file differs")
    only_check = parser.parse_args().check
    different = 0
    for path in sorted(SOURCES.rglob("*.md")):
        target = CORPUS / path.relative_to(SOURCES).with_suffix("")
        data = make(path)
        if target.exists() and target.read_bytes() == data:
            continue
        different += 1
        print(f"{'differs' if only_check else 'made'}: {target.relative_to(HERE)} ({len(data):,} bytes)")
        if not only_check:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    return 1 if only_check and different else 0


if __name__ == "__main__":
    sys.exit(main())
