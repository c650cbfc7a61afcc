"""A broker of the tests with one topic, as a source, and a function that produces to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

TOPIC = "notes"


def source_and_producer(folder: Path, stack: ExitStack) -> tuple[dict[str, Any], Callable[[str, str], None]]:
    """The source's section, and `produce(uri, text)`, which returns when the broker has the message."""
    from tests.integration.servers.kafka import kafka

    (folder / "kafka").mkdir(parents=True, exist_ok=True)
    broker = stack.enter_context(kafka(folder / "kafka"))
    broker.create_topic(TOPIC, 3)
    producer = broker.producer(**{"linger.ms": 0})

    def produce(uri: str, text: str) -> None:
        event = {
            "schema_version": 1,
            "type": "upsert",
            "uri": uri,
            "version": time.time_ns(),
            "content": {"text": text},
            "media_type": "text/markdown",
        }
        producer.produce(TOPIC, json.dumps(event).encode(), key=uri.encode())
        producer.flush(30)

    section = {
        "name": "topic",
        "kind": "kafka",
        "bootstrap_servers": broker.servers,
        "topic": TOPIC,
        "access": [{"match": "**", "readers": ["group:staff"]}],
    }
    return section, produce
