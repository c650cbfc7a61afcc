"""What events point to: closed unless a root opens it, and read within limits, with patience where it may help."""

import email.utils
import gzip
import hashlib
import io
import json
import os
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from pipelines.errors import RateLimited
from pipelines.sources.announced.announcements import AnnouncedSection
from pipelines.sources.announced.pointed import PointerReader, retry_after_seconds
from pipelines.sources.announced.pointers import PointerRefused, allowed_url, normal_root
from pipelines.sources.base import FetchFailure

ROOTS = ("https://files.example.org/docs/", "http://10.0.0.7:8080/open/", "s3://docs-bucket/in/", "file:///srv/docs/")


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("https://files.example.org/docs/a.pdf", None),
        ("https://FILES.example.org:443/docs/a.pdf", "https://files.example.org/docs/a.pdf"),
        ("https://files.example.org/docs/%61%C3%A4.pdf", "https://files.example.org/docs/a%C3%A4.pdf"),
        ("https://files.example.org/docs/a?signature=1&x=..", None),
        ("http://10.0.0.7:8080/open/a", None),
        ("s3://docs-bucket/in/a b#?%2F.pdf", None),
        ("file:///srv/docs/deep/er/a%20b.pdf", None),
        ("file://localhost/srv/docs/a", "file:///srv/docs/a"),
    ],
)
def test_what_lies_below_a_root_is_allowed_in_one_spelling(url, plain):
    assert allowed_url(url, ROOTS) == (plain or url)


@pytest.mark.parametrize(
    "url",
    [
        "https://files.example.org/",
        "https://files.example.org/docs",
        "https://files.example.org/docs/",
        "https://files.example.org/docsecret/a",
        "https://files.example.org/DOCS/a",
        "http://files.example.org/docs/a",
        "https://files.example.org:8443/docs/a",
        "https://files.example.org./docs/a",
        "https://files.example.org.evil.example/docs/a",
        "https://evil.example/files.example.org/docs/a",
        "https://files.example.org@evil.example/docs/a",
        "https://user:secret@files.example.org/docs/a",
        "https://evil.example\\@files.example.org/docs/a",
        "https://evil.example#@files.example.org/docs/a",
        "https://files.example.org/docs/../private/a",
        "https://files.example.org/docs/%2e%2e/private/a",
        "https://files.example.org/docs/%2E./private/a",
        "https://files.example.org/docs/..%2fprivate",
        "https://files.example.org/docs/%252e%252e/private",
        "https://files.example.org/docs/..\\private",
        "https://files.example.org/docs/%5c..%5cprivate",
        "https://files.example.org/docs//a",
        "https://files.example.org/docs/./a",
        "https://files.example.org/docs/a%00.pdf",
        "https://files.example.org/docs/a%zz",
        "https://files.example.org/docs/a b",
        "https://files.example.org/docs/a\tb",
        "https://files.example.org/docs/a#part",
        "https://fıles.example.org/docs/a",
        "https://files\u3002example.org/docs/a",
        "https:///docs/a",
        "https://files.example.org:port/docs/a",
        "https://[::1/docs/a",
        "http://10.0.0.7/open/a",
        "http://0x0a000007:8080/open/a",
        "http://167772167:8080/open/a",
        "s3://docs-bucket/in/",
        "s3://docs-bucket/other/a",
        "s3://docs-bucket/in/../other/a",
        "s3://docs-bucket-2/in/a",
        "s3://other@docs-bucket/in/a",
        "s3://docs-bucket/in//a",
        "file:///srv/docs",
        "file:///srv/docs/../../etc/passwd",
        "file:///srv/docs/%2e%2e/x",
        "file:///etc/passwd",
        "file://host/srv/docs/a",
        "file:/srv/docs/a",
        "ftp://files.example.org/docs/a",
        "javascript:alert(1)",
        "/srv/docs/a",
        "",
    ],
)
def test_everything_else_is_refused(url):
    with pytest.raises(PointerRefused):
        allowed_url(url, ROOTS)


def test_without_roots_nothing_is_allowed():
    with pytest.raises(PointerRefused, match="pointer_roots"):
        allowed_url("https://files.example.org/docs/a", ())


def test_a_refusal_does_not_repeat_a_password_or_a_signature():
    with pytest.raises(PointerRefused) as refused:
        allowed_url("https://user:hunter2@files.example.org/docs/a?signature=abcdef", ROOTS)
    assert "hunter2" not in str(refused.value)
    assert "abcdef" not in str(refused.value)


