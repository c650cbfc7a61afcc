import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError

from pipelines.config import load_config
from pipelines.errors import ConfigError, RateLimited, SourceError, SourceForbidden
from pipelines.sources.base import Fetched, FetchFailure, Hint
from pipelines.sources.s3.bucket import Bucket
from pipelines.sources.s3.quick import _take_contents
from pipelines.sources.s3.section import S3Source

AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)


def answer(code: str, status: int, **headers: str) -> ClientError:
    told = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError({"Error": {"Code": code, "Message": "said"}, "ResponseMetadata": told}, "Operation")


class Body(io.BytesIO):
    """A body that may end before its length, or break."""

    def __init__(self, content: bytes, error: Exception | None = None) -> None:
        super().__init__(content)
        self._error = error

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        if not found and self._error:
            raise self._error
        return found


class Store:
    """A client of S3 over a dictionary, whose answers can be errors: to an operation, or about one object of it."""

    def __init__(self, **objects: bytes) -> None:
        self.objects: dict[str, bytes] = dict(objects)
        self.types: dict[str, dict] = {}
        self.fail: dict[str, list[Exception | None]] = {}
        self.bodies: list[Body] = []
        self.calls: list[str] = []
        self.page = 2

    def __call__(self, service: str, settings: dict):
        return self

    def list_objects_v2(self, *, Bucket, Prefix, MaxKeys, ContinuationToken=""):  # noqa: N803
        self._called("list")
        keys = sorted(key for key in self.objects if key.startswith(Prefix) and key > ContinuationToken)
        page = keys[: self.page]
        more = len(keys) > len(page)
        contents = [self._described(key) for key in page]
        return {"Contents": contents, "IsTruncated": more, "NextContinuationToken": page[-1] if more else None}

    def head_object(self, *, Bucket, Key):  # noqa: N803
        self._called(f"head {Key}")
        if Key not in self.objects:
            raise answer("404", 404)
        return {"ContentLength": len(self.objects[Key]), **self._described(Key)}

    def get_object(self, *, Bucket, Key, Range=None):  # noqa: N803
        self._called(f"get {Key}")
        if Key not in self.objects:
            raise answer("NoSuchKey", 404)
        content = self.objects[Key]
        body = self.bodies.pop(0) if self.bodies else Body(content)
        told = {"Body": body, "ContentLength": len(content), **self._described(Key)}
        return told | self.types.get(Key, {})

    def _described(self, key: str) -> dict:
        content = self.objects[key]
        return {"Key": key, "Size": len(content), "ETag": f'"{content.hex()[:32] or 0}"', "LastModified": AT}

    def _called(self, what: str) -> None:
        self.calls.append(what)
        waiting = self.fail.get(what) or self.fail.get(what.split()[0])
        error = waiting.pop(0) if waiting else None
        if error is not None:
            raise error


def bucket(store: Store, **options) -> Bucket:
    return Bucket(S3Source(name="docs", kind="s3", bucket="things", **{"max_bytes": 100, **options}), store)


def listed(store: Store, **options) -> list[str]:
    return bucket(store, **options).list().items["uri"].to_pylist()


def test_odd_keys_have_uris_that_patterns_see_and_that_lead_back_to_them():
    keys = ["a//b", "/a", "./a", "../a", "a/../b", "a/.", "100%", "%2F", "line\nbreak", "x//", "é😀", "a b+c"]
    store = Store(**{key: key.encode() for key in keys})
    source = bucket(store)
    listing = source.list()
    found = listing.items["uri"].to_pylist()
    assert [problem.uri for problem in listing.problems] == []
    assert len(set(found)) == len(keys)
    assert "a/%2Fb" in found
    assert "a/%2E%2E/b" in found
    assert {answer.content.decode() for answer in source.fetch(found) if isinstance(answer, Fetched)} == set(keys)
    assert source.look([Hint(uri) for uri in found]).items.num_rows == len(keys)
    assert source.look([Hint("a//b"), Hint("../a"), Hint("%2f"), Hint("%FF"), Hint("")]).items.num_rows == 0


def test_a_key_like_a_folder_that_holds_bytes_is_a_problem_and_a_marker_is_nothing():
    store = Store(**{"full/": b"bytes", "empty/": b"", "a.md": b"one"})
    listing = bucket(store).list()
    assert listing.items["uri"].to_pylist() == ["a.md"]
    assert [(problem.uri, problem.error_class) for problem in listing.problems] == [("full/", "NameOfFolder")]


