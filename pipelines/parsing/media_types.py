"""The media type of a document from its first bytes and its name.

What the bytes prove wins over the name; the name decides between text formats, which bytes cannot tell apart.
Signatures are in `signatures`; what is done with a type is in `routes`.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pipelines.parsing.decoding import decode, looks_like_text
from pipelines.parsing.signatures import ZIP_MEMBERS, binary_signature

RECORD = "application/vnd.lockstep.record+json"
BINARY = "application/octet-stream"
OLE = "application/x-ole-storage"
ZIP = "application/zip"
_OOXML = "application/vnd.openxmlformats-officedocument."
_ODF = "application/vnd.oasis.opendocument."

DOCX, PPTX, XLSX = (
    _OOXML + "wordprocessingml.document",
    _OOXML + "presentationml.presentation",
    _OOXML + "spreadsheetml.sheet",
)
_XLSB = "application/vnd.ms-excel.sheet.binary.macroenabled.12"

# Extension to type, by what the bytes must be for the name to count.
_ZIPPED = {
    **dict.fromkeys(("docx", "docm", "dotx", "dotm"), DOCX),
    **dict.fromkeys(("pptx", "pptm", "ppsx", "ppsm", "potx", "potm"), PPTX),
    **dict.fromkeys(("xlsx", "xlsm", "xltx", "xltm"), XLSX),
    "xlsb": _XLSB,
    **dict.fromkeys(("vsdx", "vsdm", "vstx", "vstm"), "application/vnd.ms-visio.drawing"),
    "odt": _ODF + "text",
    "ott": _ODF + "text-template",
    "ods": _ODF + "spreadsheet",
    "ots": _ODF + "spreadsheet-template",
    "odp": _ODF + "presentation",
    "otp": _ODF + "presentation-template",
    "odg": _ODF + "graphics",
    "epub": "application/epub+zip",
    "pages": "application/vnd.apple.pages",
    "numbers": "application/vnd.apple.numbers",
    "key": "application/vnd.apple.keynote",
    "jar": "application/java-archive",
    "apk": "application/vnd.android.package-archive",
    "kmz": "application/vnd.google-earth.kmz",
}
_STORAGE = {
    **dict.fromkeys(("doc", "dot"), "application/msword"),
    **dict.fromkeys(("xls", "xlt"), "application/vnd.ms-excel"),
    **dict.fromkeys(("ppt", "pps", "pot"), "application/vnd.ms-powerpoint"),
    "msg": "application/vnd.ms-outlook",
}
_TEXT = {
    **dict.fromkeys(("txt", "text", "log", "nfo"), "text/plain"),
    **dict.fromkeys(("md", "markdown", "mdown", "mkd", "mdx", "qmd", "djot"), "text/markdown"),
    **dict.fromkeys(("html", "htm", "html5", "shtml"), "text/html"),
    **dict.fromkeys(("xhtml", "xht"), "application/xhtml+xml"),
    "csv": "text/csv",
    **dict.fromkeys(("tsv", "tab"), "text/tab-separated-values"),
    **dict.fromkeys(("eml", "mht", "mhtml"), "message/rfc822"),
    "mbox": "application/mbox",
    **dict.fromkeys(("json", "geojson", "webmanifest"), "application/json"),
    **dict.fromkeys(("ndjson", "jsonl"), "application/x-ndjson"),
    "ipynb": "application/x-ipynb+json",
    "rst": "text/x-rst",
    "org": "text/org",
    **dict.fromkeys(("adoc", "asciidoc", "asc"), "text/asciidoc"),
    **dict.fromkeys(("mediawiki", "wiki"), "text/x-mediawiki"),
    "typ": "text/x-typst",
    **dict.fromkeys(("tex", "latex", "ltx"), "application/x-tex"),
    "rtf": "application/rtf",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
    **dict.fromkeys(("ics", "vcs", "ifb"), "text/calendar"),
    "vcf": "text/vcard",
    **dict.fromkeys(
        ("xml", "xsd", "xsl", "xslt", "rdf", "nxml", "jats", "dita", "ditamap", "xfdf", "ttml", "dbk", "tei"),
        "application/xml",
    ),
    "svg": "image/svg+xml",
    "fb2": "application/x-fictionbook+xml",
    "opml": "text/x-opml",
    "atom": "application/atom+xml",
    "rss": "application/rss+xml",
    "kml": "application/vnd.google-earth.kml+xml",
}
# Source code and configuration: the subtype is the language that a code element names.
_CODE = {
    "python": "py pyi",
    "javascript": "js mjs cjs jsx",
    "typescript": "ts tsx",
    "java": "java",
    "c": "c h",
    "cpp": "cpp cc cxx hpp hh",
    "csharp": "cs",
    "go": "go",
    "rust": "rs",
    "ruby": "rb",
    "php": "php",
    "swift": "swift",
    "kotlin": "kt kts",
    "scala": "scala",
    "perl": "pl pm",
    "r": "r",
    "julia": "jl",
    "lua": "lua",
    "sql": "sql",
    "shell": "sh bash zsh fish",
    "powershell": "ps1",
    "batch": "bat cmd",
    "css": "css",
    "scss": "scss less sass",
    "yaml": "yaml yml",
    "toml": "toml",
    "ini": "ini cfg conf",
    "properties": "properties",
    "dockerfile": "dockerfile",
    "makefile": "mk makefile",
    "terraform": "tf hcl",
    "proto": "proto",
    "graphql": "graphql gql",
    "matlab": "m",
    "tex-style": "cls sty bst",
    "bibtex": "bib",
    "diff": "diff patch",
    "groovy": "groovy gradle",
    "haskell": "hs",
    "elixir": "ex exs",
    "erlang": "erl",
    "clojure": "clj",
    "dart": "dart",
    "vue": "vue",
    "assembly": "s asm",
}
_CODE_PREFIX = "text/x-code-"
_TEXT |= {ext: _CODE_PREFIX + language for language, exts in _CODE.items() for ext in exts.split()}
# Binary formats without a reliable signature: the name says what the refusal names.
_OPAQUE = {
    "one": "application/onenote",
    "wps": "application/vnd.ms-works",
    "wks": "application/vnd.ms-works",
    "wk1": "application/vnd.lotus-1-2-3",
    "wq1": "application/x-quattro-pro",
    "wq2": "application/x-quattro-pro",
    "wpd": "application/wordperfect",
    "hwp": "application/x-hwp",
    "dgn": "image/vnd.dgn",
    "prt": "image/x-cad",
    **dict.fromkeys(("sldasm", "sldprt", "slddrw"), "image/x-solidworks"),
    "stl": "model/stl",
    "dta": "application/x-stata",
    **dict.fromkeys(("sdw", "sdc", "sdd"), "application/x-staroffice"),
    "shw": "application/x-corel-presentations",
    "p7m": "application/pkcs7-mime",
    "p7s": "application/pkcs7-signature",
    "tsd": "application/timestamped-data",
    **dict.fromkeys(("der", "cer", "crt", "p12", "pfx"), "application/pkix-cert"),
    "z": "application/zlib",
    "zlib": "application/zlib",
    "zlib9": "application/zlib",
    "pack": "application/x-java-pack200",
    "lzma": "application/x-lzma",
    "ac3": "audio/ac3",
    "aac": "audio/aac",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "ebc": "text/x-ebcdic",
    "db": "application/x-berkeley-db",
}

_MAIL_HEADER = re.compile(
    r"^(from|to|cc|bcc|subject|date|received|return-path|message-id|mime-version|content-type|delivered-to|reply-to|sender|x-[\w-]+):",
    re.I | re.M,
)
_HTML_START = re.compile(r"^\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)\b", re.I | re.S)
_XML_ROOT = re.compile(r"<([A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)[\s/>]")


def detect_media_type(head: bytes, name: str) -> str:
    """The media type of a document.

    Args:
        head: its first bytes; 8 KiB are enough. Fewer are fine when the document is shorter.
        name: file name or path; only the last dot's extension is used. May be empty.
    """
    extension = PurePosixPath(name).suffix.lstrip(".").lower() or PurePosixPath(name).name.lower()
    if extension in ("lockstep-record",):
        return RECORD
    if not head:
        return _TEXT.get(extension) or _ZIPPED.get(extension) or _STORAGE.get(extension) or "text/plain"
    found = binary_signature(head)
    if found == ZIP:
        return _zip_type(head, extension)
    if found == OLE:
        return _STORAGE.get(extension) or _OPAQUE.get(extension) or OLE
    if found == "application/x-plist" and extension == "webarchive":
        return "application/x-webarchive"
    if found is not None:
        return found
    if extension not in ("zlib", "zlib9") and looks_like_text(head):
        return _text_type(head, extension)
    return _OPAQUE.get(extension, BINARY)


def code_language(media_type: str) -> str | None:
    """The language that a media type of source code names; None for all other types."""
    return media_type.removeprefix(_CODE_PREFIX) if media_type.startswith(_CODE_PREFIX) else None


def _zip_type(head: bytes, extension: str) -> str:
    # OpenDocument and EPUB store their type as the first member, uncompressed.
    if head[30:38] == b"mimetype":
        size = int.from_bytes(head[22:26], "little") or 64
        declared = head[38 : 38 + min(size, 120)].split(b"PK")[0].decode("ascii", "replace").strip()
        if re.fullmatch(r"[\w.+-]+/[\w.+-]+", declared):
            return declared
    for member, media_type in ZIP_MEMBERS:
        if member in head:
            general = media_type in ("application/java-archive", "application/vnd.apple.iwork")
            return _ZIPPED.get(extension, media_type) if general else media_type
    return _ZIPPED.get(extension, ZIP)


def _text_type(head: bytes, extension: str) -> str:
    named = _TEXT.get(extension)
    text = decode(head)[:8192].lstrip("\ufeff \t\r\n")
    if text.startswith("{\\rtf"):
        return "application/rtf"
    if text.startswith("%PDF-"):
        return "application/pdf"
    if named is not None and named != "text/plain":
        return named
    if text.startswith("From ") and _MAIL_HEADER.search(text):
        return "application/mbox"
    if _HTML_START.match(text) and named is None:
        return "text/html"
    if text.startswith("<?xml") and named is None:
        body = re.sub(r"<[?!].*?>", "", text, flags=re.S)
        root = _XML_ROOT.search(body)
        return "application/xhtml+xml" if root and root.group(2) == "html" else "application/xml"
    if named is None and _is_mail(text):
        return "message/rfc822"
    if named is None and text.startswith("solid ") and extension == "stl":
        return "model/stl"
    return "text/plain"


def _is_mail(text: str) -> bool:
    """Whether the text begins with a block of headers, at least three of them known ones."""
    block = text.split("\n\n", 1)[0].split("\r\n\r\n", 1)[0]
    lines = [line for line in block.splitlines() if line and not line[0].isspace()]
    known = sum(1 for line in lines if _MAIL_HEADER.match(line))
    return known >= 3 and known * 2 >= len(lines)
