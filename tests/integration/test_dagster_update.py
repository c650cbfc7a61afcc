"""The jobs with the real library: a small corpus, the real encoder, Milvus Lite in its own process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner

from jobs.run import JobName, JobOutcome, run_job
from pipelines.cli.main import main
from pipelines.definitions import defs
from pipelines.errors import RebuildDiffers
from pipelines.home import Home
from pipelines.index.server import stop_server
from pipelines.lake import snapshots
from pipelines.project import Project
from pipelines.update.reports import GateResult
from pipelines.update.snapshot.gates import GATES
from resources.instance import open_instance

pytestmark = pytest.mark.integration

TEXTS = {
    "leave.md": "# Leave\n\nEverybody has thirty days of leave a year.\n",
    "travel.md": "# Travel\n\nTrains are booked in second class.\n\n## Hotels\n\nUp to ninety euros a night.\n",
    "hr/pay.md": "# Pay\n\nPay bands are reviewed every March.\n",
    "broken.pdf": "%PDF-1.7 and nothing that follows",
}


@dataclass(frozen=True)
class Installation:
    """A corpus, its configuration and its data folder."""

    corpus: Path
    config: Path
    home: Home

    def run(self, name: JobName = "incremental_update", **options: Any) -> JobOutcome:
        return run_job(defs, name, self.config, self.home, **options)

    @property
    def project(self) -> Project:
        return Project.open(self.config, self.home)

    @property
    def live(self) -> str | None:
        """The snapshot that readers see: what the slot behind the alias says of itself."""
        index, alias = self.project.index(), self.project.alias
        collection = index.alias_target(alias)
        return str((index.read_state(collection) or {})["snapshot_id"]) if collection else None


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    root = tmp_path_factory.mktemp("installation")
    corpus = root / "corpus"
    for name, text in TEXTS.items():
        path = corpus / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    config = root / "lockstep.yaml"
    config.write_text(
        "index: handbook\n"
        "sources:\n"
        "  - name: handbook\n"
        "    kind: filesystem\n"
        "    path: corpus\n"
        '    access: [{match: "hr/**", readers: ["group:hr"]}, {match: "**", readers: ["group:staff"]}]\n'
    )
    installation = Installation(corpus, config, Home(root / "data"))
    outcome = installation.run()
    assert outcome.success, outcome.message
    yield installation
    stop_server(installation.home)


def test_the_first_update_makes_every_asset_and_passes_every_check(installed: Installation) -> None:
    with open_instance(installed.home) as instance:
        graph = defs.resolve_asset_graph()
        for key in graph.materializable_asset_keys - {dg.AssetKey("update_plan")}:  # a job of its own makes that one
            event = instance.get_latest_materialization_event(key)
            assert event is not None, key
            assert event.asset_materialization is not None
            if key.to_user_string() in {"documents", "elements", "chunks", "embeddings", "acl_sets"}:
                metadata = event.asset_materialization.metadata
                assert int(str(metadata["dagster/row_count"].value)) > 0, key
                assert "|" in str(metadata["preview"].value), key
    live = snapshots.live(snapshots.history(installed.project.lake, "handbook"))
    assert live is not None
    assert live.snapshot_id == installed.live
    assert all(live.gates[name]["passed"] for name in GATES)


def test_a_document_that_cannot_be_parsed_is_a_warning_with_its_letter(installed: Installation) -> None:
    outcome = installed.run()
    assert outcome.success
    (check,) = outcome.failed_checks
    assert (check.name, check.warning) == ("no_open_dead_letters", True)


def test_an_update_with_nothing_to_do_commits_nothing(installed: Installation) -> None:
    before = installed.project.lake.versions()
    outcome = installed.run()
    assert outcome.success
    assert outcome.reports["embeddings"].encoded == 0
    assert not outcome.reports["index_snapshots"].built
    assert not outcome.reports["live_index"].promoted
    assert installed.project.lake.versions() == before


@pytest.mark.parametrize("gate", ["digest_parity", "token_budget"])
def test_a_gate_that_fails_leaves_the_old_snapshot_live_and_the_next_update_heals(
    installed: Installation, monkeypatch: pytest.MonkeyPatch, gate: str
) -> None:
    before = installed.live
    (installed.corpus / "leave.md").write_text(f"# Leave\n\nTested with {gate}: thirty-one days a year.\n")
    with monkeypatch.context() as patched:
        patched.setitem(GATES, gate, lambda *_: GateResult(gate, False, "injected", {"failing_rows": [{"chunk": "c"}]}))
        outcome = installed.run()
    assert not outcome.success
    assert gate in str(outcome.message)
    assert installed.live == before
    healed = installed.run()
    assert healed.success, healed.message
    assert healed.reports["live_index"].promoted
    assert installed.live == healed.reports["live_index"].snapshot_id != before


def test_an_update_that_breaks_after_the_manifest_leaves_the_old_snapshot_live(
    installed: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assets import derivation
    from pipelines.errors import LakeError

    def broken(*_: object, **__: object) -> None:
        raise LakeError("writing table chunks: no space left; free some and run the update again")

    before = installed.live
    (installed.corpus / "new.md").write_text("# New\n\nA page that came while the disk was full.\n")
    with monkeypatch.context() as patched:
        patched.setattr(derivation, "chunk_documents", broken)
        outcome = installed.run()
    assert outcome.message == "writing table chunks: no space left; free some and run the update again"
    assert installed.live == before
    healed = installed.run()
    assert healed.success, healed.message
    assert installed.live != before


def test_a_nightly_rebuild_comes_to_the_same_digest_and_encodes_nothing(installed: Installation) -> None:
    before = snapshots.live(snapshots.history(installed.project.lake, "handbook"))
    outcome = installed.run("nightly_rebuild")
    assert outcome.success, outcome.message
    assert before is not None
    assert outcome.reports["index_snapshots"].digest == before.digest
    assert outcome.reports["embeddings"].encoded == 0
    assert outcome.reports["live_index"].promoted
    assert outcome.reports["verify"].ok


def test_rollback_brings_the_earlier_snapshot_back_and_verify_agrees(installed: Installation) -> None:
    (installed.corpus / "travel.md").write_text("# Travel\n\nNobody travels any more.\n")
    before = installed.live
    assert installed.run().success
    assert installed.live != before
    outcome = installed.run("rollback")
    assert outcome.success, outcome.message
    assert installed.live == before == outcome.reports["rollback"].snapshot_id
    assert installed.run("verify").reports["verify"].ok
    with open_instance(installed.home) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("live_index"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["reason"].value == "rollback"


def test_a_rebuild_that_differs_from_the_live_index_fails_the_run_and_names_the_documents(
    installed: Installation,
) -> None:
    index = installed.project.index()
    before, collection = installed.live, index.alias_target("handbook")
    assert collection is not None
    index.delete(
        collection, [row["chunk_id"] for row in index.rows(collection).to_pylist() if row["uri"] == "leave.md"]
    )
    outcome = installed.run("nightly_rebuild")
    assert not outcome.success
    assert isinstance(outcome.error, RebuildDiffers)
    assert "leave.md" in str(outcome.message)
    assert installed.live == before
    with open_instance(installed.home) as instance:
        (check,) = [
            event.asset_check_evaluation_data
            for entry in instance.all_logs(outcome.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
            if (event := entry.get_dagster_event()).asset_check_evaluation_data.check_name == snapshots.AGREEMENT
        ]
    assert not check.passed
    assert "leave.md" in str(check.metadata["differing_documents"].value)
    kept = snapshots.history(installed.project.lake, "handbook")[-1]
    variables = {"LOCKSTEP_HOME": str(installed.home.root)}
    listed = CliRunner().invoke(main, ["snapshots", "--config", str(installed.config)], env=variables)
    assert f"{kept.snapshot_id} was rebuilt and differs from the incremental index in: leave.md" in listed.output
