"""Why a media type is not parsed, in words for the person who put such a file into a source."""

from __future__ import annotations

_OCR = "it is a picture; text in it could only be read by optical recognition, which Lockstep does not do"
_SPEECH = "it is a recording; it would have to be transcribed first"
_ARCHIVE = "it is an archive, not a document; unpack it into the source to index the files inside"
_DATABASE = "it holds tables of data; export the tables as CSV or Parquet and add them as a records source"
_PROGRAM = "it is a program or library, not a document"
_SIGNED = "it is an encrypted or signed envelope or a key; export the document inside it"
_OFFICE = "there is no free parser for this old or closed format; save it as PDF, DOCX or another open format"
_DRAWING = "it is a drawing or a three-dimensional model without a text flow; export it as PDF"

_EXACT = {
    **dict.fromkeys(
        (
            "application/zip",
            "application/gzip",
            "application/x-bzip2",
            "application/x-xz",
            "application/x-7z-compressed",
            "application/zstd",
            "application/x-lz4",
            "application/vnd.rar",
            "application/x-archive",
            "application/x-tar",
            "application/x-lzma",
            "application/zlib",
            "application/vnd.google-earth.kmz",
        ),
        _ARCHIVE,
    ),
    **dict.fromkeys(
        (
            "application/x-executable",
            "application/java-archive",
            "application/vnd.android.package-archive",
            "application/x-java-pack200",
            "application/x-heap-dump",
        ),
        _PROGRAM,
    ),
    **dict.fromkeys(
        (
            "application/vnd.sqlite3",
            "application/x-msaccess",
            "application/x-berkeley-db",
            "application/x-stata",
            "application/vnd.apache.parquet",
            "application/x-hdf5",
        ),
        _DATABASE,
    ),
    **dict.fromkeys(
        (
            "application/pkcs7-mime",
            "application/pkcs7-signature",
            "application/timestamped-data",
            "application/pkix-cert",
        ),
        _SIGNED,
    ),
    **dict.fromkeys(
        (
            "application/onenote",
            "application/vnd.ms-works",
            "application/vnd.lotus-1-2-3",
            "application/x-quattro-pro",
            "application/wordperfect",
            "application/x-hwp",
            "application/x-staroffice",
            "application/x-corel-presentations",
            "application/vnd.ms-htmlhelp",
            "application/vnd.apple.pages",
            "application/vnd.apple.numbers",
            "application/vnd.apple.keynote",
            "application/vnd.apple.iwork",
            "application/vnd.ms-excel-old",
        ),
        _OFFICE,
    ),
    "text/x-ebcdic": "it is in an EBCDIC character set with a record layout of its own; export it as UTF-8 text or CSV",
    "application/x-plist": "it is a binary property list, a program's settings",
    "application/fits": "it is a scientific data file, an image or table of measurements",
    "image/vnd.dwg": _DRAWING,
    "image/vnd.dgn": _DRAWING,
    "image/x-cad": _DRAWING,
    "image/x-solidworks": _DRAWING,
    "application/octet-stream": "its bytes are neither text nor a known document format",
}
_FAMILIES = {"image": _OCR, "audio": _SPEECH, "video": _SPEECH, "font": "it is a font", "model": _DRAWING}


def explain(media_type: str) -> str:
    """Why there is no parser for `media_type`, and what to do instead."""
    return _EXACT.get(media_type) or _FAMILIES.get(media_type.split("/")[0]) or "there is no parser for this format"
