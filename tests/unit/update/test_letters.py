"""Dead letters: tried again by themselves or when asked, laid aside, and resolved when nothing is wrong any more."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ConfigError, LockstepError
from pipelines.governance.audit import check_chain
from pipelines.lake import dead_letters
from pipelines.lake.dead_letters import Failure
from pipelines.lake.tables import Lake
from pipelines.parsing.failures import ParseFailure
from pipelines.project import Project
from pipelines.update.applying.changes import detect_changes
from pipelines.update.looking import letters, progress
from pipelines.update.looking.letters import discard, due_retries, replay, replay_due, select
from tests.fakes.index import FakeIndex
from tests.integration._actions import _ParsingHere
from tests.updating import open_project, update

GOOD = "# Good\n\nThis one can be read.\n"


class Damaged(ParseFailure):
    """What a parser raises when the test asks for it."""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Words whose documents cannot be parsed for now, with the reason."""
    import pipelines.parsing.parser as parser

    reasons: dict[str, str] = {}
    real: Callable[..., Any] = parser.parse

    def parse(content: bytes, media_type: str, config: Any) -> Any:
        for word, reason in reasons.items():
            if word.encode() in content:
                raise Damaged(reason)
        return real(content, media_type, config)

    monkeypatch.setenv("CALLS_SECRET", "a secret of at least thirty-two characters")
    monkeypatch.setattr(parser, "parse", parse)
    monkeypatch.setattr("pipelines.parsing.stage.Pool", _ParsingHere)
    return reasons


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, broken: dict[str, str]) -> Project:
    opened = open_project(tmp_path, encoder={"model": str(tiny_model)})
    write(opened, "good.md", GOOD)
    return Project(opened.config, opened.home, index=FakeIndex())


def write(project: Project, uri: str, text: str) -> None:
    path = project.home.root.parent / "corpus" / uri
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def status_of(project: Project, uri: str) -> str:
    rows = project.lake.read(dead_letters.TABLE).to_pylist()
    (status,) = {row["status"] for row in rows if row["uri"] == uri}
    return str(status)


def one(project: Project) -> dict[str, Any]:
    (row,) = project.lake.read(dead_letters.TABLE).to_pylist()
    return dict(row)


# --- replays ---


def test_a_replayed_document_is_parsed_again_and_its_letter_resolved(project: Project, broken: dict[str, str]) -> None:
    broken["quay"] = "no reader for this yet"
    write(project, "quay.md", "# Quay\n\nThe quay wall.\n")
    update(project, "one")
    assert one(project)["stage"] == "parse"
    del broken["quay"]
    assert update(project, "two").parsed.parsed == 0  # nothing has changed at the source: it is not tried by itself
    report = replay(project, select(project, everything=True), run_id="replay")
    assert report.announced == 1
    done = update(project, "three")
    assert done.parsed.parsed == 1
    assert done.manifest.quarantined == 0
    assert status_of(project, "quay.md") == "resolved"
    assert done.candidate.rows > 1


def test_asking_twice_is_asking_once(project: Project, broken: dict[str, str]) -> None:
    broken["quay"] = "no reader for this yet"
    write(project, "quay.md", "# Quay\n\nThe quay wall.\n")
    update(project, "one")
    found = select(project, everything=True)
    assert replay(project, found, run_id="a").announced == 1
    again = replay(project, found, run_id="b")
    assert (again.announced, again.waiting) == (0, 1)
    update(project, "two")
    row = one(project)
    assert (row["status"], row["attempts"]) == ("open", 2)
    assert replay(project, [row], run_id="c").announced == 1  # it failed again, and may be asked for again
    update(project, "three")
    assert one(project)["attempts"] == 3
    del broken["quay"]
    replay(project, [row], run_id="d")
    update(project, "four")
    assert status_of(project, "quay.md") == "resolved"


def test_letters_are_selected_by_id_class_source_and_stage(project: Project, broken: dict[str, str]) -> None:
    broken["quay"] = "damaged"
    for number in range(3):
        write(project, f"{number}.md", f"# Quay\n\nPart {number} of the quay.\n")
    update(project, "one")
    ids = [row["letter_id"] for row in select(project, everything=True)]
    assert len(ids) == 3
    assert [row["letter_id"] for row in select(project, letter_ids=[ids[1][:10], ids[1]])] == [ids[1]]
    assert len(select(project, error_class="Damaged")) == 3
    assert select(project, error_class="Encrypted") == []
    assert len(select(project, source="docs", stage="parse")) == 3
    with pytest.raises(ConfigError, match="one of the three"):
        select(project)
    with pytest.raises(ConfigError, match="one of the three"):
        select(project, letter_ids=[ids[0]], everything=True)
    with pytest.raises(LockstepError, match="no dead letter 'zz'"):
        select(project, letter_ids=["zz"])


