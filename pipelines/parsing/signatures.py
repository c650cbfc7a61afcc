"""Byte signatures of binary formats, most specific first. Data only; the decision is `media_types`'s."""

from __future__ import annotations

# (offset, bytes, media type)
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"PK\x05\x06", "application/zip"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (0, b"\x09\x00\x04\x00", "application/vnd.ms-excel-old"),
    (0, b"\x09\x02\x06\x00", "application/vnd.ms-excel-old"),
    (0, b"\x09\x04\x06\x00", "application/vnd.ms-excel-old"),
    (0, b"\xcb\x0a\x01", "application/wordperfect"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (0, b"8BPS", "image/vnd.adobe.photoshop"),
    (0, b"\x00\x00\x00\x0cJXL ", "image/jxl"),
    (0, b"\xff\x0a", "image/jxl"),
    (0, b"\x00\x00\x01\x00", "image/x-icon"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"BZh", "application/x-bzip2"),
    (0, b"\xfd7zXZ\x00", "application/x-xz"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (0, b"\x28\xb5\x2f\xfd", "application/zstd"),
    (0, b"\x04\x22\x4d\x18", "application/x-lz4"),
    (0, b"Rar!\x1a\x07", "application/vnd.rar"),
    (0, b"!<arch>\n", "application/x-archive"),
    (257, b"ustar", "application/x-tar"),
    (0, b"\x5d\x00\x00", "application/x-lzma"),
    (0, b"\x7fELF", "application/x-executable"),
    (0, b"MZ", "application/x-executable"),
    (0, b"\xcf\xfa\xed\xfe", "application/x-executable"),
    (0, b"\xce\xfa\xed\xfe", "application/x-executable"),
    (0, b"\xfe\xed\xfa", "application/x-executable"),
    (0, b"\xca\xfe\xba\xbe", "application/x-executable"),
    (0, b"\xca\xfe\xd0\x0d", "application/x-java-pack200"),
    (0, b"JAVA PROFILE", "application/x-heap-dump"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"\x0b\x77", "audio/ac3"),
    (0, b"\x1a\x45\xdf\xa3", "video/x-matroska"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video/x-ms-asf"),
    (0, b"SQLite format 3\x00", "application/vnd.sqlite3"),
    (0, b"PAR1", "application/vnd.apache.parquet"),
    (0, b"\x89HDF\r\n\x1a\n", "application/x-hdf5"),
    (4, b"Standard Jet DB", "application/x-msaccess"),
    (4, b"Standard ACE DB", "application/x-msaccess"),
    (0, b"\xffWPC", "application/wordperfect"),
    (0, b"ITSF", "application/vnd.ms-htmlhelp"),
    (0, b"AC10", "image/vnd.dwg"),
    (0, b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d", "application/onenote"),
    (0, b"\x00\x01\x00\x00\x00", "font/ttf"),
    (0, b"OTTO", "font/otf"),
    (0, b"wOFF", "font/woff"),
    (0, b"wOF2", "font/woff2"),
    (0, b"SIMPLE  =", "application/fits"),
    (0, b"HWP Document File", "application/x-hwp"),
    (0, b"ASTM-E57", "model/e57"),
    (0, b"bplist00", "application/x-plist"),
)
_FTYP = {  # brand of an ISO media file
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heic",
    b"avif": "image/avif",
    b"jxl ": "image/jxl",
    b"M4A ": "audio/mp4",
    b"qt  ": "video/quicktime",
}
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}

# A member that tells what a ZIP container is; looked for as bytes in the head, where names are not compressed.
ZIP_MEMBERS: tuple[tuple[bytes, str], ...] = (
    (b"word/document", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    (b"ppt/presentation", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    (b"ppt/slides/", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    (b"xl/workbook.bin", "application/vnd.ms-excel.sheet.binary.macroenabled.12"),
    (b"xl/workbook", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    (b"xl/worksheets/", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    (b"visio/document", "application/vnd.ms-visio.drawing"),
    (b"META-INF/container.xml", "application/epub+zip"),
    (b"Index/Document.iwa", "application/vnd.apple.iwork"),
    (b"AndroidManifest.xml", "application/vnd.android.package-archive"),
    (b"META-INF/MANIFEST.MF", "application/java-archive"),
)


def binary_signature(head: bytes) -> str | None:
    """The binary format whose signature `head` carries; None where there is none."""
    if b"%PDF-" in head[:1024] and not head[:5].isspace():
        return "application/pdf"
    for offset, magic, media_type in _SIGNATURES:
        if head.startswith(magic, offset):
            return media_type
    if head[4:8] == b"ftyp":
        return _FTYP.get(head[8:12], "video/mp4")
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], "application/octet-stream")
    if head[:2] == b"BM" and len(head) > 30 and head[6:10] == b"\x00\x00\x00\x00":
        return "image/bmp"
    if len(head) > 3 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # ADTS
        return "audio/aac"
    if len(head) > 3 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06 and head[2] & 0xF0 != 0xF0:
        return "audio/mpeg" if head[1] not in (0xFE, 0xFF) else None  # FF FE is the mark of UTF-16
    return None
