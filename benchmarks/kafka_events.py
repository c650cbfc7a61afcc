"""Events through a real broker: `python -m benchmarks.kafka_events`.

10,000 events of which a fifth are deliveries of the same event again, in random order inside each document. Counts what
is lost, doubled or at a wrong version at the end, and how many events a second become durable in `change_events` and
searchable. The encoder is a stand-in, so that the figure is Lockstep's and not a model's.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks import job, measuring
from benchmarks.stand_in import write_stand_in
from pipelines.config import EncoderConfig
from pipelines.embedding.encoder import load_encoder
from pipelines.home import Home
from pipelines.project import Project
from pipelines.sources.registry import open_stream
from pipelines.update.looking.follow import pump
from tests.integration.servers.kafka import Broker, kafka

_TOPIC, _SOURCE = "events", "wiki"
_DEADLINE_SECONDS = 600
_WORDS = [f"word{number}" for number in range(500)]


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("--events", type=int, default=10_000, help="messages in the topic, duplicates included")
    parser.add_argument("--versions", type=int, default=4, help="events about each document, each delivered once")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--no-update", action="store_true", help="measure up to durable only")
    options = parser.parse_args()
    messages, last = _messages(options.events, options.versions)
    with measuring.scratch(options.folder) as folder:
        (folder / "kafka").mkdir(exist_ok=True)
        with kafka(folder / "kafka") as broker:
            _produce(broker, options.partitions, messages)
            result = _measure(folder, broker, messages, last, update=not options.no_update)
    rows = [[name, value] for name, value in result.items() if not isinstance(value, dict)]
    measuring.tell(result, [measuring.table(rows, ["what", "value"])], as_json=options.json)


def _messages(events: int, versions: int) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """What is announced in the order in which it is sent, and the last word on each document."""
    chance = random.Random(7)
    distinct, last = [], {}
    for number in range(events * 4 // 5 // versions):
        uri = f"folder-{number % 50}/{number}.md"
        for version in range(1, versions + 1):
            event = {"schema_version": 1, "uri": uri, "version": version, "type": "upsert"}
            if chance.random() < 0.1:
                event["type"] = "delete"
            else:
                words = " ".join(chance.choices(_WORDS, k=60))
                event |= {"content": {"text": f"# Page {number}\n\nVersion {version}. {words}.\n"}}
                event |= {"title": f"Page {number}", "author": "Ada", "readers": ["group:staff"]}
            distinct.append(event)
        last[uri] = distinct[-1]
    sent = distinct + chance.choices(distinct, k=events - len(distinct))
    chance.shuffle(sent)
    return sent, last


def _produce(broker: Broker, partitions: int, messages: list[dict[str, Any]]) -> None:
    broker.create_topic(_TOPIC, partitions)
    producer = broker.producer()
    for message in messages:
        producer.produce(_TOPIC, key=message["uri"].encode(), value=json.dumps(message).encode())
        producer.poll(0)
    if producer.flush(60):
        raise SystemExit("the broker did not take every message")


def _measure(
    folder: Path, broker: Broker, messages: list[dict[str, Any]], last: dict[str, dict[str, Any]], *, update: bool
) -> dict[str, Any]:
    home = Home(folder / "home")
    encoder = EncoderConfig(model=str(write_stand_in(folder / "stand-in")), dtype="float32")
    load_encoder(encoder)
    own = {"name": _SOURCE, "kind": "kafka", "bootstrap_servers": broker.servers, "topic": _TOPIC}
    config = folder / "lockstep.yaml"
    sections = {"index": "bench", "sources": [own], "encoder": encoder.model_dump(exclude_defaults=True)}
    config.write_text(yaml.safe_dump(sections), encoding="utf-8")
    apart = _stream_only(Project.open(config, Home(folder / "apart")))
    project = Project.open(config, home)
    section = project.config.sources[0].model_copy(update={"group": "bench"})
    stream = open_stream(section, project.surroundings())
    assert stream is not None
    reports: list[Any] = []
    started = time.perf_counter()
    while sum(report.messages for report in reports) < len(messages):
        reports.append(pump(project, section, stream, wait_seconds=5, run_id="bench"))
        if time.perf_counter() - started > _DEADLINE_SECONDS:
            raise SystemExit(f"only {sum(report.messages for report in reports):,} messages arrived")
    pumped = time.perf_counter() - started
    stream.close()
    result: dict[str, Any] = {"messages": len(messages), **_judged(project, messages, last)}
    result["events a second to durable"] = len(messages) / apart[0]
    result["events a processor second to durable"] = len(messages) / apart[1]
    result["events a second to durable and looked at (pump)"] = len(messages) / pumped
    if update:
        begun = time.perf_counter()
        done = job.update(config, home, scan=False)
        result["seconds of the update"] = time.perf_counter() - begun
        result["documents in the manifest"] = done.manifest.active
        result["documents that should be there"] = sum(event["type"] == "upsert" for event in last.values())
        result["events a second to searchable"] = len(messages) / (pumped + result["seconds of the update"])
        result["steps"] = done.steps
    return result


def _stream_only(project: Project) -> tuple[float, float]:
    """Seconds until every message of the topic is durable and acknowledged: by the clock, and of this processor."""
    section, around = project.config.sources[0], project.surroundings()
    stream = open_stream(section, around)
    assert stream is not None
    limit = project.config.streams.batch_events
    first = stream.receive(limit=1, wait_seconds=30)  # joining the group is not what is measured
    started, busy = time.perf_counter(), time.process_time()
    while first or stream.lag().messages != 0:
        received = first or stream.receive(limit=limit, wait_seconds=1)
        around.events.append([event for one in received for event in one.events])
        stream.acknowledge(received)
        first = []
    took = time.perf_counter() - started, time.process_time() - busy
    stream.close()
    return took


def _judged(project: Project, messages: list[dict[str, Any]], last: dict[str, dict[str, Any]]) -> dict[str, Any]:
    log = project.surroundings().events
    found = log.after(_SOURCE, 0, ["upsert", "delete"])
    keys = list(zip(found["uri"].to_pylist(), found["version"].to_pylist(), strict=True))
    wanted = {(message["uri"], message["version"]) for message in messages}
    state = {row["uri"]: (row["type"], row["version"]) for row in log.state(_SOURCE).to_pylist()}
    wrong = sum(state.get(uri) != (event["type"], event["version"]) for uri, event in last.items())
    return {
        "distinct events": len(wanted),
        "lost": len(wanted - set(keys)),
        "doubled": len(keys) - len(set(keys)),
        "wrong final versions": wrong,
    }


if __name__ == "__main__":
    main()
