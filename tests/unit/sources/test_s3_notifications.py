import json
from datetime import UTC, datetime

import pytest

from pipelines.errors import RateLimited, SourceError, SourceForbidden
from pipelines.sources.s3.notifications import Announced, Notifications, NotUnderstood, announced
from pipelines.sources.s3.section import S3Source

URL = "https://sqs.eu-west-1.amazonaws.com/123/docs"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def record(key: str, name: str = "ObjectCreated:Put", bucket: str = "docs") -> dict:
    one = {"bucket": {"name": bucket}, "object": {"key": key, "size": 3, "eTag": "x", "sequencer": "0A"}}
    return {"eventSource": "aws:s3", "eventName": name, "eventTime": "2026-01-02T03:04:05.000Z", "s3": one}


def message(*records: dict) -> str:
    return json.dumps({"Records": records})


def by_sns(text: str) -> str:
    return json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:x", "Message": text})


def by_event_bridge(key: str, what: str = "Object Created", source: str = "aws.s3") -> str:
    detail = {"bucket": {"name": "docs"}, "object": {"key": key}}
    return json.dumps({"source": source, "detail-type": what, "time": "2026-01-02T03:04:05Z", "detail": detail})


@pytest.mark.parametrize(
    ("body", "keys"),
    [
        (message(record("a.md")), ["a.md"]),
        (message(record("a+b%C3%A4%2B.md")), ["a bä+.md"]),
        (message(record("a.md"), record("b.md", "ObjectRemoved:DeleteMarkerCreated")), ["a.md", "b.md"]),
        (message(record("a.md", "LifecycleExpiration:Delete")), ["a.md"]),
        (message(record("a.md", "ObjectTagging:Put"), record("b.md", "ObjectAcl:Put")), []),
        (message(), []),
        (by_sns(message(record("a.md"))), ["a.md"]),
        (by_event_bridge("a.md"), ["a.md"]),
        (by_event_bridge("a b+c.md"), ["a b+c.md", "a b c.md"]),
        (by_event_bridge("a.md", "Object Tags Added"), []),
        (json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "docs"}), []),
        (by_sns(json.dumps({"Event": "s3:TestEvent"})), []),
    ],
)
def test_every_form_of_notification_names_its_objects(body, keys):
    assert announced(body) == [Announced("docs", key, AT) for key in keys]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no json",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        json.dumps({"Records": {}}),
        json.dumps({"Records": ["text"]}),
        json.dumps({"Records": [{"eventName": "ObjectCreated:Put"}]}),
        json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "docs"}, "object": {}}}]}),
        message(record("")),
        message(record("\ud800")),
        by_sns("no json"),
        by_event_bridge("a.md", source="aws.ec2"),
        json.dumps({"Type": "SubscriptionConfirmation", "TopicArn": "arn", "Message": "You have chosen to subscribe"}),
    ],
)
def test_what_is_no_notification_is_not_understood(body):
    with pytest.raises(NotUnderstood):
        announced(body)


class Queue:
    """A client of SQS that gives those messages, or raises that error."""

    def __init__(self, *bodies: str, error: Exception | None = None) -> None:
        self.messages = [
            {"MessageId": f"m{n}", "ReceiptHandle": f"r{n}", "Body": body, "Attributes": {"SentTimestamp": "1000"}}
            for n, body in enumerate(bodies)
        ]
        self.error = error
        self.calls: list[dict] = []
        self.deleted: list[str] = []
        self.refused: frozenset[str] = frozenset()

    def __call__(self, service: str, settings: dict):
        assert service == "sqs"
        self.settings = settings
        return self

    def receive_message(self, *, MaxNumberOfMessages, **options):  # noqa: N803
        self.calls.append({"MaxNumberOfMessages": MaxNumberOfMessages, **options})
        if self.error:
            raise self.error
        part, self.messages = self.messages[:MaxNumberOfMessages], self.messages[MaxNumberOfMessages:]
        return {"Messages": part} if part else {}

    def delete_message_batch(self, *, QueueUrl, Entries):  # noqa: N803
        assert len(Entries) <= 10
        failed = [entry for entry in Entries if entry["ReceiptHandle"] in self.refused]
        self.deleted += [entry["ReceiptHandle"] for entry in Entries if entry not in failed]
        return {"Failed": [{"Id": entry["Id"], "Code": "ReceiptHandleIsInvalid"} for entry in failed]}