@pytest.mark.parametrize(
    "root", ["file:///", "https://u:p@h/", "https://h/a?b", "ftp://h/", "h/docs", "https://h/../a"]
)
def test_a_root_that_opens_too_much_or_is_unclear_is_a_wrong_configuration(root):
    with pytest.raises(ValueError, match=r".+"):
        AnnouncedSection(name="s", kind="any", pointer_roots=(root,))


def test_a_root_names_a_folder_with_or_without_its_slash():
    assert (
        normal_root("https://H.example:443/docs") == normal_root("https://h.example/docs/") == "https://h.example/docs/"
    )


class Site:
    """The other side of HTTP: answers by path, in turn; what was asked is in `asked`, what was waited in `waited`."""

    def __init__(self, **answers):
        self.answers = {f"/docs/{name}": list(given) for name, given in answers.items()}
        self.asked = []
        self.waited = []

    def __call__(self, request):
        self.asked.append(str(request.url))
        given = self.answers[request.url.path]
        answer = given.pop(0) if len(given) > 1 else given[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def reader(self, max_bytes=10_000):
        section = AnnouncedSection(name="s", kind="any", pointer_roots=ROOTS, max_bytes=max_bytes)
        return PointerReader(section, sleep=self.waited.append, transport=httpx.MockTransport(self))

    def read(self, name="a", max_bytes=10_000, **pointer):
        with self.reader(max_bytes) as reader:
            url = f"https://files.example.org/docs/{name}"
            return reader.read("doc", json.dumps({"url": url, **pointer}))


def answer(status=200, content=b"content", **headers):
    return httpx.Response(status, content=content, headers={n.replace("_", "-"): v for n, v in headers.items()})


def test_what_is_there_is_read_and_checked():
    digest = hashlib.sha256(b"content").hexdigest()
    assert Site(a=[answer()]).read(sha256=digest, size=7) == b"content"


@pytest.mark.parametrize("pointer", [{"size": 8}, {"size": 0}, {"sha256": "0" * 64}])
def test_other_content_than_the_event_says_is_refused_and_looked_at_again_later(pointer):
    failure = Site(a=[answer()]).read(**pointer)
    assert (failure.error_class, failure.transient) == ("OtherContent", True)


def test_more_than_the_limit_is_not_read():
    pieces = []

    def endless():
        while True:
            pieces.append(1)
            yield b"x" * 1_000_000

    site = Site(a=[httpx.Response(200, content=endless())])
    failure = site.read(max_bytes=3_000_000)
    assert (failure.error_class, failure.transient) == ("TooLarge", False)
    assert len(pieces) < 10


@pytest.mark.parametrize(
    ("status", "error_class"), [(401, "Forbidden"), (403, "Forbidden"), (404, "NotFound"), (410, "NotFound")]
)
def test_what_waiting_does_not_cure_is_asked_once(status, error_class):
    site = Site(a=[answer(status)])
    failure = site.read()
    assert (failure.error_class, failure.transient) == (error_class, False)
    assert len(site.asked) == 1
    assert site.waited == []


@pytest.mark.parametrize(
    "passing", [answer(500), answer(503), answer(408), httpx.ConnectError("no"), httpx.ReadTimeout("no")]
)
def test_what_may_pass_is_tried_again_with_waits(passing):
    site = Site(a=[passing, passing, answer()])
    assert site.read() == b"content"
    assert len(site.waited) == 2
    assert all(0 <= wait <= 5 for wait in site.waited)


def test_what_does_not_pass_is_a_failure_that_the_next_update_tries_again():
    site = Site(a=[answer(500)])
    failure = site.read()
    assert (failure.error_class, failure.transient) == ("Unreachable", True)
    assert len(site.asked) == 4


def test_a_short_retry_after_is_waited_for():
    site = Site(a=[answer(429, Retry_After="3"), answer(503, Retry_After="2"), answer()])
    assert site.read() == b"content"
    assert site.waited[0] >= 3
    assert site.waited[1] >= 2


@pytest.mark.parametrize("status", [429, 503])
def test_a_long_retry_after_leaves_the_source_alone_at_once(status):
    site = Site(a=[answer(status, Retry_After="120")])
    with pytest.raises(RateLimited) as limited:
        site.read()
    assert limited.value.retry_after_seconds == 120
    assert len(site.asked) == 1


def test_a_limit_without_a_time_is_rate_limiting_all_the_same():
    with pytest.raises(RateLimited) as limited:
        Site(a=[answer(429)]).read()
    assert limited.value.retry_after_seconds is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("5", 5.0), (None, None), ("", None), ("soon", None), ("-1", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_a_retry_after_is_understood_as_seconds_or_as_a_date(value, seconds):
    assert retry_after_seconds(value) == seconds


def test_a_retry_after_in_the_future_is_the_time_until_then():
    now = datetime(2026, 5, 4, 10, tzinfo=UTC)
    assert retry_after_seconds(email.utils.format_datetime(now + timedelta(seconds=90), usegmt=True), now) == 90


def test_a_redirect_below_the_roots_is_followed():
    site = Site(a=[answer(302, Location="/docs/b")], b=[answer(content=b"there")])
    assert site.read() == b"there"


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/docs/b",
        "http://files.example.org/docs/b",
        "/private/b",
        "//evil.example/docs/b",
        "file:///srv/docs/b",
    ],
)
def test_a_redirect_out_of_the_roots_is_refused_unasked(location):
    site = Site(a=[answer(302, Location=location)])
    failure = site.read()
    assert (failure.error_class, failure.transient) == ("PointerRefused", False)
    assert len(site.asked) == 1