def test_include_and_exclude_decide_and_hidden_names_are_left_out():
    store = Store(**{f"docs/{name}": b"x" for name in ("a.md", "b.txt", ".git/c.md", "drafts/d.md")}, **{"e.md": b"x"})
    assert listed(store, prefix="docs/") == ["a.md", "b.txt", "drafts/d.md"]
    assert listed(store, prefix="docs/", include=("**/*.md",), exclude=("drafts/**",)) == ["a.md"]


def test_times_are_whole_seconds_wherever_they_come_from():
    source = bucket(Store(**{"a.md": b"one"}))
    times = {source.list().items["modified_at"][0].as_py(), source.look([Hint("a.md")]).items["modified_at"][0].as_py()}
    assert times == {AT.replace(microsecond=0)}


def test_a_listing_that_breaks_off_is_an_error_and_never_the_part_that_was_read():
    store = Store(a=b"1", b=b"2", c=b"3")
    store.fail["list"] = [None, ConnectionClosedError(endpoint_url="x")]
    with pytest.raises(SourceError, match="no answer"):
        bucket(store).list()


def test_a_listing_that_does_not_say_where_it_goes_on_is_an_error():
    store = Store(a=b"1")
    store.list_objects_v2 = lambda **_: {"Contents": [], "IsTruncated": True}
    with pytest.raises(SourceError, match="not where it goes on"):
        bucket(store).list()


