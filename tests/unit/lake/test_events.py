"""The log of announced changes: nothing doubled, nothing lost, and one state whatever the order."""

import multiprocessing
import os
import shutil
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.home import Home
from pipelines.lake.blobs import BlobStore
from pipelines.lake.events import Event, EventLog
from pipelines.lake.reading import LakeReader


def upsert(uri, version, text="text", **keys):
    return Event("wiki", uri, "upsert", "test", version=version, content=text.encode(), size_bytes=len(text), **keys)


def delete(uri, version):
    return Event("wiki", uri, "delete", "test", version=version)


def state(log, **options):
    columns = ("uri", "type", "version", "event_id")
    return [tuple(row[name] for name in columns) for row in log.state("wiki", **options).to_pylist()]


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


@pytest.fixture
def log(home):
    return EventLog(home)


def test_an_empty_log_has_no_state_and_no_sequence(log):
    assert log.last_sequence() == 0
    assert state(log) == []
    assert log.append([]).new == 0


def test_events_are_numbered_in_the_order_in_which_they_become_durable(log):
    first = log.append([upsert("a", 1), upsert("b", 1)]).last_sequence
    second = log.append([upsert("a", 2)]).last_sequence
    assert 0 < first < second == log.last_sequence()
    found = log.after("wiki", 0, ["upsert"])
    assert [(row["uri"], row["version"]) for row in found.to_pylist()] == [("a", 1), ("b", 1), ("a", 2)]
    assert log.after("wiki", first, ["upsert"])["sequence"].to_pylist() == [second]
    assert log.after("wiki", 0, ["upsert"], until=first)["uri"].to_pylist() == ["a", "b"]
    assert len(log.after("other", 0, ["upsert"])) == 0


def test_what_the_log_has_is_read_once_and_then_only_what_was_added(home, log, monkeypatch):
    log.append([upsert("a", 1)])
    EventLog(home).append([upsert("b", 1)])
    monkeypatch.setattr(LakeReader, "read", None)
    again = EventLog(home).append([upsert("a", 1), upsert("b", 1), upsert("c", 1)])
    assert (again.new, again.duplicates) == (1, 2)


def test_a_log_that_was_lost_or_restored_takes_again_what_it_no_longer_has(home, log, tmp_path):
    log.append([upsert("a", 1)])
    folder = home.lake / "change_events"
    shutil.copytree(folder, tmp_path / "backup")
    log.append([upsert("b", 1)])
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    restored = EventLog(home).append([upsert("a", 1), upsert("b", 1)])
    assert (restored.new, restored.duplicates) == (1, 1)
    shutil.rmtree(folder)
    assert EventLog(home).append([upsert("a", 1), upsert("b", 1)]).new == 2


def test_an_event_that_comes_again_adds_nothing(log):
    first = log.append([upsert("a", 1), delete("b", 1)])
    again = log.append([delete("b", 1), upsert("a", 1), upsert("a", 1)])
    assert (first.new, again.new, again.duplicates) == (2, 0, 3)
    assert again.last_sequence == first.last_sequence


def test_a_second_delivery_from_elsewhere_at_another_time_is_the_same_event(log):
    log.append([upsert("a", 1, occurred_at=datetime(2026, 1, 1, tzinfo=UTC))])
    other = Event("wiki", "a", "upsert", "kafka:t[3]@99", version=1, content=b"text", size_bytes=4)
    assert log.append([other]).duplicates == 1


@pytest.mark.parametrize(
    "other",
    [
        upsert("a", 2),
        upsert("b", 1),
        upsert("a", 1, "other text"),
        delete("a", 1),
        upsert("a", 1, readers=("group:hr",)),
        upsert("a", 1, readers=()),
        upsert("a", 1, attributes={"title": "t"}),
        upsert("a", 1, media_type="text/html"),
        upsert("a", 1, modified_at=datetime(2026, 1, 1, tzinfo=UTC)),
        upsert("a", 1, pointer='{"url": "https://h/a"}'),
    ],
    ids=["version", "uri", "content", "type", "readers", "nobody", "title", "media type", "modified", "pointer"],
)
def test_another_announcement_is_another_event(log, other):
    log.append([upsert("a", 1)])
    assert log.append([other]).new == 1


