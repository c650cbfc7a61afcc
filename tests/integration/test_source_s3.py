"""The source `s3` against versitygw, a real S3 gateway, and its stream against moto's SQS."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_plus

import pytest

from pipelines.errors import SourceError, SourceForbidden
from pipelines.sources.addresses.uris import decode_uri
from pipelines.sources.base import Fetched, FetchFailure, Hint
from pipelines.sources.s3.bucket import Bucket
from pipelines.sources.s3.notifications import Notifications
from pipelines.sources.s3.section import S3Source
from resources.aws import aws_client
from tests.integration.servers import s3_gateway as gateways
from tests.integration.servers.s3_gateway import Gateway, s3_gateway
from tests.integration.servers.sqs import Queues, sqs
from tests.source_contract import Harness, SourceContract, fetched, rows, uris

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def gateway(tmp_path_factory) -> Iterator[Gateway]:
    with s3_gateway(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def queues(tmp_path_factory) -> Iterator[Queues]:
    with sqs(tmp_path_factory.mktemp("sqs")) as running:
        yield running


@pytest.fixture(autouse=True)
def credentials(monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", gateways.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", gateways.SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


_numbers = iter(range(1_000))


class BucketHarness(Harness):
    """A bucket; the gateway tells nobody of changes, so the harness writes the notifications that S3 would."""

    streams = True

    def __init__(self, gateway: Gateway, queues: Queues, *, prefix: str = "", versions: bool = False) -> None:
        number = next(_numbers)
        self.gateway, self.queues = gateway, queues
        self.bucket = f"contract-{number}"
        self.s3 = gateway.client()
        self.s3.create_bucket(Bucket=self.bucket)
        if versions:
            self.s3.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})
        self.section = S3Source(
            name="docs",
            kind="s3",
            bucket=self.bucket,
            prefix=prefix,
            endpoint_url=gateway.url,
            region=gateways.REGION,
            queue_url=queues.create(self.bucket),
            queue_endpoint_url=queues.url,
            versions=versions,
            max_bytes=1_000,
        )

    def open(self):
        return Bucket(self.section, aws_client)

    def open_stream(self):
        return Notifications(self.section, aws_client)

    def put(self, uri, content):
        self.s3.put_object(Bucket=self.bucket, Key=self.key(uri), Body=content)
        self.notify("ObjectCreated:Put", self.key(uri))

    def delete(self, uri):
        self.s3.delete_object(Bucket=self.bucket, Key=self.key(uri))
        self.notify("ObjectRemoved:Delete", self.key(uri))

    def break_(self):
        self.gateway.stop()

    def mend(self):
        self.gateway.start()

    def key(self, uri):
        return self.section.prefix + decode_uri(uri).decode()

    def notify(self, name, key):
        one = {"bucket": {"name": self.bucket}, "object": {"key": quote_plus(key, safe="/")}}
        record = {"eventSource": "aws:s3", "eventName": name, "eventTime": "2026-01-02T03:04:05.000Z", "s3": one}
        self.queues.client().send_message(
            QueueUrl=self.section.queue_url, MessageBody=json.dumps({"Records": [record]})
        )


class TestBucket(SourceContract):
    @pytest.fixture(params=["whole bucket", "prefix", "versions"])
    def harness(self, gateway, queues, request):
        prefix = "teams/docs/" if request.param == "prefix" else ""
        made = BucketHarness(gateway, queues, prefix=prefix, versions=request.param == "versions")
        yield made
        if gateway._process is None:
            gateway.start()


@pytest.fixture
def harness(gateway, queues):
    return BucketHarness(gateway, queues)


def test_a_new_version_with_the_same_content_counts_only_where_versions_are_asked_for(gateway, queues):
    for versions in (False, True):
        one = BucketHarness(gateway, queues, versions=versions)
        one.put("a.md", b"same")
        first = rows(one.open().list())
        one.put("a.md", b"same")
        assert (rows(one.open().list())["a.md"]["etag"] != first["a.md"]["etag"]) == versions
        answer = fetched(one.open(), ["a.md"])["a.md"]
        assert ("version_label" in answer.metadata) == versions


def test_an_object_tells_its_content_type_author_and_times(harness):
    harness.s3.put_object(
        Bucket=harness.bucket,
        Key="report.bin",
        Body=b"<p>Text</p>",
        ContentType="text/html; charset=utf-8",
        Metadata={"author": "Ada", "Created": "2026-01-02", "title": "Report", "version-label": "v7", "other": "x"},
    )
    answer = fetched(harness.open(), ["report.bin"])["report.bin"]
    assert isinstance(answer, Fetched)
    assert answer.media_type == "text/html"
    assert answer.metadata == {"author": "Ada", "created": "2026-01-02", "title": "Report", "version_label": "v7"}
    assert answer.modified_at is not None
    harness.put("plain.md", b"# Title")
    assert fetched(harness.open(), ["plain.md"])["plain.md"].media_type is None


def test_folder_markers_are_left_out_and_empty_objects_are_not(harness):
    harness.s3.put_object(Bucket=harness.bucket, Key="folder/", Body=b"")
    harness.put("folder/empty.md", b"")
    harness.put(".git/config", b"hidden")
    listing = harness.open().list()
    assert (uris(listing), listing.problems) == ({"folder/empty.md"}, ())
    assert fetched(harness.open(), ["folder/empty.md"])["folder/empty.md"].content == b""


def test_a_missing_bucket_is_an_error_also_for_a_look(harness):
    section = harness.section.model_copy(update={"bucket": "no-such-bucket"})
    source = Bucket(section, aws_client)
    for attempt in (source.list, lambda: source.look([Hint("a.md")])):
        with pytest.raises(SourceError, match="no-such-bucket") as error:
            attempt()
        assert "correct its name" in str(error.value)
    failed = [check for check in source.check() if not check.ok]
    assert [check.name for check in failed] == ["list"]


@pytest.mark.parametrize(
    ("variable", "advice"), [("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"), ("AWS_SECRET_ACCESS_KEY", "AWS_SECRET")]
)
def test_wrong_credentials_are_told_with_what_to_correct(harness, monkeypatch, variable, advice):
    harness.put("a.md", b"one")
    monkeypatch.setenv(variable, "wrong")
    source = harness.open()
    for attempt in (source.list, lambda: source.look([Hint("a.md")]), lambda: list(source.fetch(["a.md"]))):
        with pytest.raises(SourceForbidden, match=advice):
            attempt()


def test_without_credentials_the_message_says_where_they_are_expected(harness, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SourceForbidden, match="AWS_ACCESS_KEY_ID"):
        harness.open().list()


def test_an_object_that_was_overwritten_since_the_listing_is_read_as_it_is_now(harness):
    harness.put("a.md", b"old")
    source = harness.open()
    old = rows(source.list())["a.md"]
    harness.put("a.md", b"newer")
    answer = fetched(source, ["a.md"])["a.md"]
    assert isinstance(answer, Fetched)
    assert answer.content == b"newer"
    assert answer.etag != old["etag"]
    assert answer.etag == rows(source.list())["a.md"]["etag"]


class CutOff:
    """A proxy that lets so many answers through and then cuts every connection."""

    def __init__(self, port: int, answers: int) -> None:
        self.left, self._port = answers, port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._port)) as far:
            far.settimeout(0.3)
            while request := near.recv(65_536):
                if self.left <= 0:
                    return
                self.left -= 1
                far.sendall(request)
                try:
                    while answer := far.recv(65_536):
                        near.sendall(answer)
                except TimeoutError:
                    pass


def test_a_listing_that_breaks_off_half_way_is_an_error(harness, monkeypatch):
    for number in range(5):
        harness.put(f"{number}.md", b"text")
    monkeypatch.setattr("pipelines.sources.s3.bucket.PAGE_KEYS", 2)
    proxy = CutOff(harness.gateway.port, answers=2)
    try:
        section = harness.section.model_copy(update={"endpoint_url": proxy.url})
        with pytest.raises(SourceError, match="no answer"):
            Bucket(section, aws_client).list()
        assert proxy.left == 0
    finally:
        proxy.close()
    assert len(uris(harness.open().list())) == 5


def test_what_is_not_acknowledged_comes_again_and_what_is_does_not(harness):
    harness.put("a.md", b"one")
    stream = harness.open_stream()
    first = stream.receive(limit=10, wait_seconds=1)
    assert [event.uri for one in first for event in one.events] == ["a.md"]
    again = stream.receive(limit=10, wait_seconds=4)
    assert [one.events[0].identity(None) for one in again] == [one.events[0].identity(None) for one in first]
    assert stream.lag().messages == 1
    stream.acknowledge(again)
    assert stream.lag().messages == 0
    assert stream.receive(limit=10, wait_seconds=0) == []


def test_a_flood_is_received_in_bounded_parts(harness):
    for number in range(25):
        harness.notify("ObjectCreated:Put", f"{number}.md")
    stream = harness.open_stream()
    first = stream.receive(limit=12, wait_seconds=1)
    assert len(first) == 12
    stream.acknowledge(first)
    lag = stream.lag()
    assert lag.messages == 13
    assert lag.oldest_seconds is not None
    rest = stream.receive(limit=100, wait_seconds=1)
    assert len(rest) == 13


def test_a_deleted_queue_is_an_error_that_names_it(harness):
    stream = harness.open_stream()
    harness.queues.client().delete_queue(QueueUrl=harness.section.queue_url)
    for attempt in (lambda: stream.receive(limit=1, wait_seconds=0), stream.lag):
        with pytest.raises(SourceError, match=harness.bucket) as error:
            attempt()
        assert "correct its name" in str(error.value)
    failed = [check for check in stream.check() if not check.ok]
    assert [check.name for check in failed] == ["queue"]


def test_a_message_whose_receipt_is_no_longer_good_comes_again(harness):
    harness.put("a.md", b"one")
    stream = harness.open_stream()
    found = stream.receive(limit=1, wait_seconds=1)
    wrong = [type(found[0])(found[0].events, "no such receipt")]
    with pytest.raises(SourceError, match="come again"):
        stream.acknowledge([*found, *wrong])
    assert stream.lag().messages == 0


def test_a_failure_of_one_object_is_told_and_the_others_are_read(harness, monkeypatch):
    harness.put("a.md", b"one")
    harness.put("b.md", b"two")
    path = Path(harness.gateway.folder, harness.bucket, "a.md")
    path.unlink()
    answers = fetched(harness.open(), ["a.md", "b.md"])
    assert isinstance(answers["a.md"], FetchFailure)
    assert answers["b.md"].content == b"two"
