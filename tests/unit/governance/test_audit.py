import datetime
import random

import pyarrow as pa
import pytest

from pipelines.governance.audit import GENESIS, check_chain, entry
from pipelines.lake.schemas import AUDIT_LOG

AT = datetime.datetime(2026, 5, 1, 12, 30, 15, 123_456, tzinfo=datetime.UTC)


def chain(length: int) -> list[dict]:
    rows: list[dict] = []
    for sequence in range(1, length + 1):
        previous = rows[-1]["entry_hash"] if rows else GENESIS
        at = AT + datetime.timedelta(seconds=sequence)
        rows.append(entry(previous, sequence, at, "user:ada", "promote", f"snapshot-{sequence}", {"rows": 3}, "run-1"))
    return rows


def test_an_intact_log_has_no_findings_in_any_order_of_rows():
    rows = chain(20)
    random.Random(1).shuffle(rows)
    assert check_chain(rows) == ()
    assert check_chain([]) == ()


def test_entries_survive_the_table_they_are_stored_in():
    rows = chain(5)
    table = pa.Table.from_pylist(rows, schema=AUDIT_LOG)
    assert check_chain(table.to_pylist(), head=str(rows[-1]["entry_hash"])) == ()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor", "user:eve"),
        ("action", "rollback"),
        ("target", "snapshot-9"),
        ("detail", "{}"),
        ("run_id", "run-2"),
        ("at", AT),
        ("entry_hash", "f" * 64),
    ],
)
def test_a_changed_entry_is_named(column, value):
    rows = chain(5)
    rows[2][column] = value
    assert any("entry 3 was changed" in finding for finding in check_chain(rows))


def test_a_rewritten_entry_with_a_hash_of_its_own_breaks_the_chain_after_it():
    rows = chain(5)
    rows[2] = entry(rows[1]["entry_hash"], 3, AT, "user:eve", "promote", "snapshot-3", {}, "run-1")
    assert check_chain(rows) == ("entry 4 does not follow the entry before it: one of the two was replaced",)


def test_removed_entries_are_named():
    rows = chain(6)
    assert check_chain([rows[0], *rows[3:]]) == ("entries 2 to 3 are missing",)
    assert check_chain(rows[1:]) == ("entries 1 to 1 are missing",)


def test_a_doubled_entry_is_named():
    rows = chain(3)
    assert check_chain([*rows, rows[1]]) == ("entry 2 is there more than once",)


def test_entries_cut_from_the_end_are_noticed_with_a_noted_head():
    rows = chain(4)
    assert check_chain(rows[:2]) == ()
    assert "ends with entry 2" in check_chain(rows[:2], head=rows[3]["entry_hash"])[0]
    assert "ends with entry 0" in check_chain([], head=rows[3]["entry_hash"])[0]


def test_the_hash_does_not_depend_on_the_time_zone_or_the_order_of_details():
    other = AT.astimezone(datetime.timezone(datetime.timedelta(hours=5)))
    one = entry(GENESIS, 1, AT, "a", "b", "c", {"x": 1, "y": 2}, "r")
    assert one == entry(GENESIS, 1, other, "a", "b", "c", {"y": 2, "x": 1}, "r")


def test_values_cannot_move_between_columns():
    assert (
        entry(GENESIS, 1, AT, "ab", "c", "", {}, "")["entry_hash"]
        != entry(GENESIS, 1, AT, "a", "bc", "", {}, "")["entry_hash"]
    )


def test_a_time_without_zone_and_a_detail_that_is_no_json_are_refused():
    with pytest.raises(ValueError, match="time zone"):
        entry(GENESIS, 1, AT.replace(tzinfo=None), "a", "b", "c", {}, "r")
    with pytest.raises(ValueError, match="no JSON object"):
        entry(GENESIS, 1, AT, "a", "b", "c", {"x": object()}, "r")
    with pytest.raises(ValueError, match="no JSON object"):
        entry(GENESIS, 1, AT, "a", "b", "c", {"x": float("nan")}, "r")
