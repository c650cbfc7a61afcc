"""Reading what an event points to: over HTTP, from S3 or from a folder, never more than the source allows.

`pointers` decides which addresses may be read; every redirect is asked there again. What may pass is tried again with
growing, random waits; what cannot pass is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from pipelines.errors import RateLimited, SourceError
from pipelines.sources.announced.pointers import Address, PointerRefused, allowed_url, file_path, parse_address
from pipelines.sources.base import FetchFailure

if TYPE_CHECKING:
    import httpx

    from pipelines.sources.announced.announcements import AnnouncedSection
    from pipelines.sources.surroundings import AwsClient

_ATTEMPTS = 4
_LONGEST_WAIT_SECONDS = 10.0  # a longer `Retry-After` is kept by leaving the whole source alone for that long
_SILENCE_SECONDS = 30.0
_PIECE_BYTES = 1 << 20
_MOST_REDIRECTS = 5
_BACKOFF = wait_random_exponential(multiplier=0.5, max=5)


class _Failed(Exception):
    """This document cannot be had; reading again now does not help. `transient`: later it may."""

    def __init__(self, error_class: str, reason: str, *, transient: bool = False) -> None:
        super().__init__(reason)
        self.error_class = error_class
        self.transient = transient


class _Passing(Exception):
    """No good answer, and the next one may be. `after`: seconds that the other side asks for."""

    def __init__(self, reason: str, *, limited: bool = False, after: float | None = None) -> None:
        super().__init__(reason)
        self.limited = limited
        self.after = after


class PointerReader:
    """Reads pointers of one source, several at a time. Opens nothing before the first one; a context manager.

    Args:
        section: what may be read, and how much.
        aws_client: gives a boto3 client, as in `Surroundings`.
        sleep: replaced in tests.
        transport: of httpx, replaced in tests.
    """

    def __init__(
        self,
        section: AnnouncedSection,
        aws_client: AwsClient | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._section = section
        self._aws_client = aws_client
        self._transport = transport
        self._opening = threading.Lock()
        self._http: httpx.Client | None = None
        self._s3: Any = None
        self._retrying = Retrying(
            stop=_stop,
            wait=_wait,
            retry=retry_if_exception_type(_Passing),
            sleep=sleep,
            reraise=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._http is not None:
            self._http.close()

    def read(self, uri: str, pointer: str) -> bytes | FetchFailure:
        """The bytes that the pointer of a document names, checked against its hash and size.

        Args:
            uri: the document.
            pointer: JSON object with `url` and perhaps `sha256` and `size`, as an event has it.

        Raises:
            RateLimited: the other side asks to be left alone for longer than is worth waiting here.
            SourceForbidden: there are no credentials for S3, or they are not accepted at all.
        """
        wanted = json.loads(pointer)
        try:
            address = parse_address(allowed_url(wanted["url"], self._section.pointer_roots))
            content: bytes = self._retrying(self._attempt, address)
            _verify(content, wanted)
        except PointerRefused as error:
            return FetchFailure(uri, "PointerRefused", f"{uri}: {error}", transient=False)
        except _Failed as error:
            text = f"{uri}: reading {_named(wanted['url'])}: {error}"
            return FetchFailure(uri, error.error_class, text, transient=error.transient)
        except _Passing as error:
            text = f"reading {_named(wanted['url'])}: {error}"
            if error.limited or error.after is not None:
                text = f"source {self._section.name!r}: {text}; it is left alone for that long"
                raise RateLimited(text, retry_after_seconds=error.after) from error
            return FetchFailure(uri, "Unreachable", f"{uri}: {text}; the next update tries again", transient=True)
        return content

    def _attempt(self, address: Address) -> bytes:
        if address.scheme == "file":
            return self._read_file(address)
        if address.scheme == "s3":
            return self._read_s3(address)
        return self._read_http(address)

    def _gathered(self, pieces: Iterable[bytes]) -> bytes:
        """All pieces, as long as they are together within the limit."""
        content = bytearray()
        for piece in pieces:
            content += piece
            self._within(len(content))
        return bytes(content)

    def _within(self, size_bytes: int) -> None:
        if size_bytes > self._section.max_bytes:
            text = f"it is larger than `max_bytes` of its source allows ({self._section.max_bytes:,} bytes)"
            raise _Failed("TooLarge", f"{text}; raise that, or have the producer leave the document out")

    def _read_http(self, address: Address) -> bytes:
        import httpx

        with self._opening:
            if self._http is None:
                self._http = httpx.Client(
                    transport=self._transport, timeout=_SILENCE_SECONDS, headers={"Accept-Encoding": "identity"}
                )
        url = address.url
        try:
            for _ in range(_MOST_REDIRECTS):
                with self._http.stream("GET", url, follow_redirects=False) as answer:
                    if answer.has_redirect_location:
                        url = self._redirected(str(answer.url.join(answer.headers["Location"])))
                        continue
                    _expect_success(answer)
                    return self._gathered(answer.iter_bytes(_PIECE_BYTES))
        except httpx.TransportError as error:
            raise _Passing(f"no complete answer ({type(error).__name__}: {error})") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _Failed("BadAnswer", f"{type(error).__name__}: {error}") from error
        raise _Failed("TooManyRedirects", f"more than {_MOST_REDIRECTS} redirects, one after the other")

    def _redirected(self, url: str) -> str:
        roots = [root for root in self._section.pointer_roots if root.startswith("http")]
        try:
            return allowed_url(url, roots)
        except PointerRefused as error:
            raise _Failed("PointerRefused", f"it is redirected, and {error}") from None

    def _read_s3(self, address: Address) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        from pipelines.sources.aws import Far, error_code, error_status, is_denied, make_client

        far = Far(self._section.name, f"bucket {address.place!r}")
        with self._opening:
            if self._s3 is None:
                with far.doing("open a client", "s3:GetObject"):
                    self._s3 = (self._aws_client or make_client)("s3", {})
        try:
            answer = self._s3.get_object(Bucket=address.place, Key=address.path[1:])
            with answer["Body"] as body:
                self._within(int(answer.get("ContentLength") or 0))
                return self._gathered(iter(lambda: body.read(_PIECE_BYTES), b""))
        except ClientError as error:
            if error_status(error) == 404 or error_code(error) in ("NoSuchKey", "NoSuchBucket"):
                raise _Failed("NotFound", "it is not there; send the event again once it is") from error
            if is_denied(error):
                raise _Failed("Forbidden", "these credentials may not read it; allow s3:GetObject there") from error
            explained = far.explained(error, "read an object", "s3:GetObject")
            if isinstance(explained, RateLimited):
                raise _Passing(str(explained), limited=True, after=explained.retry_after_seconds) from error
            if error_status(error) >= 500:
                raise _Passing(str(explained)) from error
            raise explained from error
        except (BotoCoreError, HTTPClientError) as error:
            explained = far.explained(error, "read an object", "s3:GetObject")
            if type(explained) is SourceError:
                raise _Passing(str(explained)) from error
            raise explained from error

    def _read_file(self, address: Address) -> bytes:
        path = file_path(address)
        try:
            with os.fdopen(_open_below(path, self._root_of(address)), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise _Failed("SpecialFile", "it is no ordinary file")
                self._within(found.st_size)
                return self._gathered(iter(lambda: file.read(_PIECE_BYTES), b""))
        except FileNotFoundError as error:
            raise _Failed("NotFound", "it is not there; send the event again once it is") from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            text = f"{reason} (links are not followed); allow reading it, or put the file itself there"
            raise _Failed("Unreadable", text) from error

    def _root_of(self, address: Address) -> str:
        roots = (parse_address(root) for root in self._section.pointer_roots if root.startswith("file://"))
        return next(file_path(root) for root in roots if address.path.startswith(root.path))


def _open_below(path: str, root: str) -> int:
    """Open folder by folder from the root on, following no link. The root itself is the operator's word."""
    *folders, name = path[len(root) :].split("/")
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = inner
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)


