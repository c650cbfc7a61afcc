"""Sources that are told of changes, with real servers of the tests behind them, and what tells them.

Each function takes a folder and a stack that ends what it starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ACCESS = [{"match": "**", "readers": ["group:staff"]}]
_SECRET = "a-secret-of-this-benchmark"


@dataclass(frozen=True)
class Producer:
    """A source's section of the configuration, and `produce(uri, text)`, which returns when the server has it."""

    section: dict[str, Any]
    produce: Callable[[str, str], None]
    environ: dict[str, str] = field(default_factory=dict)
    receives: bool = False  # whether `lockstep receive` must run beside the UI

    @property
    def name(self) -> str:
        return str(self.section["name"])


def _upsert(uri: str, text: str) -> bytes:
    event = {
        "schema_version": 1,
        "type": "upsert",
        "uri": uri,
        "version": time.time_ns(),
        "content": {"text": text},
        "media_type": "text/markdown",
    }
    return json.dumps(event).encode()


def kafka(folder: Path, stack: ExitStack) -> Producer:
    """A topic with three partitions."""
    from tests.integration.servers.kafka import kafka as running

    folder.mkdir(parents=True)
    broker = stack.enter_context(running(folder))
    broker.create_topic("notes", 3)
    producer = broker.producer(**{"linger.ms": 0})

    def produce(uri: str, text: str) -> None:
        producer.produce("notes", _upsert(uri, text), key=uri.encode())
        producer.flush(30)

    section = {"kind": "kafka", "bootstrap_servers": broker.servers, "topic": "notes"}
    return Producer({"name": "topic", **section, "access": _ACCESS}, produce)


def s3(folder: Path, stack: ExitStack) -> Producer:
    """A bucket whose store says by a queue what changed; the notification is sent by hand, as the store would."""
    from tests.integration.servers.s3_gateway import ACCESS_KEY, REGION, SECRET_KEY, s3_gateway
    from tests.integration.servers.sqs import sqs

    folder.mkdir(parents=True)
    gateway = stack.enter_context(s3_gateway(folder))
    queues = stack.enter_context(sqs(folder))
    bucket, queue, queue_url = gateway.client(), queues.client(), queues.create("changes")
    bucket.create_bucket(Bucket="notes")

    def produce(uri: str, text: str) -> None:
        bucket.put_object(Bucket="notes", Key=uri, Body=text.encode(), ContentType="text/markdown")
        record = {
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "eventTime": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
            "s3": {"bucket": {"name": "notes"}, "object": {"key": uri}},
        }
        queue.send_message(QueueUrl=queue_url, MessageBody=json.dumps({"Records": [record]}))

    section = {"kind": "s3", "bucket": "notes", "endpoint_url": gateway.url, "region": REGION, "queue_url": queue_url}
    environ = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    return Producer({"name": "bucket", **section, "access": _ACCESS}, produce, environ)


def webhook(_: Path, __: ExitStack) -> Producer:
    """A webhook at the receiver's usual place."""
    from pipelines.service.receiver import signature

    def produce(uri: str, text: str) -> None:
        body, now = _upsert(uri, text), f"{time.time():.0f}"
        headers = {"X-Lockstep-Timestamp": now, "X-Lockstep-Signature": signature(_SECRET.encode(), now, body)}
        call = urllib.request.Request("http://127.0.0.1:3001/webhooks/tickets", body, headers)
        with urllib.request.urlopen(call, timeout=30) as answer:
            assert answer.status == 202, answer.status

    section = {"name": "tickets", "kind": "webhook", "secret_env": "TICKETS_SECRET", "access": _ACCESS}
    return Producer(section, produce, {"TICKETS_SECRET": _SECRET}, receives=True)


KINDS = {"kafka": kafka, "s3": s3, "webhook": webhook}


def start_receiver(config: Path, environ: dict[str, str], stack: ExitStack) -> None:
    """`lockstep receive`, until it listens."""
    command = [str(Path(sys.executable).with_name("lockstep")), "receive", "--config", str(config)]
    process = subprocess.Popen(command, env={**os.environ, **environ})
    stack.callback(process.wait)
    stack.callback(process.terminate)
    for _ in range(300):
        try:
            urllib.request.urlopen("http://127.0.0.1:3001/", timeout=1).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(f"`lockstep receive` ended with {process.returncode}") from None
            time.sleep(0.1)
    raise TimeoutError("`lockstep receive` does not listen after 30 s")
