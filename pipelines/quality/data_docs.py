"""Data Docs: Great Expectations' rendering of suites and validations, as pages that need no network.

Its own site builder links to a dozen addresses for styles, scripts and a logo; here its rendered sections are put
into a page with one small style sheet, and a content security policy forbids everything else.
"""

from __future__ import annotations

import html
import importlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.quality.gx_engine import Validation
from pipelines.quality.outcome import ExpectationOutcome

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2733; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: .6rem 0; }
td, th { border: 1px solid #cfd8e0; padding: .25rem .6rem; text-align: left; vertical-align: top; }
.badge-secondary, code { background: #edf1f5; border-radius: .2rem; padding: 0 .3rem; }
.alert { background: #edf1f5; padding: .4rem .8rem; margin-top: 1.2rem; }
.alert h5, h6 { margin: .3rem 0; font-size: 1rem; }
.text-success, .passed { color: #15703a; } .text-danger, .failed { color: #b3261e; }
.fa-check-circle::before { content: "✔"; } .fa-times::before { content: "✘"; }
.fa-exclamation-triangle::before { content: "!"; }
ul { padding-left: 1.2rem; } hr { display: none; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def build_data_docs(
    folder: Path, table: str, validation: Validation, *, keys: Iterable[str], run_id: str, checked_rows: int
) -> Path:
    """Write the pages of one table and the index of all; returns the index.

    Written are `expectations/TABLE.html`, `validations/TABLE.html`, `validations/TABLE.json` (the same for programs)
    and `index.html`. Each file is replaced in one step; of each table the newest validation is kept.

    Args:
        folder: made when it is missing.
        table: what was validated.
        validation: the newest one.
        keys: the columns that name a row.
        run_id: of the run that asked for it.
        checked_rows: rows of the table.
    """
    renderers: Any = importlib.import_module("great_expectations.render.renderer")  # its types export no names
    outcomes = validation.outcomes
    record = {
        "table": table,
        "run_id": run_id,
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "checked_rows": checked_rows,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    suite = _sections(renderers.ExpectationSuitePageRenderer().render(validation.suite))
    found = _sections(renderers.ValidationResultsPageRenderer(run_info_at_end=True).render(validation.result))
    found = found.replace(f"../../../../expectations/{table}.html", f"../expectations/{table}.html")
    back = '<p><a href="../index.html">All tables</a></p>'
    failing = _failing_table(outcomes, tuple(keys))
    _write(folder / "expectations" / f"{table}.html", _page(f"What is expected of {table}", back + suite))
    _write(folder / "validations" / f"{table}.html", _page(f"{table}: {_verdict(record)}", back + failing + found))
    _write(folder / "validations" / f"{table}.json", json.dumps(record, ensure_ascii=False, indent=1))
    index = folder / "index.html"
    _write(index, _page("Expectations on the tables", _index_table(folder)))
    return index


def _sections(document: Any) -> str:
    """The sections that Great Expectations renders, without the page around them."""
    views: Any = importlib.import_module("great_expectations.render.view.view")
    view = views.DefaultJinjaSectionView()
    sections = document.to_json_dict()["sections"]
    return "".join(
        view.render({"section": section, "section_loop": {"index": number}})
        for number, section in enumerate(sections, start=1)
    )


def _verdict(record: dict[str, Any]) -> str:
    failed = sum(not outcome["passed"] for outcome in record["outcomes"])
    total = len(record["outcomes"])
    return f"{failed} of {total} expectations failed" if failed else f"all {total} expectations hold"


def _failing_table(outcomes: list[ExpectationOutcome], keys: tuple[str, ...]) -> str:
    rows = [
        [outcome.name, *(str(row.get(key, "")) for key in keys), _rest(row, keys)]
        for outcome in outcomes
        for row in outcome.failing_rows
    ]
    if not rows:
        return ""
    return "<h2>Failing rows (at most 20 an expectation)</h2>" + _table(["expectation", *keys, "observed"], rows)


def _rest(row: dict[str, Any], keys: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in row.items() if name not in keys)


def _index_table(folder: Path) -> str:
    records = [json.loads(path.read_text("utf-8")) for path in sorted((folder / "validations").glob("*.json"))]
    rows = []
    for record in records:
        name, style = (
            html.escape(record["table"]),
            "passed" if all(o["passed"] for o in record["outcomes"]) else "failed",
        )
        rows.append(
            f'<tr><td>{name}</td><td>{record["checked_rows"]}</td><td class="{style}">'
            f'<a href="validations/{name}.html">{_verdict(record)}</a></td><td>{record["checked_at"]}</td>'
            f'<td>{html.escape(record["run_id"])}</td><td><a href="expectations/{name}.html">the suite</a></td></tr>'
        )
    head = "<tr><th>table</th><th>rows</th><th>result</th><th>checked (UTC)</th><th>run</th><th>expected</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return "<table><tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in head) + f"</tr>{cells}</table>"


def _page(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><style>{_STYLE}</style></head>'
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
