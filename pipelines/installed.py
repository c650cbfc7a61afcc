"""Which versions of the packages are installed that fingerprints depend on."""

from __future__ import annotations

from functools import cache


@cache
def version_of(package: str) -> str:
    """The version of an installed package, as `importlib.metadata.version` gives it, looked up once a process.

    That parses a package's whole description, of thousands of lines, as a mail: of 17 packages 8% of a small update.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    from email.parser import HeaderParser  # with the next line 15 ms that parse workers need not spend
    from importlib.metadata import distribution

    found = distribution(package)
    described = found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
    headers = HeaderParser().parsestr(described.partition("\n\n")[0])
    return headers["Version"] or found.version
