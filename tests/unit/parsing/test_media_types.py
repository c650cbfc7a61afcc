from __future__ import annotations

import io
import zipfile

import pytest

from pipelines.parsing.media_types import BINARY, DOCX, OLE, XLSX, detect_media_type
from pipelines.parsing.refusals import explain
from pipelines.parsing.routes import ROUTES, route_for


def zipped(*names: str, mimetype: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        if mimetype:
            archive.writestr("mimetype", mimetype)
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("head", "name", "expected"),
    [
        (b"# Title\n", "a/b/readme.MD", "text/markdown"),
        (b"a,b\n1,2\n", "x.csv", "text/csv"),
        (b"Just words.\n", "notes", "text/plain"),
        (b"Just words.\n", "", "text/plain"),
        (b"<!DOCTYPE html><html>", "page", "text/html"),
        (b"<!DOCTYPE html><html>", "export.xls", "text/html"),
        (b'<?xml version="1.0"?><html xmlns="x">', "page", "application/xhtml+xml"),
        (b'<?xml version="1.0"?><book>', "page", "application/xml"),
        (b"From: a@b.c\nTo: d@e.f\nSubject: x\nDate: today\n\nHi", "mail", "message/rfc822"),
        (b"From a@b Mon\nFrom: a@b.c\n\nHi", "inbox", "application/mbox"),
        (b"{\\rtf1 hello}", "letter.doc", "application/rtf"),
        (b"%PDF-1.7\n", "report.docx", "application/pdf"),
        (b"\n\n%PDF-1.7\n", "", "application/pdf"),
        (b"\x89PNG\r\n\x1a\n....", "picture.txt", "image/png"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old.doc", "application/msword"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "locked.docx", OLE),
        (zipped("[Content_Types].xml", "word/document.xml"), "a.docx", DOCX),
        (zipped("[Content_Types].xml", "word/document.xml"), "renamed.bin", DOCX),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "renamed.docx", XLSX),
        (zipped("content.xml", mimetype="application/vnd.oasis.opendocument.text"), "x.zip", "application/vnd.oasis.opendocument.text"),  # noqa: E501  # one document
        (zipped("OPS/a", mimetype="application/epub+zip"), "book", "application/epub+zip"),
        (zipped("a.txt"), "a.zip", "application/zip"),
        (b"def f():\n    pass\n", "x.py", "text/x-code-python"),
        (b"Not a zip file", "x.odt", "text/plain"),
        (bytes(range(256)) * 4, "x.txt", BINARY),
        (b"\x00\x01\x02\x03" * 100, "x.md", BINARY),
        ("Grüße aus Köln, schöne".encode("cp1252") * 9, "x.txt", "text/plain"),
        ("Grüße".encode("utf-16"), "x.txt", "text/plain"),
        ("это текст на русском".encode("koi8-r"), "x.txt", "text/plain"),
        ("€".encode() * 3000, "x.txt", "text/plain"),
        (b"", "x.pdf", "text/plain"),
        (b"ID3\x03\x00", "x.mp3", "audio/mpeg"),
        (b"\x1f\x8b\x08\x00", "x.gz", "application/gzip"),
    ],
)  # fmt: skip
def test_the_bytes_decide_between_binary_formats_and_the_name_between_texts(head, name, expected):
    assert detect_media_type(head[:8192], name) == expected


def test_a_head_cut_inside_a_character_is_still_text():
    head = ("x" * 8190 + "€€").encode()[:8192]
    assert detect_media_type(head, "x.txt") == "text/plain"


def test_every_parsed_media_type_has_a_parser_module():
    from importlib import import_module

    for media_type in ROUTES:
        route = route_for(media_type)
        assert callable(import_module(f"pipelines.parsing.formats.{route.module}").parse)


@pytest.mark.parametrize(
    ("media_type", "advice"),
    [
        ("image/png", "optical recognition"),
        ("audio/mpeg", "transcribed"),
        ("application/zip", "unpack"),
        ("application/onenote", "save it as"),
        ("application/octet-stream", "neither text nor"),
        ("application/x-unheard-of", "no parser"),
    ],
)
def test_a_refusal_says_why_and_what_to_do(media_type, advice):
    assert route_for(media_type) is None
    assert advice in explain(media_type)
