"""Looks at sources, and what an update makes of what they found: real tables and folders, no index and no Dagster."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
import pytest
import yaml

from pipelines.errors import ConfigError, LakeError, MassDeletionRefused, SourceError
from pipelines.home import Home
from pipelines.lake import disk
from pipelines.lake.events import Event, EventLog
from pipelines.project import Project
from pipelines.sources.base import Lag, Received
from pipelines.update.applying import approvals, changes, manifest, parse
from pipelines.update.applying.pending import pending
from pipelines.update.looking import progress
from pipelines.update.looking.follow import pump
from pipelines.update.looking.observe import due, observe
from pipelines.update.upkeep.status import status
from tests.updating import open_project, write_config


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return open_project(tmp_path)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return tmp_path / "corpus"


def apply(project: Project, **options) -> manifest.ManifestReport:
    """The steps of an update up to the manifest, without contact to a source."""
    changes.detect_changes(project, run_id="run", scan=False, **options)
    parse.parse_documents(project, run_id="run")
    return manifest.merge_manifest(project, run_id="run")


def active(project: Project) -> dict[str, str]:
    rows = project.lake.read("documents", where=pc.field("status") == "active")
    return dict(zip(rows["uri"].to_pylist(), rows["content_hash"].to_pylist(), strict=True))


def types(project: Project) -> list[str]:
    return project.lake.read("change_events").sort_by("sequence")["type"].to_pylist()


def hint(project: Project, *uris: str, origin: str = "watch") -> None:
    log = project.events
    log.append([Event("docs", uri, "changed", f"{origin}:{n}:{log.last_sequence()}") for n, uri in enumerate(uris)])


def write(corpus: Path, *names: str, text: str = "Words of {name}.") -> None:
    for name in names:
        (corpus / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus / name).write_text(text.format(name=name))


def test_what_a_look_found_is_durable_and_becomes_documents_without_another_look(project, corpus):
    write(corpus, "a.md", "b.md")
    report = observe(project, "docs", run_id="look")
    assert (report.listed, report.found, report.complete) == (2, 2, True)
    for name in ("a.md", "b.md"):
        (corpus / name).unlink()  # nobody looks again
    assert apply(project).added == 2
    assert set(active(project)) == {"a.md", "b.md"}


def test_a_second_look_finds_nothing_new_before_and_after_it_is_applied(project, corpus):
    write(corpus, "a.md")
    observe(project, "docs", run_id="look")
    assert observe(project, "docs", run_id="look").found == 0
    apply(project)
    assert observe(project, "docs", run_id="look").found == 0
    assert types(project) == ["observed"]


def test_a_document_that_is_again_as_it_was_takes_back_what_was_found_in_between(project, corpus):
    write(corpus, "a.md")
    observe(project, "docs", run_id="look")
    apply(project)
    before = active(project)
    write(corpus, "a.md", text="Something else, and longer.")
    observe(project, "docs", run_id="look")
    write(corpus, "a.md")
    observe(project, "docs", run_id="look")
    assert apply(project).changed == 0
    assert active(project) == before


def test_a_deletion_that_was_found_is_taken_back_when_the_document_returns(project, corpus):
    write(corpus, "a.md", "b.md", "c.md", "d.md")
    observe(project, "docs", run_id="look")
    apply(project)
    (corpus / "a.md").unlink()
    observe(project, "docs", run_id="look")
    write(corpus, "a.md")
    observe(project, "docs", run_id="look")
    assert apply(project).deleted == 0
    assert len(active(project)) == 4


def test_hints_are_looked_at_and_nothing_else(project, corpus):
    write(corpus, "a.md", "b.md")
    hint(project, "a.md")
    report = observe(project, "docs", run_id="look", mode="hints")
    assert (report.mode, report.listed, report.found) == ("hints", 1, 1)
    apply(project)
    assert set(active(project)) == {"a.md"}
    assert observe(project, "docs", run_id="look", mode="hints").found == 0


def test_a_hint_on_a_document_that_is_gone_removes_it_and_one_on_nothing_does_nothing(project, corpus):
    write(corpus, "a.md", "b.md", "c.md", "d.md")
    observe(project, "docs", run_id="look")
    apply(project)
    (corpus / "a.md").unlink()
    hint(project, "a.md", "never-there.md")
    assert observe(project, "docs", run_id="look", mode="hints").found == 1
    assert apply(project).deleted == 1
    assert set(active(project)) == {"b.md", "c.md", "d.md"}


def test_the_time_of_the_first_hint_is_when_a_change_was_detected(project, corpus):
    write(corpus, "a.md")
    heard = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
    project.events.append([Event("docs", "a.md", "changed", "watch:1", received_at=heard)])
    observe(project, "docs", run_id="look", mode="hints")
    apply(project)
    assert project.lake.read("documents")["detected_at"].to_pylist() == [heard]


def test_a_source_that_cannot_be_read_infers_nothing_and_rests(project, corpus):
    write(corpus, "a.md")
    observe(project, "docs", run_id="look")
    apply(project)
    corpus.rename(corpus.with_name("away"))
    with pytest.raises(SourceError):
        observe(project, "docs", run_id="look")
    state = progress.read(project.home, "docs")
    assert state.failures == 1
    assert state.retry_at is not None
    assert types(project) == ["observed"]
    assert pending(project)[0].resting_until is not None


def test_a_source_that_fails_does_not_keep_another_from_being_applied(tmp_path, corpus):
    corpus.mkdir()
    config = write_config(tmp_path)
    other = {"name": "gone", "kind": "filesystem", "path": "nowhere"}
    data = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**data, "sources": [*data["sources"], other]}))
    project = Project.open(config, Home(tmp_path / "home"))
    write(corpus, "a.md")
    report = changes.detect_changes(project, run_id="run")
    errors = {outcome.source: outcome.error for outcome in report.sources}
    assert errors["docs"] is None
    assert "nowhere" in str(errors["gone"])
    parse.parse_documents(project, run_id="run")
    assert manifest.merge_manifest(project, run_id="run").added == 1


def test_what_cannot_be_read_is_put_on_record_once_and_taken_off_when_it_can_be(project, corpus):
    write(corpus, "a.md")
    (corpus / "loop").symlink_to(corpus.parent)
    observe(project, "docs", run_id="look")
    assert apply(project).open_dead_letters == 1
    count = len(types(project))
    assert observe(project, "docs", run_id="look").problems
    assert len(types(project)) == count
    (corpus / "loop").unlink()
    observe(project, "docs", run_id="look")
    assert types(project)[-1] == "recovered"
    assert apply(project).open_dead_letters == 0


def many(corpus: Path, number: int) -> None:
    write(corpus, *(f"n{n:03}.md" for n in range(number)))


def half_of_thirty_gone(project: Project, corpus: Path) -> None:
    """Thirty documents were applied; then half of them are found missing, and that is not applied yet."""
    many(corpus, 30)
    observe(project, "docs", run_id="look")
    apply(project)
    for n in range(15):
        (corpus / f"n{n:03}.md").unlink()
    observe(project, "docs", run_id="look")


def test_deletions_beyond_the_guard_wait_for_the_operator_and_nothing_of_the_source_is_applied(project, corpus):
    many(corpus, 30)
    observe(project, "docs", run_id="look")
    apply(project)
    for n in range(15):
        (corpus / f"n{n:03}.md").unlink()
    write(corpus, "new.md")
    observe(project, "docs", run_id="look")
    with pytest.raises(MassDeletionRefused, match="lockstep approve docs"):
        apply(project)
    assert len(active(project)) == 30
    (request,) = approvals.requests(project)
    assert (request.count, request.total, request.approved_by) == (15, 30, None)
    (waiting,) = pending(project)
    assert waiting.held is not None
    assert not waiting.to_apply


def test_approved_deletions_are_done_and_the_question_is_settled(project, corpus):
    half_of_thirty_gone(project, corpus)
    with pytest.raises(MassDeletionRefused):
        apply(project)
    assert approvals.approve(project, "docs", by="user:ada", run_id="run").approved_by == "user:ada"
    assert pending(project)[0].to_apply
    assert apply(project).deleted == 15
    assert approvals.requests(project) == []
    audited = project.lake.read("audit_log")
    assert "approve_deletions" in audited["action"].to_pylist()


def test_the_guard_says_how_many_of_the_missing_documents_have_only_another_name(project, corpus):
    for n in range(30):
        (corpus / f"n{n:03}.md").write_text(f"# Note {n}\n\nAbout matter {n}.\n")
    observe(project, "docs", run_id="look")
    apply(project)
    for n in range(12):
        (corpus / f"n{n:03}.md").rename(corpus / f"moved-{n:03}.md")
    (corpus / "n020.md").unlink()
    observe(project, "docs", run_id="look")
    with pytest.raises(MassDeletionRefused, match=r"13 of 30 .*29 documents are there now \(12 of the missing ones"):
        apply(project)


def test_an_approval_covers_what_was_shown_and_no_other_document(project, corpus):
    half_of_thirty_gone(project, corpus)
    with pytest.raises(MassDeletionRefused):
        apply(project)
    approvals.approve(project, "docs", by="user:ada", run_id="run")
    (corpus / "n020.md").unlink()
    observe(project, "docs", run_id="look")
    with pytest.raises(MassDeletionRefused, match="16 of 30"):
        apply(project)
    assert approvals.requests(project)[0].approved_by is None


def test_many_small_deletions_are_one_large_one_to_the_guard(project, corpus):
    many(corpus, 30)
    observe(project, "docs", run_id="look")
    apply(project)
    done = 0
    with pytest.raises(MassDeletionRefused, match="within 3600 s before"):
        for n in range(30):
            (corpus / f"n{n:03}.md").unlink()
            hint(project, f"n{n:03}.md")
            observe(project, "docs", run_id="look", mode="hints")
            done += apply(project).deleted
    assert 5 <= done <= 9


def test_nobody_can_approve_what_was_not_asked(project):
    with pytest.raises(ConfigError, match="no deletions that wait"):
        approvals.approve(project, "docs", by="user:ada", run_id="run")
    with pytest.raises(ConfigError, match="no source is named"):
        approvals.approve(project, "nobody", by="user:ada", run_id="run")


def test_a_change_of_rules_is_applied_without_a_look(tmp_path, project, corpus):
    write(corpus, "a.md", "hr/b.md")
    observe(project, "docs", run_id="look")
    apply(project)
    before = dict(zip(*(project.lake.read("documents")[name].to_pylist() for name in ("uri", "acl_id")), strict=True))
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("group:staff", "group:board"))
    again = Project.open(config, project.home)
    assert pending(again)[0].relabelled
    assert apply(again).access_changed == 1
    after = dict(zip(*(again.lake.read("documents")[name].to_pylist() for name in ("uri", "acl_id")), strict=True))
    assert after["a.md"] != before["a.md"]
    assert after["hr/b.md"] == before["hr/b.md"]
    assert not pending(again)[0].relabelled


def readers_of(project: Project, uri: str) -> list[str]:
    sets = dict(zip(*(project.lake.read("acl_sets")[n].to_pylist() for n in ("acl_id", "principals")), strict=True))
    (row,) = project.lake.read("documents", where=pc.field("uri") == uri).to_pylist()
    return sets[row["acl_id"]]


def test_where_a_rule_is_taken_away_what_the_source_reported_counts_again_without_a_look(tmp_path):
    config = tmp_path / "lockstep.yaml"
    feed = {"name": "feed", "kind": "webhook", "secret_env": "FEED_SECRET"}
    wide = {"access": [{"match": "**", "readers": ["group:staff"]}]}
    config.write_text(yaml.safe_dump({"index": "test", "sources": [{**feed, **wide}]}))
    project = Project.open(config, Home(tmp_path / "home"))
    for uri, readers in (("narrow.md", ("user:ada",)), ("silent.md", None)):
        project.events.append([Event("feed", uri, "upsert", "t", version=1, content=b"# A\n", readers=readers)])
    observe(project, "feed", run_id="look", mode="hints")
    apply(project)
    assert readers_of(project, "narrow.md") == ["group:staff"]
    config.write_text(yaml.safe_dump({"index": "test", "sources": [feed]}))
    project = Project.open(config, project.home)
    assert apply(project).access_changed == 2
    assert readers_of(project, "narrow.md") == ["user:ada"]
    assert readers_of(project, "silent.md") == ["role:admin"]


def test_a_flood_is_applied_in_bounded_parts(tmp_path, corpus):
    project = open_project(tmp_path, streams={"max_events_per_update": 10})
    many(corpus, 25)
    observe(project, "docs", run_id="look")
    assert [apply(project).added for _ in range(4)] == [10, 10, 5, 0]


def test_who_asks_for_the_sources_state_gets_all_of_it_however_much_was_found(tmp_path, corpus):
    project = open_project(tmp_path, streams={"max_events_per_update": 10})
    many(corpus, 25)
    report = changes.detect_changes(project, run_id="run")
    assert (report.sources[0].added, report.waiting) == (25, 0)


def test_what_an_update_leaves_to_the_next_one_is_told_until_it_is_applied(tmp_path, corpus):
    project = open_project(tmp_path, streams={"max_events_per_update": 10})
    many(corpus, 25)
    observe(project, "docs", run_id="look")
    assert told(project) == ("degraded", 0, True)  # more than one update takes
    assert changes.detect_changes(project, run_id="run", scan=False).waiting == 15
    apply(project)
    assert told(project) == ("degraded", 15, True)
    apply(project)
    assert told(project) == ("degraded", 5, False)
    apply(project)
    assert told(project) == ("healthy", 0, False)


def told(project: Project) -> tuple[str, int, bool]:
    (part,) = (part for part in status(project).parts if part.name == "pending")
    (queue,) = pending(project)
    assert part.details["sources"]["docs"]["left"] == queue.left
    return part.health, queue.left, queue.more


class Announcing:
    """A stream that gives what it is told, and remembers what was acknowledged."""

    def __init__(self, *events: Event) -> None:
        self.waiting = [Received((event,), receipt=number) for number, event in enumerate(events)]
        self.acknowledged: list[Received] = []
        self.fails: SourceError | None = None

    def receive(self, *, limit: int, wait_seconds: float) -> Sequence[Received]:
        if self.fails:
            raise self.fails
        return self.waiting[:limit]

    def acknowledge(self, received: Sequence[Received]) -> None:
        self.acknowledged += received
        self.waiting = self.waiting[len(received) :]

    def lag(self) -> Lag:
        return Lag(len(self.waiting))

    def close(self) -> None:
        return


def test_what_a_stream_announces_is_durable_acknowledged_and_looked_at(project, corpus):
    write(corpus, "a.md", "b.md")
    stream = Announcing(*(Event("docs", uri, "changed", f"s:{uri}") for uri in ("a.md", "b.md")))
    report = pump(project, project.config.source("docs"), stream, wait_seconds=0, run_id="stream")
    assert (report.messages, report.new, report.found, report.lag.messages) == (2, 2, 2, 0)
    assert len(stream.acknowledged) == 2
    assert apply(project).added == 2


def test_nothing_is_acknowledged_before_it_is_durable(project, corpus, monkeypatch):
    write(corpus, "a.md")
    stream = Announcing(Event("docs", "a.md", "changed", "s:1"))

    def refuse(*_args, **_options):
        raise SourceError("no space")

    monkeypatch.setattr(EventLog, "append", refuse)
    with pytest.raises(SourceError):
        pump(project, project.config.source("docs"), stream, wait_seconds=0, run_id="stream")
    assert stream.acknowledged == []


def test_nothing_is_acknowledged_before_it_is_on_the_disk(project, corpus, monkeypatch):
    write(corpus, "a.md")
    events = [Event("docs", "a.md", "changed", "s:1")]
    order = []

    class Remembering(Announcing):
        def acknowledge(self, received):
            order.append(("acknowledged", project.lake.count("change_events")))
            super().acknowledge(received)

    def sync(folder):
        order.append((folder, project.lake.count("change_events")))

    monkeypatch.setattr(disk, "sync", sync)
    pump(project, project.config.source("docs"), Remembering(*events), wait_seconds=0, run_id="stream")
    assert order == [(project.home.root, 1), ("acknowledged", 1)]

    def fails(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk, "sync", fails)
    stream = Announcing(*events)  # known already: who appended it may not have come so far
    with pytest.raises(LakeError, match="Input/output error; free space"):
        pump(project, project.config.source("docs"), stream, wait_seconds=0, run_id="stream")
    assert stream.acknowledged == []


def test_a_folder_that_cannot_be_written_through_is_an_error(tmp_path):
    disk.sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        disk.sync(tmp_path / "absent")


def test_a_stream_that_fails_is_left_alone_for_a_while_and_its_source_is_not(project):
    stream = Announcing()
    stream.fails = SourceError("broker down")
    with pytest.raises(SourceError):
        pump(project, project.config.source("docs"), stream, wait_seconds=0, run_id="stream")
    state = progress.read(project.home, "docs")
    assert (state.stream_failures, state.failures) == (1, 0)
    assert state.stream_retry_at is not None
    assert due(project, datetime.datetime.now(datetime.UTC))  # listing goes on


def test_a_message_that_nobody_understands_becomes_a_dead_letter_with_its_payload(project):
    rejected = Event("docs", "", "rejected", "s[0]@7", content=b"\xff", error_class="NotJson", error="not JSON: byte 0")
    pump(project, project.config.source("docs"), Announcing(rejected), wait_seconds=0, run_id="stream")
    assert apply(project).open_dead_letters == 1
    (letter,) = project.lake.read("dead_letters").to_pylist()
    assert (letter["stage"], letter["uri"], letter["error_class"]) == ("event", "s[0]@7", "NotJson")
    assert project.blobs.read(letter["content_hash"]) == b"\xff"


def test_a_source_is_due_by_its_cadence_and_when_an_announcement_was_not_looked_at(project, corpus):
    write(corpus, "a.md")
    now = datetime.datetime.now(datetime.UTC)
    assert due(project, now) == [("docs", "listing")]
    observe(project, "docs", run_id="look")
    assert due(project, now) == []
    hint(project, "a.md")
    assert due(project, now) == []
    assert due(project, now + datetime.timedelta(seconds=20)) == [("docs", "hints")]
    assert [name for name, _ in due(project, now + datetime.timedelta(seconds=301))] == ["docs"]


def test_a_source_that_rests_or_is_not_monitored_is_never_due(project, corpus, tmp_path):
    progress.change(project.home, "docs", retry_at=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60))
    now = datetime.datetime.now(datetime.UTC)
    assert due(project, now) == []
    assert due(project, now + datetime.timedelta(seconds=61)) == [("docs", "listing")]
    section = project.config.source("docs").model_copy(update={"monitor": False})
    project.config = project.config.model_copy(update={"sources": (section,)})
    assert due(project, now + datetime.timedelta(seconds=61)) == []