def test_a_letter_of_a_source_that_is_not_configured_is_refused_with_the_reason(project: Project) -> None:
    dead_letters.record(project.lake, [Failure("gone", "a.md", "fetch", "FetchError", "away")], healthy=[], run_id="r")
    report = replay(project, select(project, everything=True), run_id="replay")
    assert report.announced == 0
    assert "no source is named 'gone'" in report.refused[0]


# --- messages ---


def announced_project(tmp_path: Path, tiny_model: Path) -> Project:
    import yaml

    opened = open_project(tmp_path, encoder={"model": str(tiny_model)})
    path = tmp_path / "lockstep.yaml"
    config = yaml.safe_load(path.read_text())
    config["sources"] = [
        {
            "name": "calls",
            "kind": "webhook",
            "secret_env": "CALLS_SECRET",
            "access": [{"match": "**", "readers": ["group:staff"]}],
        },
    ]
    path.write_text(yaml.safe_dump(config))
    return Project(Project.open(path, opened.home).config, opened.home, index=FakeIndex())


def test_a_message_that_is_understood_now_becomes_an_event_and_its_letter_is_resolved(
    tmp_path: Path, tiny_model: Path, broken: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.sources.announced import announcements

    del broken
    project = announced_project(tmp_path, tiny_model)
    message = {
        "schema_version": 1,
        "type": "upsert",
        "uri": "a.md",
        "version": 1,
        "media_type": "text/markdown",
        "content": {"text": GOOD},
    }
    payload = json.dumps(message).encode()
    section = project.config.sources[0]
    with monkeypatch.context() as then:
        then.setattr(announcements, "SCHEMA_VERSION", 0)
        event = announcements.decode(payload, section, origin="webhook:1")  # type: ignore[arg-type]
    assert event.type == "rejected"
    project.events.append([event])
    update(project, "one")
    row = one(project)
    assert (row["stage"], row["status"], row["error_class"]) == ("event", "open", "UnknownSchemaVersion")
    report = replay(project, [row], run_id="replay")
    assert (report.understood, report.refused) == (1, ())
    assert replay(project, [row], run_id="replay").waiting == 1
    done = update(project, "two")
    assert done.manifest.added == 1
    assert one(project)["status"] == "resolved"


def test_a_message_that_nobody_understands_stays_a_letter(
    tmp_path: Path, tiny_model: Path, broken: dict[str, str]
) -> None:
    from pipelines.sources.announced.announcements import decode

    del broken
    project = announced_project(tmp_path, tiny_model)
    project.events.append([decode(b"{not json", project.config.sources[0], origin="webhook:1")])  # type: ignore[arg-type]
    update(project, "one")
    report = replay(project, [one(project)], run_id="replay")
    assert report.understood == 0
    assert "JSON" in report.refused[0]
    update(project, "two")
    assert one(project)["status"] == "open"


# --- discarding ---


def test_a_discarded_letter_stays_so_until_content_or_error_is_another(
    project: Project, broken: dict[str, str]
) -> None:
    broken["quay"] = "damaged"
    write(project, "quay.md", "# Quay\n\nThe quay wall.\n")
    update(project, "one")
    report = discard(project, select(project, everything=True), reason="scanned twice", run_id="discard")
    assert (report.discarded, report.unchanged) == (1, 0)
    assert dead_letters.open_letters(project.lake).num_rows == 0
    replay(project, [one(project)], run_id="again")
    update(project, "two")
    assert one(project)["status"] == "discarded"
    write(project, "quay.md", "# Quay\n\nThe quay wall, other bytes.\n")
    update(project, "three")
    assert (one(project)["status"], one(project)["attempts"]) == ("open", 1)


def test_discarding_is_in_the_audit_log_with_its_reason_and_needs_one(project: Project, broken: dict[str, str]) -> None:
    broken["quay"] = "damaged"
    write(project, "quay.md", "# Quay\n\nThe quay wall.\n")
    update(project, "one")
    found = select(project, everything=True)
    with pytest.raises(ConfigError, match="--reason"):
        discard(project, found, reason=" ", run_id="discard")
    discard(project, found, reason="a drawing", run_id="discard")
    assert discard(project, found, reason="a drawing", run_id="discard").unchanged == 1
    log = project.lake.read("audit_log").sort_by("sequence").to_pylist()
    (entry,) = [row for row in log if row["action"] == "discard_dead_letters"]
    assert json.loads(entry["detail"]) == {"letters": [found[0]["letter_id"]], "reason": "a drawing"}
    assert not check_chain(log)


# --- retries ---

FAILURE = Failure("docs", "a.md", "fetch", "FetchError", "timed out", transient=True)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def attempts(lake: Lake, failure: Failure, count: int) -> list[tuple[int, timedelta | None]]:
    seen = []
    for number in range(count):
        dead_letters.record(lake, [failure], healthy=[], run_id=str(number))
        (row,) = lake.read(dead_letters.TABLE).to_pylist()
        wait = None if row["retry_at"] is None else row["retry_at"] - row["last_seen_at"]
        seen.append((row["attempts"], wait))
    return seen


def test_what_may_pass_waits_longer_each_time_and_not_for_ever(lake: Lake) -> None:
    waits = dict(attempts(lake, FAILURE, dead_letters.LAST_ATTEMPT + 1))
    for attempt in range(1, dead_letters.LAST_ATTEMPT):
        bound = timedelta(seconds=min(60 * 2 ** (attempt - 1), 6 * 3_600))
        wait = waits[attempt]
        assert wait is not None
        assert bound / 2 <= wait <= bound
    assert waits[dead_letters.LAST_ATTEMPT] is None
    assert waits[dead_letters.LAST_ATTEMPT + 1] is None


def test_waits_are_random_so_that_what_failed_together_does_not_come_back_together() -> None:
    assert len({dead_letters.backoff_seconds(5) for _ in range(20)}) > 10


def test_what_cannot_pass_is_never_tried_by_itself(lake: Lake) -> None:
    assert attempts(lake, replace(FAILURE, transient=False), 2) == [(1, None), (2, None)]


def test_a_resolved_letter_waits_for_nothing_and_starts_anew_when_it_fails_again(lake: Lake) -> None:
    attempts(lake, FAILURE, 3)
    assert dead_letters.record(lake, [], healthy=[("docs", "a.md")], run_id="r") == 0
    (row,) = lake.read(dead_letters.TABLE).to_pylist()
    assert (row["status"], row["retry_at"]) == ("resolved", None)
    assert attempts(lake, FAILURE, 1)[0][0] == 1


def test_a_letter_is_due_when_its_time_has_come_and_waits_once_it_was_asked_for(project: Project) -> None:
    update(project, "one")
    failures = [FAILURE, replace(FAILURE, uri="b.md", transient=False)]
    dead_letters.record(project.lake, failures, healthy=[], run_id="r")
    now = datetime.now(UTC)
    assert due_retries(project, now) == []
    later = now + timedelta(minutes=2)
    assert [row["uri"] for row in due_retries(project, later)] == ["a.md"]
    assert replay_due(project, later).announced == 1
    assert due_retries(project, later) == []
    assert replay_due(project, later).letters == 0


def test_a_retry_that_left_its_letter_as_it_was_is_no_reason_to_hurry(project: Project) -> None:
    update(project, "one")
    dead_letters.record(project.lake, [FAILURE], healthy=[], run_id="r")
    later = datetime.now(UTC) + timedelta(minutes=2)
    replay_due(project, later)
    progress.change(
        project.home, "docs", observed_sequence=project.events.last_sequence()
    )  # looked at, and nothing came of it
    assert due_retries(project, datetime.now(UTC) + timedelta(seconds=50)) == []
    assert len(due_retries(project, datetime.now(UTC) + timedelta(hours=1))) == 1


def test_failed_parses_are_forgotten_and_nothing_else(project: Project, broken: dict[str, str]) -> None:
    broken["quay"] = "damaged"
    for number in range(2):
        write(project, f"{number}.md", f"# Quay\n\nPart {number} of the quay.\n")
    update(project, "one")
    rows = project.lake.read("elements").to_pylist()
    failed = [row["content_hash"] for row in rows if row["status"] == "failed"]
    good = [row["content_hash"] for row in rows if row["status"] == "parsed"]
    with project.writer("run", "test"):
        assert letters.forget_failed_parses(project, [failed[0], *good, "unknown"], "run") == 1
        assert letters.forget_failed_parses(project, [], "run") == 0
    left = {row["content_hash"] for row in project.lake.read("elements").to_pylist()}
    assert left == {failed[1], *good}


def test_an_update_that_only_looks_at_what_was_announced_heals_a_replayed_letter(
    project: Project, broken: dict[str, str]
) -> None:
    broken["quay"] = "damaged"
    write(project, "quay.md", "# Quay\n\nThe quay wall.\n")
    update(project, "one")
    del broken["quay"]
    replay(project, select(project, everything=True), run_id="replay")
    with project.writer("two", "update"):
        found = detect_changes(project, run_id="two", sources=["docs"])
    assert sum(outcome.added for outcome in found.sources) == 1