def test_a_rejected_message_is_one_event_for_each_place_it_came_from(log, home):
    def bad(offset):
        origin = f"kafka:t[0]@{offset}"
        return Event("wiki", "", "rejected", origin, content=b"\xff", error_class="NotUtf8", error="no")

    assert log.append([bad(1), bad(2)]).new == 2
    assert log.append([bad(1)]).duplicates == 1
    row = log.after("wiki", 0, ["rejected"]).to_pylist()[0]
    assert BlobStore(home.blobs).read(row["content_hash"]) == b"\xff"


def test_content_is_in_the_blobs_and_not_in_the_row(log, home):
    log.append([upsert("a", 1, "the text")])
    (row,) = log.state("wiki").to_pylist()
    assert BlobStore(home.blobs).read(row["content_hash"]) == b"the text"
    assert row["size_bytes"] == 8


def test_the_highest_version_counts_and_a_deletion_beats_a_write_of_the_same_version(log):
    log.append([upsert("a", 2), upsert("b", 1), delete("c", 5)])
    log.append([upsert("a", 1), delete("b", 1), upsert("c", 5), upsert("c", 4)])
    assert [row[:3] for row in state(log)] == [("a", "upsert", 2), ("b", "delete", 1), ("c", "delete", 5)]


def test_the_state_can_be_asked_for_some_documents_and_for_an_earlier_moment(log):
    first = log.append([upsert("a", 1), upsert("b", 1)])
    log.append([upsert("a", 2), upsert("c", 1)])
    assert [row[:3] for row in state(log, uris=["a", "c", "never"])] == [("a", "upsert", 2), ("c", "upsert", 1)]
    assert [row[:3] for row in state(log, until=first.last_sequence)] == [("a", "upsert", 1), ("b", "upsert", 1)]
    assert state(log, uris=[]) == []


EVENTS = st.lists(
    st.builds(
        lambda uri, version, text: delete(uri, version) if text is None else upsert(uri, version, text),
        st.sampled_from("abc"),
        st.integers(0, 3),
        st.none() | st.sampled_from(["x", "y"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EVENTS, st.data())
def test_order_repetition_and_batches_do_not_change_the_state(tmp_path_factory, events, data):
    again = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=6))))
    cut = data.draw(st.integers(0, len(again)))
    one, other = (EventLog(Home(tmp_path_factory.mktemp("log"))) for _ in range(2))
    one.append(events)
    other.append(again[:cut])
    other.append(again[cut:])
    assert state(one) == state(other)
    distinct = {(event.uri, event.type, event.version, event.content) for event in events}
    assert {len(log.after("wiki", 0, ["upsert", "delete"])) for log in (one, other)} == {len(distinct)}
    for uri in {event.uri for event in events}:
        expected = max(event.version for event in events if event.uri == uri)
        assert state(one, uris=[uri])[0][2] == expected


def _append_many(root, first, count, ready, go):
    log = EventLog(Home(root))
    ready.release()
    go.wait()
    for number in range(count):
        log.append([upsert(f"own-{first}-{number}", 1), upsert(f"shared-{number}", 1)])
    os._exit(0)  # a thread of Arrow's that still reads ahead must not meet an interpreter that is being taken down


def test_two_processes_that_append_at_once_lose_and_double_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Event()
    workers = [context.Process(target=_append_many, args=(tmp_path, n, 8, ready, go)) for n in range(2)]
    for worker in workers:
        worker.start()
    for _ in workers:
        assert ready.acquire(timeout=60)
    go.set()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    found = EventLog(Home(tmp_path)).after("wiki", 0, ["upsert"])
    numbers = found["sequence"].to_pylist()
    assert len(numbers) == len(set(numbers)) == 24
    expected = {f"own-{n}-{i}" for n in range(2) for i in range(8)} | {f"shared-{i}" for i in range(8)}
    assert sorted(found["uri"].to_pylist()) == sorted(expected)