@pytest.mark.parametrize(
    ("error", "kind", "advice"),
    [
        (answer("NoSuchBucket", 404), SourceError, "correct its name"),
        (answer("AccessDenied", 403), SourceForbidden, "s3:ListBucket"),
        (answer("ExpiredToken", 400), SourceForbidden, "expired"),
        (answer("RequestTimeTooSkewed", 403), SourceForbidden, "clock"),
        (answer("PermanentRedirect", 301), SourceError, "region"),
        (answer("InternalError", 500), SourceError, "tries again"),
        (EndpointConnectionError(endpoint_url="x"), SourceError, "network"),
    ],
)
def test_what_s3_answers_is_told_with_what_to_do(error, kind, advice):
    for attempt in (lambda source: source.list(), lambda source: source.look([Hint("b", subtree=True)])):
        store = Store()
        store.fail["list"] = [error]
        with pytest.raises(kind, match="docs") as caught:
            attempt(bucket(store))
        assert type(caught.value) is kind
        assert advice in str(caught.value)
    store = Store()
    store.fail["list"] = [error]
    failed = list(bucket(store).check())
    assert [(check.name, check.ok) for check in failed] == [("list", False)]


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (answer("SlowDown", 503), None),
        (answer("ServiceUnavailable", 503, **{"Retry-After": "7"}), 7.0),
        (answer("429", 429, **{"retry-after": "30"}), 30.0),
        (answer("Throttling", 400, **{"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), None),
    ],
)
def test_throttling_says_for_how_long_to_leave_it_alone(error, seconds):
    store = Store()
    store.fail["list"] = [error]
    with pytest.raises(RateLimited) as caught:
        bucket(store).list()
    assert caught.value.retry_after_seconds == seconds


def test_an_object_that_may_not_be_looked_at_is_a_problem_of_its_own():
    store = Store(a=b"1", b=b"2")
    store.fail["head"] = [answer("403", 403)]
    listing = bucket(store).look([Hint("a")])
    assert [(problem.uri, problem.subtree) for problem in listing.problems] == [("a", False)]
    assert "s3:GetObject" in listing.problems[0].message


def test_a_missing_object_in_a_missing_bucket_is_not_told_to_be_gone():
    store = Store(a=b"1")
    store.fail["list"] = [answer("NoSuchBucket", 404)]
    with pytest.raises(SourceError, match="there is none"):
        bucket(store).look([Hint("b")])


def test_a_look_asks_for_nothing_that_the_source_would_not_list():
    store = Store(**{"drafts/a.md": b"1"})
    assert bucket(store, exclude=("drafts/**",)).look([Hint("drafts/a.md"), Hint(".hidden")]).items.num_rows == 0
    assert store.calls == []


def test_a_body_that_breaks_off_is_read_again_and_then_a_failure_that_waiting_may_cure():
    store = Store(a=b"content")
    store.bodies = [Body(b"con"), Body(b"content", None)]
    assert next(bucket(store).fetch(["a"])).content == b"content"
    store.bodies = [Body(b"con"), Body(b"con", OSError("reset")), Body(b"c")]
    failure = next(bucket(store).fetch(["a"]))
    assert isinstance(failure, FetchFailure)
    assert (failure.error_class, failure.transient) == ("BrokeOff", True)


def test_an_object_that_grew_above_the_limit_is_not_read():
    store = Store(a=b"x" * 101)
    unread = Body(b"")
    unread.read = lambda *_: pytest.fail("it was read")
    store.bodies = [unread]
    failure = next(bucket(store).fetch(["a"]))
    assert (failure.error_class, failure.transient) == ("TooLarge", False)


@pytest.mark.parametrize(
    ("error", "error_class", "transient"),
    [
        (answer("AccessDenied", 403), "Forbidden", False),
        (answer("InvalidObjectState", 403), "Archived", False),
        (answer("NoSuchKey", 404), "Gone", True),
    ],
)
def test_what_is_wrong_with_one_object_stops_no_other(error, error_class, transient):
    store = Store(a=b"1", b=b"2")
    store.fail["get a"] = [error]
    failure, good = bucket(store).fetch(["a", "b"])
    assert (failure.error_class, failure.transient) == (error_class, transient)
    assert good.content == b"2"


def test_credentials_that_expire_while_objects_are_read_stop_the_source():
    store = Store(a=b"1", b=b"2")
    store.fail["get b"] = [answer("ExpiredToken", 400)]
    with pytest.raises(SourceForbidden, match="expired"):
        list(bucket(store).fetch(["a", "b"]))  # side by side: `a` may come before, or not


def test_metadata_that_s3_encoded_is_decoded():
    store = Store(a=b"1")
    given = {"author": "=?UTF-8?B?R3LDvMOfZQ==?=", "title": "=?broken", "created": "2026"}
    store.types["a"] = {"Metadata": given, "ContentType": "application/pdf; x=y", "VersionId": "v1"}
    found = next(bucket(store).fetch(["a"]))
    assert found.media_type == "application/pdf"
    assert found.metadata == {"version_label": "v1", "author": "Grüße", "title": "=?broken", "created": "2026"}


def configured(tmp_path: Path, *lines: str) -> str:
    source = ["  - name: docs", "    kind: s3", "    bucket: things", *(f"    {line}" for line in lines)]
    path = tmp_path / "lockstep.yaml"
    path.write_text("\n".join(["index: test", "sources:", *source]))
    return load_config(path).sources[0].prefix


def test_a_prefix_that_would_match_its_neighbours_is_refused(tmp_path):
    assert configured(tmp_path, "prefix: docs/") == "docs/"
    with pytest.raises(ConfigError, match="write 'docs/'"):
        configured(tmp_path, "prefix: docs")
    with pytest.raises(ConfigError, match="queue"):
        configured(tmp_path, "queue_endpoint_url: http://127.0.0.1")
    with pytest.raises(ConfigError, match="unknown key"):
        configured(tmp_path, "aws_secret_access_key: x")


PAGE = b"""<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
<IsTruncated>true</IsTruncated><Contents><Key>a%20b</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>
<ETag>"x"</ETag><Size>3</Size></Contents></ListBucketResult>"""


def test_a_page_is_read_quickly_and_its_rest_is_left_to_botocore():
    told: dict = {}
    response = {"status_code": 200, "body": PAGE}
    _take_contents(response, told)
    assert told["Contents"] == [{"Key": "a%20b", "Size": 3, "ETag": '"x"', "LastModified": AT}]
    assert b"IsTruncated" in response["body"]
    assert b"Contents" not in response["body"]


@pytest.mark.parametrize(
    "response",
    [
        {"status_code": 200, "body": PAGE[:200]},
        {"status_code": 200, "body": PAGE.replace(b"2026-01-02T", b"yesterday ")},
        {"status_code": 200, "body": PAGE.replace(b"<Size>3</Size>", b"")},
        {"status_code": 403, "body": PAGE},
    ],
)
def test_a_page_that_cannot_be_read_quickly_is_left_to_botocore_as_it_is(response):
    before, told = dict(response), {}
    _take_contents(response, told)
    assert (response, told) == (before, {})
