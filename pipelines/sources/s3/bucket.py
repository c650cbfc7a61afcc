"""The source `s3`: the objects of a bucket, or of what lies below a prefix of it. `s3_notifications` is its stream.

A listing names each object with its ETag, so that only what changed is read. A GET's content and ETag belong to one
version of the object, whatever is written meanwhile; so nothing is read under a condition, and what is newest counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.errors import SourceError
from pipelines.sources.addresses.uris import decode_uri, encode_key
from pipelines.sources.aws import Far, error_code, error_status, is_denied, make_client
from pipelines.sources.base import Check, Fetched, FetchFailure, Hint, Listing, Problem, Progress, Stream
from pipelines.sources.parallel import Room, side_by_side
from pipelines.sources.s3.pages import Pages, etag_of, too_large, version_label
from pipelines.sources.s3.quick import quicken
from pipelines.sources.s3.section import S3Source
from pipelines.sources.s3.signed import SignedReads

if TYPE_CHECKING:
    from pipelines.sources.surroundings import AwsClient, Surroundings

PAGE_KEYS = 1_000  # of one request, by S3
_LOOKS_AT_ONCE = 8
_ATTEMPTS = 3  # at a body that breaks off; botocore retries the request itself
_PIECE_BYTES = 1024 * 1024
_KEPT = {
    "author": "author", "title": "title", "created": "created", "modified": "modified", "version": "version_label",
    "version-label": "version_label", "version_label": "version_label", "language": "language",
}  # fmt: skip
# Said of anything by tools that do not know better; the bytes and the name tell more.
_VAGUE = frozenset(
    {"binary/octet-stream", "application/octet-stream", "text/plain", "application/x-www-form-urlencoded"}
)


class Bucket:
    """A bucket as a source. `client`: gives boto3 clients; tests and the Dagster resource put theirs there."""

    def __init__(self, section: S3Source, client: AwsClient | None = None) -> None:
        self._section = section
        self._make = client or make_client
        self._client: Any = None
        self._signed: SignedReads | None = None
        self._selects = section.selection()
        self._far = Far(section.name, f"the bucket {section.bucket!r}")

    def list(self, *, progress: Progress | None = None) -> Listing:
        """Every selected object with size, ETag and time; zero-byte keys that end with a slash are folder markers.

        Raises:
            SourceForbidden: these credentials may not list it.
            RateLimited: S3 asks to slow down.
            SourceError: the bucket is missing, or the listing broke off.
        """
        found = Pages(self._section, self._selects, progress)
        for page in self._pages(self._section.prefix):
            found.add(page)
        return found.listing()

    def look(self, hints: Sequence[Hint]) -> Listing:
        """The hinted objects, by a HEAD each; what lies below a hinted folder by listing that.

        Raises:
            SourceError: as `list`.
        """
        if any(hint.subtree and not hint.uri for hint in hints):
            return self.list()
        found = Pages(self._section, self._selects)
        folders = sorted({hint.uri.rstrip("/") + "/" for hint in hints if hint.subtree})
        outer = [f for f in folders if not any(f != other and f.startswith(other) for other in folders)]
        for folder in outer:
            key = decode_uri(folder).decode("utf-8", "replace")
            for page in self._pages(self._section.prefix + key):
                found.add(page)
        exact = sorted({hint.uri for hint in hints if not hint.uri.startswith(tuple(outer))})
        self._look_at(exact, found)
        return found.listing()

    def fetch(self, uris: Iterable[str]) -> Iterator[Fetched | FetchFailure]:
        """The content of each object, `fetches_at_once` at a time, in the order in which they come.

        Raises:
            SourceError: not this object, but the source cannot be read.
        """
        with self._far.doing("read objects", "s3:GetObject"):
            self._signed = SignedReads(self._s3(), self._section.bucket)  # once, before several threads ask for it
        at_once = self._section.fetches_at_once
        yield from side_by_side(uris, self._fetch, at_once=at_once, name=f"s3-fetch {self._section.name}")

    def check(self) -> Iterator[Check]:
        """Whether the bucket can be listed and read, and the queue received from and deleted from."""
        first: Mapping[str, Any] | None = None
        try:
            for page in self._pages(self._section.prefix, at_most=100):
                first = next((one for one in page if one["Size"] and self._selects.selects(self._uri(one))), None)
                break
        except SourceError as error:
            yield Check("list", ok=False, message=str(error))
        else:
            where = f"bucket {self._section.bucket!r}" + (
                f" below {self._section.prefix!r}" * bool(self._section.prefix)
            )
            some = "" if first else "; it shows no document so far: check `prefix`, `include` and `exclude`"
            yield Check("list", ok=True, message=f"{where} can be listed{some}")
            if first:
                yield self._check_read(first)
        if self._section.queue_url:
            from pipelines.sources.s3.notifications import Notifications

            yield from Notifications(self._section, self._make).check()

    def _check_read(self, first: Mapping[str, Any]) -> Check:
        try:
            with self._far.doing(f"read {first['Key']!r}", "s3:GetObject"):
                answer = self._s3().get_object(Bucket=self._section.bucket, Key=first["Key"], Range="bytes=0-0")
                answer["Body"].close()
        except SourceError as error:
            return Check("read", ok=False, message=str(error))
        return Check("read", ok=True, message=f"{self._uri(first)} can be read")

    def _uri(self, found: Mapping[str, Any]) -> str:
        return encode_key(str(found["Key"]).removeprefix(self._section.prefix))

    def _s3(self) -> Any:
        if self._client is None:
            self._client = quicken(self._make("s3", self._section.settings()))
        return self._client

    def _pages(self, prefix: str, *, at_most: int | None = None) -> Iterator[Sequence[Mapping[str, Any]]]:
        section = self._section
        permission = "s3:ListBucketVersions" if section.versions else "s3:ListBucket"
        with self._far.doing("list the objects", permission):
            client = self._s3()
            call = client.list_object_versions if section.versions else client.list_objects_v2
        going: dict[str, str] = {}
        while True:
            with self._far.doing("list the objects", permission):
                page = call(Bucket=section.bucket, Prefix=prefix, MaxKeys=at_most or PAGE_KEYS, **going)
            yield (
                [one for one in page.get("Versions", ()) if one["IsLatest"]]
                if section.versions
                else page.get("Contents", ())
            )
            if not page.get("IsTruncated"):
                return
            before = going
            if section.versions:
                marks = (("KeyMarker", "NextKeyMarker"), ("VersionIdMarker", "NextVersionIdMarker"))
                going = {name: page[told] for name, told in marks if page.get(told)}
            else:
                going = {"ContinuationToken": page.get("NextContinuationToken", "")}
            if going == before or not any(going.values()):
                raise SourceError(
                    f"source {section.name!r}: the listing of bucket {section.bucket!r} says that there is more, and "
                    "not where it goes on; nothing was changed, the next run tries again"
                )

    def _look_at(self, uris: Sequence[str], found: Pages) -> None:
        from botocore.exceptions import ClientError

        keys = [(uri, key) for uri in uris if (key := self._section.key_of(uri)) is not None]
        keys = [(uri, key) for uri, key in keys if self._selects.selects(uri)]
        if not keys:
            return
        doubtful = False
        with self._far.doing("look at objects", "s3:GetObject"):
            client = self._s3()

            def head(key: str) -> Mapping[str, Any] | ClientError:
                try:
                    answer: Mapping[str, Any] = client.head_object(Bucket=self._section.bucket, Key=key)
                except ClientError as error:
                    if error_status(error) not in (403, 404):
                        raise
                    return error
                return {**answer, "Key": key, "Size": answer["ContentLength"]}

            with ThreadPoolExecutor(min(_LOOKS_AT_ONCE, len(keys)), "s3-look") as pool:
                for (uri, key), answer in zip(keys, pool.map(head, [key for _, key in keys]), strict=True):
                    if not isinstance(answer, ClientError):
                        if not self._section.versions:
                            answer = {name: value for name, value in answer.items() if name != "VersionId"}
                        found.add([answer])
                        continue
                    doubtful = True
                    if error_status(answer) == 403:
                        found.problem(Problem(uri, "Forbidden", self._forbidden(uri, key)))
        if doubtful:  # an answer to HEAD does not say whether the object is missing or the bucket
            for _ in self._pages(self._section.prefix, at_most=1):
                break

    def _forbidden(self, uri: str, key: str) -> str:
        return (
            f"{uri} may not be read with these credentials; allow s3:GetObject for {key!r} in bucket "
            f"{self._section.bucket!r} (and kms:Decrypt where it is encrypted), or name it in `exclude`"
        )

    def _fetch(self, uri: str, room: Room) -> tuple[Fetched | FetchFailure, int]:
        """The answer, and the bytes of room that it still holds."""
        key = self._section.key_of(uri)
        if key is None:
            text = f"no object of {self._far.what} can have the uri {uri}"
            return FetchFailure(uri, "Gone", text, transient=True), 0
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._fetch_once(uri, key, room)
            except _BrokeOff as error:
                if attempt == _ATTEMPTS:
                    text = f"{uri} broke off while it was read, {_ATTEMPTS} times in a row ({error}); the next update"
                    return FetchFailure(uri, "BrokeOff", text + " reads it again", transient=True), 0
        raise AssertionError

    def _fetch_once(self, uri: str, key: str, room: Room) -> tuple[Fetched | FetchFailure, int]:
        from botocore.exceptions import ClientError

        with self._far.doing(f"read {key!r}", "s3:GetObject"):
            try:
                client, signed = self._s3(), self._signed
                answer = signed.get(key) if signed else None
                if answer is None:
                    answer = client.get_object(Bucket=self._section.bucket, Key=key)
            except ClientError as error:
                failure = self._failure(uri, key, error)
                if failure is None:
                    raise
                return failure, 0
        length = answer["ContentLength"]
        if length > self._section.max_bytes:
            answer["Body"].close()
            return FetchFailure(uri, "TooLarge", too_large(uri, length, self._section.max_bytes), transient=False), 0
        room.take(length)
        try:
            content = _read(answer["Body"], length)
        except _BrokeOff:
            room.give_back(length)
            raise
        label = version_label(answer)
        etags = pa.array([answer.get("ETag") or None], pa.string())
        versions = pa.array([label if self._section.versions else None], pa.string())
        found = Fetched(
            uri,
            content,
            len(content),
            etag=etag_of(etags, versions)[0].as_py(),
            modified_at=answer["LastModified"],
            media_type=_media_type(answer.get("ContentType")),
            metadata=_metadata(answer.get("Metadata") or {}, label),
        )
        return found, length

    def _failure(self, uri: str, key: str, error: Any) -> FetchFailure | None:
        """What to tell about one object; None where the error is about more than that."""
        code = error_code(error)
        if code in ("NoSuchKey", "404", "MethodNotAllowed"):  # the last one: a delete marker
            text = f"{uri} is gone since it was listed; the next update sees what became of it"
            return FetchFailure(uri, "Gone", text, transient=True)
        if code == "InvalidObjectState":
            text = f"{uri} lies in an archive and cannot be read at once; restore it, or name it in `exclude`"
            return FetchFailure(uri, "Archived", text, transient=False)
        if is_denied(error):
            return FetchFailure(uri, "Forbidden", self._forbidden(uri, key), transient=False)
        return None


class _BrokeOff(Exception):
    """A body ended before its announced length."""


def _read(body: Any, length: int) -> bytes:
    """The whole body.

    Raises:
        _BrokeOff: it ended before its length.
    """
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    try:
        content = b"".join(iter(lambda: body.read(_PIECE_BYTES), b""))
    except (BotoCoreError, HTTPError, OSError) as error:
        raise _BrokeOff(f"{type(error).__name__}: {error}") from error
    finally:
        body.close()
    if len(content) != length:
        raise _BrokeOff(f"{len(content):,} of {length:,} bytes")
    return content


def _media_type(announced: str | None) -> str | None:
    """What the object was labelled with, where that says anything."""
    plain = (announced or "").partition(";")[0].strip().lower()
    return None if "/" not in plain or plain in _VAGUE else plain


def _metadata(given: Mapping[str, str], version: str | None) -> dict[str, object]:
    """The object's own metadata (x-amz-meta-author, -title, -created, ...) as far as it is known here."""
    found: dict[str, object] = {"version_label": version} if version else {}
    for name, value in given.items():
        known = _KEPT.get(name.lower())
        text = _decoded(value).strip()
        if known and text:
            found[known] = text
    return found


def _decoded(value: str) -> str:
    """S3 gives what is not ASCII as an encoded mail header."""
    if "=?" not in value:
        return value
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, UnicodeError):
        return value


def open_bucket(section: S3Source, around: Surroundings) -> Bucket:
    """The source that the section describes."""
    return Bucket(section, around.aws_client)


def open_notifications(section: S3Source, around: Surroundings) -> Stream | None:
    """The queue of the bucket's notifications, None where the section names none."""
    if not section.queue_url:
        return None
    from pipelines.sources.s3.notifications import Notifications

    return Notifications(section, around.aws_client)