def stream(queue: Queue, **options) -> Notifications:
    section = S3Source(name="docs", kind="s3", bucket="docs", queue_url=URL, **options)
    return Notifications(section, queue)


def hinted(queue: Queue, **options) -> list[str]:
    found = stream(queue, **options).receive(limit=100, wait_seconds=0)
    return [event.uri for one in found for event in one.events]


def test_each_record_is_a_hint_of_its_own_and_the_same_one_when_it_comes_again():
    body = message(record("a.md"), record("a.md", "ObjectRemoved:Delete"))
    first, again = (stream(Queue(body)).receive(limit=10, wait_seconds=0)[0].events for _ in range(2))
    assert [(event.type, event.uri, event.origin, event.occurred_at) for event in first] == [
        ("changed", "a.md", "sqs:m0#0", AT),
        ("changed", "a.md", "sqs:m0#1", AT),
    ]
    assert [event.identity(None) for event in first] == [event.identity(None) for event in again]
    assert len({event.identity(None) for event in first}) == 2


def test_what_is_not_of_this_source_is_acknowledged_and_announces_nothing():
    queue = Queue(
        message(record("docs/a.md", bucket="other"), record("elsewhere/b.md"), record("docs/folder/")),
        message(record("docs/drafts/c.md"), record("docs/.hidden"), record("docs/")),
        message(record("docs/d.md")),
    )
    found = stream(queue, prefix="docs/", exclude=("drafts/**",))
    received = found.receive(limit=100, wait_seconds=0)
    assert [[event.uri for event in one.events] for one in received] == [[], [], ["d.md"]]
    found.acknowledge(received)
    assert queue.deleted == ["r0", "r1", "r2"]


def test_a_message_that_is_not_understood_is_rejected_with_its_payload_and_the_others_go_on():
    received = stream(Queue("no json", message(record("a.md")))).receive(limit=10, wait_seconds=0)
    rejected = received[0].events[0]
    assert (rejected.type, rejected.content, rejected.error_class) == ("rejected", b"no json", "NotUnderstood")
    assert received[1].events[0].uri == "a.md"


def test_odd_keys_become_the_uris_that_a_listing_gives():
    queue = Queue(message(record("a%2F%2Fb"), record("..%2Fx"), record("100%25"), record("line%0Abreak")))
    assert hinted(queue) == ["a/%2Fb", "%2E%2E/x", "100%25", "line%0Abreak"]


def test_acknowledging_goes_by_tens_and_tells_what_could_not_be_deleted():
    queue = Queue(*[message(record(f"{n}.md")) for n in range(25)])
    found = stream(queue)
    received = found.receive(limit=25, wait_seconds=0)
    queue.refused = frozenset({"r3", "r17"})
    with pytest.raises(SourceError, match="2 of 25 messages"):
        found.acknowledge(received)
    assert len(queue.deleted) == 23


def test_the_region_is_taken_from_the_queue_and_another_server_from_its_url():
    queue = Queue()
    stream(queue).receive(limit=1, wait_seconds=0)
    assert queue.settings == {"region_name": "eu-west-1"}
    section = S3Source(name="d", kind="s3", bucket="d", queue_url="http://127.0.0.1:9324/q", region="x")
    Notifications(section, queue).receive(limit=1, wait_seconds=0)
    assert queue.settings == {"region_name": "x", "endpoint_url": "http://127.0.0.1:9324"}


@pytest.mark.parametrize(
    ("code", "status", "kind", "advice"),
    [
        ("AccessDenied", 403, SourceForbidden, "sqs:ReceiveMessage"),
        ("ExpiredToken", 403, SourceForbidden, "expired"),
        ("InvalidClientTokenId", 403, SourceForbidden, "AWS_ACCESS_KEY_ID"),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, SourceError, "correct its name"),
        ("RequestThrottled", 400, RateLimited, "alone"),
        ("InternalFailure", 500, SourceError, "tries again"),
    ],
)
def test_what_aws_answers_is_told_with_what_to_do(code, status, kind, advice):
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code, "Message": "said"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    found = stream(Queue(error=ClientError(answer, "ReceiveMessage")))
    with pytest.raises(kind, match="docs") as error:
        found.receive(limit=1, wait_seconds=0)
    assert type(error.value) is kind
    assert advice in str(error.value)