def test_redirects_in_a_circle_end():
    site = Site(a=[answer(302, Location="/docs/a")])
    assert site.read().error_class == "TooManyRedirects"


def test_a_packed_answer_is_refused_as_it_could_unpack_to_anything():
    failure = Site(a=[answer(content=gzip.compress(b"x" * 1_000), Content_Encoding="gzip")]).read()
    assert failure.error_class == "BadAnswer"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.txt").write_bytes(b"open")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    return tmp_path


def read_file(folder, name, root="open"):
    section = AnnouncedSection(name="s", kind="any", pointer_roots=(f"file://{folder}/{root}",), max_bytes=100)
    with PointerReader(section, sleep=lambda _: None) as reader:
        return reader.read("doc", json.dumps({"url": f"file://{folder}/{name}"}))


def test_a_file_below_its_root_is_read(folder):
    (folder / "open" / "with space.txt").write_bytes(b"space")
    assert read_file(folder, "open/a.txt") == b"open"
    assert read_file(folder, "open/with%20space.txt") == b"space"


def test_links_out_of_a_root_are_not_followed(folder):
    (folder / "open" / "link.txt").symlink_to(folder / "secret.txt")
    (folder / "open" / "deep").symlink_to(folder)
    for name in ("open/link.txt", "open/deep/secret.txt"):
        failure = read_file(folder, name)
        assert isinstance(failure, FetchFailure)
        assert failure.error_class == "Unreadable"


def test_pipes_folders_and_missing_files_are_failures(folder):
    os.mkfifo(folder / "open" / "pipe")
    (folder / "open" / "sub").mkdir()
    classes = [read_file(folder, f"open/{name}").error_class for name in ("pipe", "sub", "missing")]
    assert classes == ["SpecialFile", "Unreadable", "NotFound"]


def test_a_file_above_the_limit_is_not_read(folder):
    (folder / "open" / "big").write_bytes(b"x" * 101)
    assert read_file(folder, "open/big").error_class == "TooLarge"


class Bucket:
    """The other side of S3, for one object."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def get_object(self, **asked):
        assert asked == {"Bucket": "docs-bucket", "Key": "in/a b#.txt"}
        given = self.answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given


def body(content, length=None):
    return {"Body": io.BytesIO(content), "ContentLength": len(content) if length is None else length}


def refusal(code, status, **headers):
    from botocore.exceptions import ClientError

    about = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return ClientError({"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": about}, "GetObject")


def read_s3(*answers, max_bytes=100):
    section = AnnouncedSection(name="s", kind="any", pointer_roots=ROOTS, max_bytes=max_bytes)
    client = Bucket(*answers)
    with PointerReader(section, lambda _service, _settings: client, sleep=lambda _: None) as reader:
        return reader.read("doc", json.dumps({"url": "s3://docs-bucket/in/a b#.txt"}))


def test_an_object_is_read_by_its_literal_key():
    assert read_s3(body(b"object")) == b"object"


def test_an_object_above_the_limit_is_not_read():
    assert read_s3(body(b"x" * 101)).error_class == "TooLarge"


def test_s3_is_asked_again_where_that_may_help_and_only_there():
    assert read_s3(refusal("InternalError", 500), body(b"object")) == b"object"
    assert read_s3(refusal("NoSuchKey", 404)).error_class == "NotFound"
    assert read_s3(refusal("AccessDenied", 403)).error_class == "Forbidden"
    with pytest.raises(RateLimited):
        read_s3(*[refusal("SlowDown", 503)] * 4)
