"""What an update looks at: the documents that changed, and everything where that is not certain to be enough."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.lake import dead_letters
from pipelines.lake.dead_letters import Failure
from pipelines.lake.events import Event
from pipelines.lake.reading import LakeReader
from pipelines.project import Project
from pipelines.update.applying import census, changes, manifest, parse, reach
from pipelines.update.deriving import chunks, embeddings
from pipelines.update.looking.observe import observe
from pipelines.update.reports import ChunkReport, EncodeReport, ParseReport
from tests.updating import open_project


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path) -> Project:
    opened = open_project(tmp_path, encoder={"model": str(tiny_model)})
    for number in range(6):
        write(opened, f"{number}.md", f"# Title {number}\n\nText number {number}.\n")
    return opened


def write(project: Project, uri: str, text: str) -> None:
    path = project.home.root.parent / "corpus" / uri
    path.write_text(text, encoding="utf-8")


def derive(project: Project, *, scan: bool = True, full: bool = False) -> tuple[ParseReport, ChunkReport, EncodeReport]:
    changes.detect_changes(project, run_id="r", scan=scan)
    parsed = parse.parse_documents(project, run_id="r", full=full)
    manifest.merge_manifest(project, run_id="r")
    chunked = chunks.chunk_documents(project, run_id="r")
    return parsed, chunked, embeddings.encode_chunks(project, run_id="r")


def test_the_first_update_looks_at_all_documents_and_the_next_at_what_changed(project: Project) -> None:
    assert derive(project)[2].encoded == 6
    assert reach.documents(project)[0].num_rows == 0
    write(project, "3.md", "# Title 3\n\nSomething else.\n")
    parsed, chunked, encoded = derive(project)
    assert (parsed.parsed, chunked.contents, encoded.encoded) == (1, 1, 1)
    assert (chunked.total, encoded.total, encoded.reused) == (6, 6, 5)


@pytest.mark.parametrize("table", ["elements", "chunks", "embeddings"])
def test_a_derived_table_that_was_lost_is_made_again_without_being_asked(project: Project, table: str) -> None:
    derive(project)
    before = project.lake.count(table)
    shutil.rmtree(Path(project.lake.uri(table)))
    derive(Project(project.config, project.home))
    assert project.lake.count(table) == before


def test_a_row_that_somebody_else_removed_is_made_again(project: Project) -> None:
    derive(project)
    lost = project.lake.read("chunks")["content_hash"][0].as_py()
    project.lake.rewrite("chunks", keep=lambda batch: pc.not_equal(batch["content_hash"], lost), run_id="other")
    assert derive(project)[1].contents == 1


def test_an_update_that_was_interrupted_is_made_good_by_looking_at_everything(project: Project) -> None:
    derive(project)
    write(project, "3.md", "# Title 3\n\nSomething else.\n")
    changes.detect_changes(project, run_id="r")
    parse.parse_documents(project, run_id="r")
    manifest.merge_manifest(project, run_id="r")
    reach.begin(project)
    assert reach.documents(project)[1]
    assert derive(project)[1].contents == 1
    assert not reach.documents(project)[1]


def test_a_full_update_and_another_recipe_look_at_everything(project: Project, tmp_path: Path) -> None:
    derive(project)
    reach.begin(project, full=True)
    assert reach.documents(project)[1]
    derive(project)
    other = open_project(tmp_path, encoder=project.config.encoder.model_dump(), chunking={"max_tokens": 40})
    assert reach.documents(other)[1]


def test_an_update_of_what_was_announced_reads_no_table_whole(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    derive(project)
    write(project, "3.md", "# Title 3\n\nSomething else.\n")
    log = project.events
    log.append([Event("docs", "3.md", "changed", "watch:1")])
    whole: list[str] = []
    original = LakeReader.read

    def watched(self: LakeReader, name: str, *arguments: object, **options: object) -> pa.Table:
        whole.append(name)
        return original(self, name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LakeReader, "read", watched)
    monkeypatch.setattr(chunks, "_EXACT_ROWS", 0)
    monkeypatch.setattr(embeddings, "_EXACT_ROWS", 0)
    observe(project, "docs", run_id="look", mode="hints")
    assert derive(project, scan=False)[2].encoded == 1
    assert not {"documents", "elements", "chunks", "embeddings", "document_versions", "change_events"} & set(whole)


def test_a_document_with_a_text_without_a_vector_is_looked_at_though_it_did_not_change(project: Project) -> None:
    derive(project)
    letter = Failure("docs", "3.md", "encode", "EncodeError", "chunk 0: no finite vector")
    dead_letters.record(project.lake, [letter], healthy=(), run_id="r")
    looked, everything = reach.documents(project)
    assert (looked["uri"].to_pylist(), everything) == (["3.md"], False)


def test_documents_are_counted_forward_as_they_would_be_counted_anew(project: Project) -> None:
    derive(project)
    write(project, "new.md", "# New\n")
    (project.home.root.parent / "corpus" / "0.md").unlink()
    (project.home.root.parent / "corpus" / "broken.pdf").write_bytes(b"%PDF-1.7\nbroken")
    derive(project)
    carried = census.count(project)
    assert carried == census._counted(project)
    assert carried["docs"] == census.Count(active=6, present=7, quarantined=1)