def _expect_success(answer: httpx.Response) -> None:
    status = answer.status_code
    if status == 200:
        encoding = answer.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("", "identity"):
            raise _Failed("BadAnswer", f"it comes as {encoding}, and only its plain bytes can be compared and limited")
        return
    said = f"the answer is {status} {answer.reason_phrase}".rstrip()
    after = retry_after_seconds(answer.headers.get("Retry-After"))
    if status == 429:
        raise _Passing(said, limited=True, after=after)
    if status == 408 or status >= 500:
        raise _Passing(said, after=after)
    if status in (401, 403):
        raise _Failed("Forbidden", f"{said}; let this machine read it, or send the content in the event")
    if status in (404, 410):
        raise _Failed("NotFound", f"{said}; send the event again once it is there")
    raise _Failed("BadAnswer", f"{said}, and 200 is expected")


def retry_after_seconds(value: str | None, now: datetime | None = None) -> float | None:
    """What a `Retry-After` header asks for, as seconds or as a date; None for none or one that says nothing."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    with suppress(ValueError, TypeError, OverflowError):
        when = parsedate_to_datetime(text)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
    return None


def _asked(state: RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome else None
    return error.after if isinstance(error, _Passing) else None


def _stop(state: RetryCallState) -> bool:
    return stop_after_attempt(_ATTEMPTS)(state) or (_asked(state) or 0.0) > _LONGEST_WAIT_SECONDS


def _wait(state: RetryCallState) -> float:
    return max(_asked(state) or 0.0, 0.0) + _BACKOFF(state)


def _verify(content: bytes, wanted: dict[str, Any]) -> None:
    if "size" in wanted and len(content) != wanted["size"]:
        text = f"it has {len(content):,} bytes, and the event says {wanted['size']:,}"
        raise _Failed("OtherContent", f"{text}; what lies there is of another version: send its event", transient=True)
    if "sha256" in wanted and hashlib.sha256(content).hexdigest() != wanted["sha256"]:
        text = "its SHA-256 is not the one that the event says"
        raise _Failed("OtherContent", f"{text}; what lies there is of another version: send its event", transient=True)


def _named(url: str) -> str:
    """Without the query, where signatures are."""
    return url.partition("?")[0]
