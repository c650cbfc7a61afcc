"""PDF through PDFium: text in reading order with page numbers; the outline, sizes and weights give headings.

Pages without a text layer are reported (`scanned_pages`); recognising their text is not done here.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from pipelines.parsing import page_layout
from pipelines.parsing.dates import iso_from_pdf
from pipelines.parsing.elements import Parsed, Value
from pipelines.parsing.failures import Damaged, Encrypted, Scanned, TooLarge
from pipelines.parsing.limits import Limits
from pipelines.parsing.normalise import one_line
from pipelines.parsing.page_lines import Line, Piece, without_furniture

_MAX_PAGES_NAMED = 50
_MAX_OUTLINE = 5_000
_NO_TITLE = (
    "untitled",
    "microsoft word",
    "microsoft powerpoint",
    "powerpoint presentation",
    "slide 1",
    "title",
    "document",
)
_FILE_ENDINGS = (
    ".doc",
    ".docx",
    ".pdf",
    ".dvi",
    ".ps",
    ".tex",
    ".ppt",
    ".pptx",
    ".indd",
    ".qxd",
    ".xls",
    ".xlsx",
    ".rtf",
    ".odt",
)
_WIDE_GAP = 1.1  # times the size; a space is about 0.3 and seldom above 0.8 in justified text
_SPACE = re.compile(r"\s+")
_BOLD_WEIGHT = 600


def parse(content: bytes, _media_type: str, config: Limits) -> Parsed:
    """The document's elements with their pages.

    Raises:
        Encrypted: it needs a password.
        Damaged: PDFium cannot open it.
        Scanned: no page has text and at least one has a picture.
        TooLarge: it has more text than is allowed.
    """
    try:
        document = pdfium.PdfDocument(content)
    except pdfium.PdfiumError as error:
        if getattr(error, "err_code", None) == raw.FPDF_ERR_PASSWORD:
            raise Encrypted("the PDF is encrypted and needs a password to be opened") from None
        if getattr(error, "err_code", None) == raw.FPDF_ERR_SECURITY:
            raise Encrypted("the PDF is encrypted in a way that PDFium does not support") from None
        raise Damaged(f"PDFium cannot open the PDF: {error}") from None
    try:
        return _read(document, config)
    finally:
        document.close()


def _read(document: pdfium.PdfDocument, config: Limits) -> Parsed:
    count = len(document)
    pages: list[list[Line]] = []
    scanned, broken, characters = [], [], 0
    for index in range(count):
        try:
            lines, pictures = _page(document, index)
        except pdfium.PdfiumError:
            broken.append(index + 1)
            continue
        characters += sum(len(line.text) for line in lines)
        if characters > config.max_characters:
            raise TooLarge(
                f"its text passes {config.max_characters:,} characters (parsing.max_characters) on page {index + 1} "
                f"of {count}; split the document, or raise the limit"
            )
        pages.append(lines)
        if not lines and pictures:
            scanned.append(index + 1)
    if count and len(broken) == count:
        raise Damaged(f"none of the PDF's {count} pages can be read")
    title, metadata = _metadata(document)
    if broken:
        metadata["unreadable_pages"] = broken[:_MAX_PAGES_NAMED]
    if scanned:
        metadata["scanned_pages"] = scanned[:_MAX_PAGES_NAMED]
    elements = page_layout.elements(without_furniture(pages), _outline(document))
    if not elements and any(pages):  # nothing but repeated lines: better than nothing
        elements = page_layout.elements(pages, {})
    if not elements and scanned:
        raise Scanned(
            f"{len(scanned)} of its {count} pages are pictures without a text layer and no other has text; "
            "run optical character recognition over the PDF first"
        )
    return Parsed(tuple(elements), title, metadata, count)


def _page(document: pdfium.PdfDocument, index: int) -> tuple[list[Line], bool]:
    """The lines of a page, and whether a page without any shows a picture."""
    page = document[index]
    try:
        text_page = page.get_textpage()
        try:
            lines = list(_lines(text_page, index + 1, page.get_height()))
        finally:
            text_page.close()
        kinds = (raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_PATH, raw.FPDF_PAGEOBJ_SHADING)
        pictures = not lines and any(item.type in kinds for item in page.get_objects(max_depth=3))
    finally:
        page.close()
    return lines, pictures


def _lines(text_page: pdfium.PdfTextPage, page: int, height: float) -> Iterator[Line]:
    text = text_page.get_text_range()
    position = 0  # in UTF-16 units, as PDFium counts
    for part in text.split("\n"):
        units = len(part) if part.isascii() else len(part.encode("utf-16-le", "surrogatepass")) // 2
        line = part.rstrip("\r")
        stripped = line.strip()
        if stripped:
            start = position + (len(line) - len(line.lstrip()))
            end = position + max(units - (len(part) - len(line.rstrip())) - 1, 0)
            yield _line(text_page, line, start, end, page, height)
        position += units + 1


def _line(text_page: pdfium.PdfTextPage, text: str, start: int, end: int, page: int, height: float) -> Line:
    first = raw.FPDFText_GetCharIndexFromTextIndex(text_page, start)
    last = raw.FPDFText_GetCharIndexFromTextIndex(text_page, end)
    if first < 0:
        first = 0
    left, bottom, right, top = _box(text_page, first)
    if last > first:
        right = _box(text_page, last)[2]
    # a line may begin with a small mark or a drop cap: take the size in its middle
    middle = raw.FPDFText_GetCharIndexFromTextIndex(text_page, (start + end) // 2)
    sample = middle if middle >= 0 else first
    size = _size(text_page, sample)
    pieces = tuple(_pieces(text_page, text, start - (len(text) - len(text.lstrip())), size))
    return Line(text, page, left, right, bottom, top, size, _bold(text_page, sample), height, pieces)


def _pieces(text_page: pdfium.PdfTextPage, text: str, start: int, size: float) -> Iterator[Piece]:
    """The line cut at its wide gaps. Only spaces are looked at: two boxes each."""
    begin = text.index(text.strip()[0])
    end = len(text.rstrip())
    left = _text_box(text_page, start + begin)[0]
    for match in _SPACE.finditer(text, begin, end):
        before, after = _text_box(text_page, start + match.start() - 1), _text_box(text_page, start + match.end())
        if after[0] - before[2] > _WIDE_GAP * max(size, 1.0):
            yield Piece(text[begin : match.start()].strip(), left, before[2])
            begin, left = match.end(), after[0]
    yield Piece(text[begin:end].strip(), left, _text_box(text_page, start + end - 1)[2])


def _text_box(text_page: pdfium.PdfTextPage, index: int) -> tuple[float, float, float, float]:
    return _box(text_page, max(raw.FPDFText_GetCharIndexFromTextIndex(text_page, index), 0))


def _box(text_page: pdfium.PdfTextPage, index: int) -> tuple[float, float, float, float]:
    box = raw.FS_RECTF()
    if not raw.FPDFText_GetLooseCharBox(text_page, index, box):
        return 0.0, 0.0, 0.0, 0.0
    return box.left, box.bottom, box.right, box.top


def _size(text_page: pdfium.PdfTextPage, index: int) -> float:
    """The size as it appears: the font's, scaled by the text's matrix."""
    size = float(raw.FPDFText_GetFontSize(text_page, index))
    matrix = raw.FS_MATRIX()
    if raw.FPDFText_GetMatrix(text_page, index, matrix):
        scale = float((matrix.c**2 + matrix.d**2) ** 0.5)
        if 0.01 < scale < 1_000:
            size *= scale
    return round(size, 2)


def _bold(text_page: pdfium.PdfTextPage, index: int) -> bool:
    if raw.FPDFText_GetFontWeight(text_page, index) >= _BOLD_WEIGHT:
        return True
    buffer, flags = ctypes.create_string_buffer(128), ctypes.c_int()
    length = raw.FPDFText_GetFontInfo(text_page, index, buffer, 128, flags)
    name = buffer.raw[: max(min(length, 128) - 1, 0)].lower()
    return b"bold" in name or b"black" in name or b"heavy" in name or b"-semib" in name


def _outline(document: pdfium.PdfDocument) -> dict[tuple[int, str], int]:
    outline: dict[tuple[int, str], int] = {}
    for number, item in enumerate(document.get_toc(max_depth=6)):
        if number >= _MAX_OUTLINE:
            break
        destination = item.get_dest()
        page = destination.get_index() if destination else None
        title = one_line(item.get_title() or "").lower()
        if page is not None and title:
            outline.setdefault((page + 1, title), item.level + 1)
    return outline


def _metadata(document: pdfium.PdfDocument) -> tuple[str, dict[str, Value]]:
    info = document.get_metadata_dict(skip_empty=True)
    title = one_line(info.get("Title", ""))
    lowered = title.lower()
    if lowered.startswith(_NO_TITLE) or lowered.endswith(_FILE_ENDINGS) or not any(map(str.isalpha, title)):
        title = ""
    metadata: dict[str, Value] = {}
    if author := info.get("Author"):
        metadata["author"] = author
    for key, source in (("created", "CreationDate"), ("modified", "ModDate")):
        if (value := info.get(source)) and (found := iso_from_pdf(value)):
            metadata[key] = found
    if keywords := info.get("Keywords"):
        metadata["tags"] = [part.strip() for part in keywords.replace(";", ",").split(",")]
    if subject := info.get("Subject"):
        metadata["description"] = subject
    return title, metadata
