"""The stream of the source `s3`: notifications of a bucket, received from an SQS queue.

A notification is a hint and never more: notifications come late, twice and out of order, and what counts is the
object as it is when it is looked at. They may come directly, through an SNS topic, or from EventBridge.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus, urlsplit

from pipelines.errors import SourceError
from pipelines.lake.events import Event
from pipelines.sources.addresses.uris import encode_key
from pipelines.sources.aws import Far, make_client
from pipelines.sources.base import Check, Lag, Received

if TYPE_CHECKING:
    from pipelines.sources.s3.section import S3Source
    from pipelines.sources.surroundings import AwsClient

_AT_ONCE = 10  # messages of one request, by SQS
_LONGEST_WAIT_SECONDS = 20  # of one request, by SQS
_PIECES = ("ObjectCreated:", "ObjectRemoved:", "ObjectRestore:Completed", "LifecycleExpiration:", "Replication:")
_DETAIL_TYPES = frozenset({"Object Created", "Object Deleted", "Object Restore Completed", "Object Restore Expired"})


class NotUnderstood(Exception):
    """A message that is no notification of a bucket."""


@dataclass(frozen=True, slots=True)
class Announced:
    """One object that a message names."""

    bucket: str
    key: str
    occurred_at: datetime | None


def announced(body: str) -> list[Announced]:
    """The objects whose content a message says to have come, changed or gone. None for a test message.

    Raises:
        NotUnderstood: it has another form; nothing of it is used.
    """
    message = _mapping(_parsed(body), "the message")
    if "Message" in message and "TopicArn" in message:  # wrapped by SNS
        message = _mapping(_parsed(message["Message"]), "the message inside the SNS notification")
    if message.get("Event") == "s3:TestEvent":
        return []
    if "detail-type" in message:
        return _from_event_bridge(message)
    records = message.get("Records")
    if not isinstance(records, list):
        raise NotUnderstood("it has neither `Records` nor `detail-type`, and so is no notification of a bucket")
    found = []
    for record in records:
        record = _mapping(record, "a record")
        if _text(record, "eventName").removeprefix("s3:").startswith(_PIECES):
            s3 = _mapping(record.get("s3"), "`s3` of a record")
            bucket, one = _mapping(s3.get("bucket"), "`s3.bucket`"), _mapping(s3.get("object"), "`s3.object`")
            found.append(Announced(_text(bucket, "name"), unquote_plus(_text(one, "key")), _time(record, "eventTime")))
    return found


def _from_event_bridge(message: Mapping[str, Any]) -> list[Announced]:
    if message.get("source") != "aws.s3":
        raise NotUnderstood(f"it is an event of {message.get('source')!r}, and not of aws.s3")
    if message["detail-type"] not in _DETAIL_TYPES:
        return []
    detail = _mapping(message.get("detail"), "`detail`")
    bucket, one = _mapping(detail.get("bucket"), "`detail.bucket`"), _mapping(detail.get("object"), "`detail.object`")
    key = _text(one, "key")
    # EventBridge does not encode keys, what imitates it may; looking at one object too many does no harm.
    keys = dict.fromkeys((key, unquote_plus(key)))
    return [Announced(_text(bucket, "name"), key, _time(message, "time")) for key in keys]


def _parsed(text: object) -> object:
    if not isinstance(text, str):
        raise NotUnderstood("its message is no text")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotUnderstood(f"it is not JSON: {error}") from error


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise NotUnderstood(f"{what} is no JSON object")
    return value


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value:
        raise NotUnderstood(f"`{name}` is missing or no text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise NotUnderstood(f"`{name}` holds half a character") from None
    return value


def _time(found: Mapping[str, Any], name: str) -> datetime | None:
    try:
        time_stamp = datetime.fromisoformat(str(found.get(name)))
    except ValueError:
        return None
    return time_stamp if time_stamp.tzinfo else None


class Notifications:
    """The queue of one source as a stream. Messages about other buckets or prefixes are acknowledged and ignored."""

    def __init__(self, section: S3Source, client: AwsClient | None = None) -> None:
        assert section.queue_url, "a source without a queue has no stream"
        self._section = section
        self._url = section.queue_url
        self._make = client or make_client
        self._client: Any = None
        self._selects = section.selection()
        self._far = Far(section.name, f"the queue {self._url}")
        self._oldest: float | None = None  # when the oldest message of the last answer was sent, seconds since 1970

    def receive(self, *, limit: int, wait_seconds: float) -> Sequence[Received]:
        """At most `limit` messages; one that is not understood is an event of the type "rejected".

        Raises:
            SourceForbidden: these credentials may not receive from it.
            SourceError: the queue is missing or does not answer.
        """
        found: list[Received] = []
        ends = time.monotonic() + wait_seconds
        while len(found) < limit:
            wait = 0 if found else max(0, min(_LONGEST_WAIT_SECONDS, round(ends - time.monotonic())))
            with self._far.doing("receive the messages", "sqs:ReceiveMessage"):
                answer = self._sqs().receive_message(
                    QueueUrl=self._url,
                    MaxNumberOfMessages=min(_AT_ONCE, limit - len(found)),
                    WaitTimeSeconds=wait,
                    MessageSystemAttributeNames=["SentTimestamp"],
                )
            messages = answer.get("Messages", ())
            if messages:
                sent = [int(m.get("Attributes", {}).get("SentTimestamp", 0)) for m in messages]
                self._oldest = min(sent) / 1_000 or None
                found += [Received(tuple(self._events(m)), m["ReceiptHandle"]) for m in messages]
            elif found or time.monotonic() >= ends - 0.5:
                break
        return found

    def acknowledge(self, received: Sequence[Received]) -> None:
        """Delete the messages from the queue.

        Raises:
            SourceError: some could not be deleted; they come again.
        """
        failed: list[Mapping[str, Any]] = []
        for start in range(0, len(received), _AT_ONCE):
            part = received[start : start + _AT_ONCE]
            entries = [{"Id": str(number), "ReceiptHandle": one.receipt} for number, one in enumerate(part)]
            with self._far.doing("delete received messages", "sqs:DeleteMessage"):
                failed += self._sqs().delete_message_batch(QueueUrl=self._url, Entries=entries).get("Failed", ())
        if failed:
            first = failed[0]
            raise SourceError(
                f"source {self._section.name!r}: {len(failed):,} of {len(received):,} messages could not be deleted "
                f"from {self._far.what} ({first.get('Code')}: {first.get('Message', '')}); they come again, which does "
                "no harm. If this lasts, allow sqs:DeleteMessage and raise the queue's visibility timeout"
            )

    def lag(self) -> Lag:
        """How many messages wait, by SQS's own estimate, and about since when."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        with self._far.doing("read the attributes", "sqs:GetQueueAttributes"):
            told = self._sqs().get_queue_attributes(QueueUrl=self._url, AttributeNames=names).get("Attributes", {})
        waiting = sum(int(told.get(name, 0)) for name in names)
        if not waiting or self._oldest is None:
            return Lag(waiting)
        return Lag(waiting, max(0.0, time.time() - self._oldest))

    def close(self) -> None:
        """Close the connections; what was not acknowledged comes again after the queue's visibility timeout."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def check(self) -> Iterator[Check]:
        """Whether messages can be counted, received and deleted; none is taken away."""
        tried = (
            ("queue", "its messages can be counted", lambda: self.lag()),
            ("receive", "messages can be received", self._try_receive),
            ("acknowledge", "received messages can be deleted", self._try_delete),
        )
        for name, good, attempt in tried:
            try:
                attempt()
            except SourceError as error:
                yield Check(name, ok=False, message=str(error))
                return
            yield Check(name, ok=True, message=f"{self._far.what}: {good}")

    def _try_receive(self) -> None:
        with self._far.doing("receive the messages", "sqs:ReceiveMessage"):
            self._sqs().receive_message(
                QueueUrl=self._url, MaxNumberOfMessages=1, WaitTimeSeconds=0, VisibilityTimeout=0
            )

    def _try_delete(self) -> None:
        """Ask for the deletion of a message that cannot exist: whoever may delete is told that."""
        entries = [{"Id": "check", "ReceiptHandle": "lockstep-check"}]
        with self._far.doing("delete received messages", "sqs:DeleteMessage"):
            answer = self._sqs().delete_message_batch(QueueUrl=self._url, Entries=entries)
        for failed in answer.get("Failed", ()):
            if failed.get("Code") in ("AccessDenied", "AccessDeniedException"):
                raise SourceError(f"{self._far.what}: {failed.get('Message', 'not allowed')}; allow sqs:DeleteMessage")

    def _events(self, message: Mapping[str, Any]) -> Iterator[Event]:
        origin, name = f"sqs:{message['MessageId']}", self._section.name
        try:
            objects = announced(message["Body"])
        except NotUnderstood as error:
            text = f"a message of {self._far.what} is not understood: {error}; let only the bucket's notifications come"
            body = message["Body"].encode("utf-8", "replace")
            yield Event(name, "", "rejected", origin, content=body, error_class="NotUnderstood", error=text)
            return
        for number, one in enumerate(objects):
            if one.bucket != self._section.bucket or not one.key.startswith(self._section.prefix):
                continue
            uri = encode_key(one.key.removeprefix(self._section.prefix))
            if uri and not uri.endswith("/") and self._selects.selects(uri):
                yield Event(name, uri, "changed", f"{origin}#{number}", occurred_at=one.occurred_at)

    def _sqs(self) -> Any:
        if self._client is None:
            self._client = self._make("sqs", self._settings())
        return self._client

    def _settings(self) -> dict[str, Any]:
        section, host = self._section, urlsplit(self._url)
        name = host.hostname or ""
        at_aws = name.endswith((".amazonaws.com", ".amazonaws.com.cn"))
        parts = name.split(".")
        given = {
            "region_name": section.region or (parts[1] if at_aws and len(parts) > 3 else None),
            "endpoint_url": section.queue_endpoint_url or (None if at_aws else f"{host.scheme}://{host.netloc}"),
            "profile_name": section.profile,
        }
        return {name: value for name, value in given.items() if value}
