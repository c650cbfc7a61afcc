"""The code location: it loads anywhere and quickly, everything in it is described, and the checks guard the alias."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import dagster as dg
import pytest
import yaml

from assets.columns import KEYS, LINEAGE, SCHEMAS, describe
from pipelines.definitions import build_definitions, defs
from pipelines.lake.schemas import TABLES
from pipelines.lake.snapshots import AGREEMENT
from pipelines.update.snapshot.gates import GATES
from resources.project import LockstepWriter

ROOT = Path(__file__).resolve().parents[3]
GRAPH = defs.resolve_asset_graph()
MADE_HERE = sorted(key.to_user_string() for key in GRAPH.materializable_asset_keys)
TABLE_ASSETS = [name for name in MADE_HERE if name in SCHEMAS]
JOBS = {"incremental_update", "nightly_rebuild", "observe_source", "plan", "approve_deletions", "rollback", "verify"}


def _banned() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = settings["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"]
    assert "torch" in names
    # pyarrow loads pandas by itself with its first array or dataset (0.2 s), and no run does without one.
    return [str(name) for name in names if name != "pandas"]


def test_loads_in_an_empty_environment_from_another_folder_without_heavy_modules(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import pipelines.definitions\n"
        "print(*sorted(set(sys.argv[2:]) & set(sys.modules)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), *_banned()],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == []
    assert list(tmp_path.iterdir()) == []


def test_the_definitions_are_valid() -> None:
    dg.Definitions.validate_loadable(defs)


@pytest.mark.parametrize("name", MADE_HERE)
def test_every_asset_says_what_it_is_and_whose(name: str) -> None:
    node = GRAPH.get(dg.AssetKey(name))
    assert len(node.description or "") > 80
    assert node.group_name in {"ingest", "derive", "serve", "operate"}
    assert list(node.owners) == ["team:data-platform"]
    assert node.kinds
    assert "layer" in node.tags


@pytest.mark.parametrize("name", TABLE_ASSETS)
def test_every_table_shows_the_columns_it_really_has(name: str) -> None:
    shown = GRAPH.get(dg.AssetKey(name)).metadata["dagster/column_schema"]
    assert [column.name for column in shown.columns] == SCHEMAS[name].names
    assert [column.constraints.nullable for column in shown.columns] == [field.nullable for field in SCHEMAS[name]]
    assert all(column.description for column in shown.columns)


@pytest.mark.parametrize("name", sorted(SCHEMAS.keys() & KEYS.keys()))
def test_every_column_is_described_once_and_every_key_column_exists(name: str) -> None:
    assert all(describe(name, column) for column in SCHEMAS[name].names)
    assert set(KEYS[name]) <= set(SCHEMAS[name].names)


@pytest.mark.parametrize("name", sorted(LINEAGE))
def test_column_lineage_names_columns_that_exist(name: str) -> None:
    for column, origins in LINEAGE[name].items():
        assert column in SCHEMAS[name].names
        for table, origin in origins:
            assert origin in TABLES[table].names


def test_every_table_that_an_update_writes_is_an_asset() -> None:
    internal = {"term_statistics", "audit_log", "document_versions"}
    observed = {key.to_user_string() for key in GRAPH.external_asset_keys}
    assert set(TABLES) - internal <= set(MADE_HERE) | observed
    assert "change_events" in observed


def test_the_jobs_resolve() -> None:
    assert {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")} >= JOBS


def test_every_check_of_a_snapshot_stands_before_the_alias() -> None:
    blocking = {
        key.name for key in GRAPH.asset_check_keys if key.asset_key == dg.AssetKey("index_snapshots") and _blocks(key)
    }
    assert blocking == {*GATES, AGREEMENT, "expectations"}


@pytest.mark.parametrize("table", ["documents", "chunks", "embeddings", "index_snapshots"])
def test_the_expectations_of_each_table_block(table: str) -> None:
    assert _blocks(dg.AssetCheckKey(dg.AssetKey(table), "expectations"))


@pytest.mark.parametrize(
    ("asset", "check"),
    [
        ("source_changes", "sources_readable"),
        ("source_changes", "deletions_approved"),
        ("live_index", "sources_fresh"),
        ("dead_letters", "no_open_dead_letters"),
    ],
)
def test_what_one_source_or_document_does_never_blocks_the_others(asset: str, check: str) -> None:
    assert not _blocks(dg.AssetCheckKey(dg.AssetKey(asset), check))


def test_only_the_nightly_rebuild_reads_the_live_index_back() -> None:
    key = dg.AssetCheckKey(dg.AssetKey("live_index"), "matches_tables")
    assert key in _checks("nightly_rebuild")
    assert key not in _checks("incremental_update")
    assert _checks("verify") == {key}


def test_the_nightly_rebuild_is_full_and_the_update_is_not() -> None:
    nightly = defs.resolve_job_def("nightly_rebuild").run_config
    assert nightly is not None
    assert nightly["resources"]["writer"]["config"]["full"] is True
    assert LockstepWriter().full is False


@pytest.mark.parametrize("job", ["verify", "observe_source", "plan", "approve_deletions"])
def test_what_only_looks_needs_no_writer_lock_and_waits_for_no_writer(job: str) -> None:
    assert "writer" not in defs.resolve_job_def(job).required_resource_keys
    assert {node.definition.pool for node in defs.resolve_job_def(job).nodes} == {None}  # type: ignore[attr-defined]


def test_an_update_does_not_plan_itself() -> None:
    for job in ("incremental_update", "nightly_rebuild"):
        assert "update_plan" not in {key.to_user_string() for key in _assets(job)}
        assert "live_index" in {key.to_user_string() for key in _assets(job)}
    assert {key.to_user_string() for key in _assets("plan")} == {"update_plan"}


def test_the_live_index_has_a_freshness_policy_that_a_confirmed_index_meets() -> None:
    from schedules.deciding import CONFIRMED_WITHIN

    policy = GRAPH.get(dg.AssetKey("live_index")).freshness_policy
    assert policy is not None
    assert policy.warn_window.to_timedelta() > CONFIRMED_WITHIN  # type: ignore[attr-defined]


def test_every_kind_that_announces_changes_has_a_sensor_that_follows_by_itself() -> None:
    sensors = {sensor.name: sensor for sensor in defs.sensors or []}
    assert {"follow_file_changes", "list_sources", "pending_changes"} <= set(sensors)
    for sensor in sensors.values():
        assert isinstance(sensor, dg.SensorDefinition)
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
        assert len(sensor.description or "") > 80


def test_schedules_name_their_time_zone_and_wait_for_an_operator() -> None:
    schedules = {s.job_name: s for s in defs.schedules or [] if isinstance(s, dg.ScheduleDefinition)}
    assert {"nightly_rebuild", "incremental_update"} <= set(schedules)
    assert schedules["nightly_rebuild"].cron_schedule == "0 2 * * *"
    for schedule in schedules.values():
        assert schedule.execution_timezone == "UTC"
        assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_a_misspelt_resource_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(TypeError, match=r"wirter.*project, writer"):
        build_definitions(wirter=LockstepWriter())


def test_plain_dagster_dev_finds_the_same_definitions() -> None:
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    (location,) = workspace["load_from"]
    assert location["python_module"]["module_name"] == "pipelines.definitions"


def _blocks(key: dg.AssetCheckKey) -> bool:
    return GRAPH.get_check_spec(key).blocking


def _assets(job: str) -> set[dg.AssetKey]:
    return set(defs.resolve_job_def(job).asset_layer.asset_graph.materializable_asset_keys) & set(
        defs.resolve_job_def(job).asset_layer.executable_asset_keys
    )


def _checks(job: str) -> set[dg.AssetCheckKey]:
    return set(defs.resolve_job_def(job).asset_layer.asset_graph.asset_check_keys)
