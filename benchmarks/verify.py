"""What building, proving and reading back an index costs by its size: `python -m benchmarks.verify`.

Manifest, chunks and vectors are written to the tables directly, one chunk a document, with vectors as wide as the
default encoder's, so that nothing is parsed or encoded. Then the slot is filled from nothing and the gates judge it;
the other slot is rebuilt and compared; ten documents change; and `verify` reads everything back, vectors included.
Each size runs in a process of its own; memory is the largest resident size of that process, and of Milvus Lite's.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import corpora, measuring
from pipelines import identity
from pipelines.config import LexicalConfig
from pipelines.home import Home
from pipelines.lake import manifest
from pipelines.lake.schemas import CHUNKS, DOCUMENTS, EMBEDDINGS
from pipelines.lexical import document_vector
from pipelines.project import Project
from pipelines.update.snapshot import candidate, gates, promotion
from pipelines.update.snapshot.agreement import agreement
from pipelines.update.snapshot.verify import verify

SIZES = (100_000, 300_000)
EDITED = 10
_PORTION = 10_000
_MEDIA_TYPE = "application/vnd.lockstep.record+json"


def texts(count: int) -> Iterator[str]:
    """Short texts, the same on every run."""
    chosen = random.Random(7)
    words = [f"word{number}" for number in range(30_000)]
    for number in range(count):
        common = chosen.choices(words[:600], k=40)
        yield f"Document {number}: " + " ".join(common + chosen.choices(words, k=15))


def fill(project: Project, numbers: range, sentences: list[str], *, seed: int) -> None:
    """Write the rows of some documents, each of one chunk, to the three tables."""
    recipe, now = project.recipe, datetime.now(UTC)
    vectors = np.random.default_rng(seed).normal(size=(len(sentences), recipe.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    documents, chunks, embeddings = [], [], []
    lexical = LexicalConfig()
    for number, sentence, vector in zip(numbers, sentences, vectors, strict=True):
        uri, text = f"record-{number}", identity.text_hash(sentence)
        content = identity.content_hash(sentence.encode())
        terms, weights = document_vector(sentence, lexical)
        documents.append(
            {
                **dict.fromkeys(DOCUMENTS.names),
                "doc_id": identity.doc_id("records", uri),
                "source": "records",
                "uri": uri,
                "tenant": "default",
                "acl_id": 1,
                "classification": "internal",
                "media_type": _MEDIA_TYPE,
                "size_bytes": len(sentence),
                "content_hash": content,
                "version": 1,
                "title": f"Document {number}",
                "metadata": "{}",
                "status": manifest.ACTIVE,
                "run_id": "bench",
                "updated_at": now,
            }
        )
        chunks.append(
            {
                "content_hash": content,
                "recipe_fp": recipe.chunk_fp(_MEDIA_TYPE),
                "ordinal": 0,
                "chunk_count": 1,
                "text": sentence,
                "text_hash": text,
                "body_start": 0,
                "kind": "text",
                "heading_path": [],
                "section": 0,
                "char_start": 0,
                "char_end": len(sentence),
                "pages": [],
                "tokens": 60,
                "terms": terms,
                "weights": weights,
            }
        )
        embeddings.append({"text_hash": text, "model_fp": recipe.model_fp, "vector": vector})
    lake = project.lake
    lake.append("chunks", pa.Table.from_pylist(chunks, schema=CHUNKS), run_id="bench")
    lake.append("embeddings", pa.Table.from_pylist(embeddings, schema=EMBEDDINGS), run_id="bench")
    lake.merge("documents", pa.Table.from_pylist(documents, schema=DOCUMENTS), key="doc_id", run_id="bench")


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Build an index of that many rows, prove it, change a little, and read it back."""
    home = Home(folder / "home")
    records = folder / "records.jsonl"
    records.touch()
    project = Project.open(corpora.records_config(folder, records), home)
    sentences: list[str] = []
    start = 0
    for number, sentence in enumerate(texts(count)):
        sentences.append(sentence)
        if len(sentences) == _PORTION or number == count - 1:
            fill(project, range(start, number + 1), sentences, seed=start)
            sentences, start = [], number + 1
    result: dict[str, Any] = {"rows": count}
    with measuring.PeakMemory(home) as memory:
        _step(project, home, result, "first")
        _step(project, home, result, "rebuild", full=True)
        some = [f"Document {number}: edited." for number in range(EDITED)]
        fill(project, range(EDITED), some, seed=1)
        _step(project, home, result, "ten edits")
        with measuring.timed(home) as took:
            report = verify(project)
        assert report.ok, report
        result["verify"] = {"verify": took.wall, "cpu": took.cpu, "index_cpu": took.index_cpu}
    result["memory"] = {"own": memory.own, "index": memory.index}
    return result


def _step(project: Project, home: Home, result: dict[str, Any], name: str, *, full: bool = False) -> None:
    """A candidate, its gates, the comparison of a rebuild with what is live, and the swap."""
    result[name] = {}
    with measuring.timed(home) as took:
        built = candidate.build_candidate(project, run_id=name, full=full)
    result[name]["candidate"] = took.wall
    with measuring.timed(home) as took:
        results = gates.run_gates(project, built.snapshot_id)
    result[name]["gates"] = took.wall
    if full:
        with measuring.timed(home) as took:
            results.append(agreement(project, built.snapshot_id))
        result[name]["agreement"] = took.wall
    gates.require(built.snapshot_id, results)
    gates.record_gates(project, built.snapshot_id, results, run_id=name)
    promotion.promote(project, built.snapshot_id, run_id=name)


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--one", type=int, help="measure this size in this process (what each size is run as)")
    options = parser.parse_args()
    if options.one:
        with measuring.scratch(options.folder) as folder:
            print(json.dumps(measure(folder, options.one)))
        return
    results = []
    for size in options.sizes:
        command = [sys.executable, "-m", "benchmarks.verify", "--one", str(size)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results.append(json.loads(done.stdout.strip().splitlines()[-1]))
    columns = [
        (name, step)
        for name, steps in results[0].items()
        if name not in ("rows", "memory")
        for step in steps
        if step not in ("cpu", "index_cpu")
    ]
    rows = [
        [
            r["rows"],
            *(r[name][step] for name, step in columns),
            100_000 * r["verify"]["verify"] / r["rows"],
            100_000 * r["verify"]["cpu"] / r["rows"],
            *(r["memory"][name] // 2**20 for name in ("own", "index")),
        ]
        for r in results
    ]
    header = [
        "rows",
        *(step if name == step else f"{name}: {step}" for name, step in columns),
        "verify of 100,000",
        "its cpu",
        "process MiB",
        "index MiB",
    ]
    print(json.dumps(results) if options.json else f"{measuring.machine()}\n\n{measuring.table(rows, header)}")


if __name__ == "__main__":
    main()
