"""What Dagster does with what the library's steps return or raise. The steps themselves are replaced by small fakes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from assets import derivation, expectations, freshness, gates, ingestion, serving, verification
from jobs.run import JobName, JobOutcome, run_job
from pipelines.definitions import defs
from pipelines.errors import GateFailed, IndexUnavailable, LakeError, LockstepError, MassDeletionRefused, WriterBusy
from pipelines.home import Home
from pipelines.lake.lock import writer_lock
from pipelines.update.reports import (
    CandidateReport,
    ChangesReport,
    ChunkReport,
    EncodeReport,
    GateResult,
    ManifestReport,
    ParseReport,
    PromotionReport,
    RollbackReport,
    SourceOutcome,
    VerifyReport,
)
from pipelines.update.snapshot import rollback as rollback_module
from pipelines.update.snapshot.agreement import not_asked
from pipelines.update.snapshot.gates import GATES
from resources.instance import open_instance

pytestmark = pytest.mark.integration


@dataclass
class FakeLibrary:
    """Stands for the steps: counts calls, raises what a test asks for, remembers what was promoted."""

    raises: dict[str, list[BaseException]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    promoted: list[str] = field(default_factory=list)
    refused_gates: set[str] = field(default_factory=set)
    failing: dict[str, str] = field(default_factory=dict)  # table to severity of its failing expectation
    sources: tuple[SourceOutcome, ...] = (SourceOutcome("handbook", added=2),)
    full: list[bool] = field(default_factory=list)
    scopes: set[str] = field(default_factory=set)
    approved: list[bool] = field(default_factory=list)

    def step(self, name: str, report: object) -> Callable[..., object]:
        def call(*_: object, **options: Any) -> object:
            self.calls.append(name)
            if self.raises.get(name):
                raise self.raises[name].pop(0)
            if options.get("progress"):
                options["progress"](1, 2)
            return report

        return call

    def promote(self, project: Any, snapshot_id: str, *, run_id: str) -> PromotionReport:
        self.calls.append("live_index")
        self.promoted.append(snapshot_id)
        project.index = lambda: SimpleNamespace(count=lambda _: 4)
        return PromotionReport(snapshot_id, True, None, "handbook_a", 0.01)

    def detect(self, *_: object, approve_deletions: bool, progress: Any, **__: object) -> object:
        self.approved.append(approve_deletions)
        return self.step("source_changes", ChangesReport(-1, self.sources, 2, 100, 0, 0.1))(progress=progress)

    def build(self, *_: object, full: bool, **__: object) -> object:
        self.full.append(full)
        report = CandidateReport("s1", True, "full", "handbook_a", 0, 2, 4, "d" * 64, 4, 0, (), "first", 0.1)
        return self.step("index_snapshots", report)()

    def judge(self, *_: object, rebuilt: bool) -> list[GateResult]:
        self.calls.append("gates")
        results = [
            GateResult(n, n not in self.refused_gates, f"{n} holds", {"failing_rows": [{"row": "r1"}]}) for n in GATES
        ]
        return [*results, not_asked("as the test wants it")]

    def check(self, _: object, table: str, *, scope: str, **__: object) -> list[Any]:
        self.scopes.add(scope)
        severity = self.failing.get(table)
        row = {"uri": "a.md"}
        return [
            SimpleNamespace(
                name="uri_is_unique",
                passed=severity is None,
                expected="every uri once",
                observed="1 twice",
                checked_rows=2,
                severity=severity or "error",
                failing_rows=[row] if severity else [],
            )
        ]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    fake = FakeLibrary()
    parsed = ParseReport(2, 0, 0, 0, 100, (), 0, 0.1)
    merged = ManifestReport(0, 2, 0, 0, 0, 0, 0, 2, 0, True, 0.1)
    monkeypatch.setattr(ingestion, "detect_changes", fake.detect)
    monkeypatch.setattr(ingestion, "parse_documents", fake.step("elements", parsed))
    monkeypatch.setattr(ingestion, "merge_manifest", fake.step("documents", merged))
    monkeypatch.setattr(derivation, "chunk_documents", fake.step("chunks", ChunkReport(2, 4, 4, 0, 0.1)))
    monkeypatch.setattr(
        derivation, "encode_chunks", fake.step("embeddings", EncodeReport(4, 0, 4, (), "m" * 32, 0, 0.1))
    )
    monkeypatch.setattr(serving, "build_candidate", fake.build)
    monkeypatch.setattr(serving, "promote", fake.promote)
    monkeypatch.setattr(gates, "_judge", fake.judge)
    monkeypatch.setattr(expectations, "check_table", fake.check)
    monkeypatch.setattr(expectations, "_limits", lambda *_, **__: None)
    verified = VerifyReport(True, "s1", "every row", True, 4, 4, "d" * 64, "d" * 64, (), (), 0, 0.1)
    monkeypatch.setattr(freshness, "freshness", lambda _project: [])
    monkeypatch.setattr(verification, "verify", fake.step("verify", verified))
    return fake


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def config(home: Home) -> Path:
    path = home.root / "lockstep.yaml"
    path.write_text("index: handbook\nsources: [{name: handbook, kind: filesystem, path: corpus}]\n")
    return path


@pytest.fixture
def run(library: FakeLibrary, home: Home, config: Path) -> Callable[..., JobOutcome]:
    def execute(name: JobName = "incremental_update", **options: Any) -> JobOutcome:
        if name != "verify":
            options.setdefault("writer", {"retry_delay_seconds": 0.0, "max_retries": 2})
        return run_job(defs, name, config, home, **options)

    return execute


def test_an_update_runs_every_step_and_promotes_last(run: Callable[..., JobOutcome], library: FakeLibrary) -> None:
    outcome = run()
    assert outcome.success
    assert outcome.message is None
    assert library.promoted == ["s1"]
    assert library.calls[-1] == "live_index"
    steps = [
        "source_changes",
        "elements",
        "documents",
        "chunks",
        "embeddings",
        "index_snapshots",
        "gates",
        "live_index",
    ]
    assert [name for name in outcome.reports if not name.endswith("_expectations")] == steps
    assert set(outcome.reports) <= set(outcome.step_seconds)


def test_progress_reaches_the_caller_by_step(run: Callable[..., JobOutcome]) -> None:
    seen: list[tuple[str, int, int]] = []
    run(on_progress=lambda *told: seen.append(told))
    assert ("embeddings", 1, 2) in seen


def test_a_run_of_this_process_is_in_the_history_that_the_ui_shows(run: Callable[..., JobOutcome], home: Home) -> None:
    outcome = run()
    with open_instance(home) as instance:
        recorded = instance.get_run_by_id(outcome.run_id)
        event = instance.get_latest_materialization_event(dg.AssetKey("chunks"))
    assert recorded is not None
    assert recorded.status is dg.DagsterRunStatus.SUCCESS
    assert str(home.root) in json.dumps(recorded.run_config)
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert {"dagster/row_count", "table_version", "seconds", "preview", "added"} <= set(metadata)


def test_an_error_that_may_pass_is_tried_again(run: Callable[..., JobOutcome], library: FakeLibrary) -> None:
    library.raises["embeddings"] = [IndexUnavailable("one"), IndexUnavailable("two")]
    outcome = run()
    assert outcome.success
    assert outcome.error is None
    assert library.calls.count("embeddings") == 3


def test_an_error_that_does_not_pass_ends_with_its_own_words_after_the_last_retry(
    run: Callable[..., JobOutcome], library: FakeLibrary, home: Home
) -> None:
    library.raises["index_snapshots"] = [IndexUnavailable("reaching the index: refused; start it")] * 9
    outcome = run()
    assert library.calls.count("index_snapshots") == 3
    assert outcome.message == "reaching the index: refused; start it"
    assert isinstance(outcome.error, IndexUnavailable)
    failure = _failure(home, outcome.run_id, "index_snapshots")
    assert "start it" in str(failure.user_failure_data.description)
    assert failure.user_failure_data.metadata["attempts"].value == 3


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("source_changes", MassDeletionRefused("deleting 90 of 100; approve it")),
        ("documents", LakeError("reading table documents: damaged; restore it")),
        ("embeddings", LakeError("reading table chunks: damaged; restore it")),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_that_stays_fails_the_run_at_once_and_moves_no_alias(
    run: Callable[..., JobOutcome], library: FakeLibrary, step: str, error: LockstepError
) -> None:
    library.raises[step] = [error]
    outcome = run()
    assert not outcome.success
    assert outcome.error is error
    assert outcome.message == str(error)
    assert library.calls.count(step) == 1
    assert library.promoted == []


def test_a_refused_deletion_tells_an_operator_of_the_ui_what_to_set(
    run: Callable[..., JobOutcome], library: FakeLibrary, home: Home
) -> None:
    library.raises["source_changes"] = [MassDeletionRefused("deleting 90 of 100; approve it")]
    failure = _failure(home, run().run_id, "source_changes")
    assert "approve_deletions: true" in failure.user_failure_data.metadata["next_step"].value
    run(writer={"approve_deletions": True})
    assert library.approved == [False, True]


def test_a_defect_is_told_as_unexpected_and_moves_no_alias(
    run: Callable[..., JobOutcome], library: FakeLibrary
) -> None:
    library.raises["chunks"] = [KeyError("no such column")]
    outcome = run()
    assert not outcome.success
    assert outcome.error is None
    assert "no such column" in str(outcome.message)
    assert library.calls.count("chunks") == 1
    assert library.promoted == []


@pytest.mark.parametrize("gate", sorted(GATES))
def test_each_gate_alone_keeps_the_alias_where_it_is(
    run: Callable[..., JobOutcome], library: FakeLibrary, gate: str
) -> None:
    library.refused_gates = {gate}
    outcome = run()
    assert not outcome.success
    assert library.promoted == []
    assert [check.name for check in outcome.failed_checks if check.blocking] == [gate]
    assert gate in str(outcome.message)


@pytest.mark.parametrize(
    ("table", "reached"),
    [("documents", "documents"), ("chunks", "chunks"), ("embeddings", "embeddings"), ("index_snapshots", "gates")],
)
def test_a_failing_expectation_stops_what_comes_after_its_table(
    run: Callable[..., JobOutcome], library: FakeLibrary, table: str, reached: str
) -> None:
    library.failing = {table: "error"}
    outcome = run()
    assert not outcome.success
    assert library.promoted == []
    assert set(library.calls) & {"chunks", "embeddings", "index_snapshots", "live_index"} <= _up_to(reached)


def test_an_expectation_that_only_warns_stops_nothing(run: Callable[..., JobOutcome], library: FakeLibrary) -> None:
    library.failing = {"chunks": "warn"}
    outcome = run()
    assert outcome.success
    assert library.promoted == ["s1"]
    (check,) = outcome.failed_checks
    assert check.warning


def test_a_source_that_cannot_be_read_is_a_warning_and_the_others_go_on(
    run: Callable[..., JobOutcome], library: FakeLibrary
) -> None:
    library.sources = (SourceOutcome("handbook", added=1), SourceOutcome("papers", error="reading papers: gone"))
    outcome = run()
    assert outcome.success
    assert library.promoted == ["s1"]
    assert [check.name for check in outcome.failed_checks] == ["sources_readable"]


def test_a_second_writer_is_told_who_holds_the_lock_and_does_nothing(
    run: Callable[..., JobOutcome], library: FakeLibrary, home: Home
) -> None:
    with writer_lock(home.writer_lock, run_id="r-77", purpose="nightly_rebuild"):
        outcome = run()
    assert isinstance(outcome.error, WriterBusy)
    assert "nightly_rebuild (run r-77" in str(outcome.message)
    assert library.calls == []
    assert run().success


def test_reading_the_index_back_goes_on_beside_a_writer(
    run: Callable[..., JobOutcome], library: FakeLibrary, home: Home
) -> None:
    with writer_lock(home.writer_lock, run_id="r-77", purpose="nightly_rebuild"):
        outcome = run("verify")
    assert outcome.success
    assert library.calls == ["verify"]


def test_a_wrong_configuration_fails_before_the_first_step(library: FakeLibrary, home: Home, tmp_path: Path) -> None:
    path = tmp_path / "lockstep.yaml"
    path.write_text("index: handbook\nsorces: []\n")
    outcome = run_job(defs, "incremental_update", path, home)
    assert not outcome.success
    assert "sorces" in str(outcome.message)
    assert library.calls == []


def test_the_nightly_rebuild_builds_in_full_checks_every_row_and_reads_back(
    run: Callable[..., JobOutcome], library: FakeLibrary
) -> None:
    outcome = run("nightly_rebuild")
    assert outcome.success
    assert library.full == [True]
    assert library.scopes == {"all"}
    assert library.calls[-1] == "verify"
    run("incremental_update")
    assert library.full == [True, False]
    assert library.scopes == {"all", "changed"}


def test_an_interrupted_run_says_so_and_leaves_the_lock(
    run: Callable[..., JobOutcome], library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        signal.sigtimedwait([], 0.01)  # the interpreter runs the handler before the next instruction

    with monkeypatch.context() as patched:
        patched.setattr(derivation, "encode_chunks", interrupted)
        outcome = run()
    assert outcome.interrupted
    assert "goes on where this one stopped" in str(outcome.message)
    assert library.promoted == []
    assert run().success


def test_rollback_reports_the_alias_as_a_new_state_of_the_live_index(
    run: Callable[..., JobOutcome], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def back(_: object, snapshot_id: str | None, **__: object) -> RollbackReport:
        asked.append(snapshot_id)
        return RollbackReport("s0", "s1", False, 0.01, 0.02)

    monkeypatch.setattr(rollback_module, "rollback", back)
    outcome = run("rollback", ops={"move_alias_back": {"config": {"snapshot_id": "s0"}}})
    assert outcome.success
    assert outcome.reports["rollback"].snapshot_id == "s0"
    assert run("rollback").success
    assert asked == ["s0", None]


def test_a_failing_rollback_says_why(run: Callable[..., JobOutcome], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise GateFailed("snapshot s0 came back with another digest; the live one stays")

    monkeypatch.setattr(rollback_module, "rollback", refuse)
    assert run("rollback").message == "snapshot s0 came back with another digest; the live one stays"


def _failure(home: Home, run_id: str, step: str) -> Any:
    with open_instance(home) as instance:
        for entry in instance.all_logs(run_id):
            event = entry.dagster_event
            if event is not None and event.is_step_failure and event.step_key == step:
                return event.step_failure_data
    raise AssertionError(f"step {step} did not fail")


def _up_to(step: str) -> set[str]:
    order = ["documents", "chunks", "embeddings", "index_snapshots", "gates", "live_index"]
    return set(order[: order.index(step) + 1])
