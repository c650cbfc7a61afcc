"""What a query costs on the embedded index, without the encoding of the question: `python -m benchmarks.query`.

Makes rows of its own (clustered unit vectors, Zipf-distributed terms, 50 access sets), writes them through
`MilvusIndex` into Milvus Lite's process, and times `Retriever.search` as the command line uses it: alias and state
are read, both halves searched and fused, the hits fetched, the state read again. Kinds of query alternate within one
run, so that what else the machine does hits all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from pipelines.home import Home
from pipelines.index.milvus import MilvusIndex
from pipelines.index.protocol import UNFILTERED, AccessFilter, Visible
from pipelines.index.rows import INDEX_ROW
from pipelines.index.server import ensure_server, server_status, stop_server
from pipelines.principals import DEFAULT_TENANT
from pipelines.retrieval.search import Mode, Queries, Retriever

ALIAS = "bench"
ACL_SETS = 50
VOCABULARY = 30_000
SENTENCE = "the index follows every document that somebody edits without ever showing half of a change "


def make_vectors(random: np.random.Generator, count: int, dimension: int, centres: np.ndarray) -> np.ndarray:
    """Unit vectors around some centres, float32, shape (count, dimension)."""
    vectors = centres[random.integers(0, len(centres), count)] + random.normal(size=(count, dimension))
    unit: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def make_terms(random: np.random.Generator, count: int, draws: int) -> list[np.ndarray]:
    """Distinct hashed terms of each text, drawn from a Zipf distribution."""
    shares = 1 / np.arange(1, VOCABULARY + 1)
    shares /= shares.sum()
    drawn = random.choice(VOCABULARY, size=(count, draws), p=shares)
    return [np.unique((row.astype(np.int64) * 2_654_435_761) % (2**32 - 2)) for row in drawn]


def make_rows(random: np.random.Generator, start: int, count: int, vectors: np.ndarray, terms: list[Any]) -> pa.Table:
    text = (SENTENCE * 12)[:1_000]
    columns: dict[str, Any] = {
        "chunk_id": [f"{n:032x}" for n in range(start, start + count)],
        "doc_id": [f"{n // 4:032x}" for n in range(start, start + count)],
        "uri": [f"folder/{n // 4}.md" for n in range(start, start + count)],
        "text": [f"{text} {n}" for n in range(start, start + count)],
        "text_hash": [f"{n:064x}" for n in range(start, start + count)],
        "row_hash": [f"{n:064x}" for n in range(start, start + count)],
        "acl_id": (np.arange(start, start + count) // 4) % ACL_SETS,
        "body_start": [0] * count,
        "dense": list(vectors),
        "terms": [one.tolist() for one in terms],
        "weights": [random.uniform(0.5, 2.0, len(one)).astype(np.float32).tolist() for one in terms],
    }
    for name in ("source", "tenant", "classification", "title", "heading_path", "pages"):
        columns[name] = [DEFAULT_TENANT if name == "tenant" else name] * count
    return pa.table({name: columns[name] for name in INDEX_ROW.names}).cast(INDEX_ROW)


def summary(seconds: list[float]) -> dict[str, float]:
    return {
        "p50_ms": round(1_000 * statistics.median(seconds), 2),
        "p95_ms": round(1_000 * float(np.percentile(seconds, 95)), 2),
    }


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def cpu_seconds(server_pid: int) -> float:
    """CPU time that this process and the server have used: what a busy machine does not distort."""
    times = psutil.Process(server_pid).cpu_times()
    return time.process_time() + times.user + times.system


def build(index: MilvusIndex, collection: str, rows: int, dimension: int, seed: int) -> dict[str, float]:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(200, dimension)) * 2
    index.drop(collection)
    index.create(collection, dimension)
    seconds = 0.0
    for start in range(0, rows, 4_000):
        count = min(4_000, rows - start)
        terms = make_terms(random, count, 75)
        table = make_rows(random, start, count, make_vectors(random, count, dimension, centres), terms)
        seconds += timed(lambda table=table: index.upsert(collection, table))  # type: ignore[misc]
        print(f"  {collection}: {start + count:,} of {rows:,} rows", file=sys.stderr)
    wait = timed(lambda: index.wait_until_indexed(collection, 600))
    index.write_state(collection, {"snapshot_id": collection, "building": False, "rows": rows})
    return {"rows_per_second": round(rows / seconds), "wait_until_indexed_s": round(wait, 2)}


def measure(index: MilvusIndex, rows: int, dimension: int, repeats: int, server_pid: int) -> dict[str, Any]:
    random = np.random.default_rng(7)
    centres = np.random.default_rng(0).normal(size=(200, dimension)) * 2
    dense = make_vectors(random, 200, dimension, centres)
    sparse = [
        dict(zip(t.tolist(), random.uniform(1, 8, len(t)).tolist(), strict=True)) for t in make_terms(random, 200, 9)
    ]
    retriever = Retriever(index)
    callers: dict[str, AccessFilter] = {
        "unfiltered": UNFILTERED,
        "all": Visible(DEFAULT_TENANT, tuple(range(ACL_SETS))),
        "50%": Visible(DEFAULT_TENANT, tuple(range(0, ACL_SETS, 2))),
        "20%": Visible(DEFAULT_TENANT, tuple(range(0, ACL_SETS, 5))),
        "2%": Visible(DEFAULT_TENANT, (3,)),
    }

    def ask(first: int, count: int, mode: Mode, visible: AccessFilter, k: int = 10) -> None:
        queries = Queries(dense[first : first + count], sparse[first : first + count])
        found = retriever.search(retriever.resolve(ALIAS), queries, visible=visible, k=k, mode=mode)
        assert all(found), "every question must have hits"

    modes: tuple[Mode, ...] = ("hybrid", "dense", "bm25")
    kinds = [(mode, caller) for mode in modes for caller in callers]
    single: dict[tuple[str, str], list[float]] = {kind: [] for kind in kinds}
    for mode, caller in kinds:
        ask(0, 1, mode, callers[caller])
    for repeat in range(repeats):
        for mode, caller in kinds:
            single[mode, caller].append(timed(lambda m=mode, c=caller, r=repeat: ask(r % 200, 1, m, callers[c])))  # type: ignore[misc]
        if repeat % 20 == 0:
            print(f"  queries: {repeat} of {repeats} rounds", file=sys.stderr)
    result: dict[str, Any] = {"single": {}, "batch_of_200": {}}
    for (asked, caller), seconds in single.items():
        result["single"].setdefault(asked, {})[caller] = summary(seconds)
    for mode in modes:
        of_mode = result["single"][mode]
        result["single"][mode]["p50_ratio_to_unfiltered"] = {
            caller: round(of_mode[caller]["p50_ms"] / of_mode["unfiltered"]["p50_ms"], 2) for caller in callers
        }
        before = cpu_seconds(server_pid)
        for one in range(100):
            ask(one, 1, mode, callers["20%"])
        cpu_single = (cpu_seconds(server_pid) - before) / 100
        before = cpu_seconds(server_pid)
        batches = [timed(lambda m=mode: ask(0, 200, m, callers["20%"])) / 200 for _ in range(7)]  # type: ignore[misc]
        cpu_batch = (cpu_seconds(server_pid) - before) / (200 * len(batches))
        result["batch_of_200"][mode] = {
            "cpu_ms_per_query": {"single": round(1_000 * cpu_single, 2), "batch": round(1_000 * cpu_batch, 3)},
            "times_cheaper_in_cpu": round(cpu_single / cpu_batch, 1),
            "ms_per_query": round(1_000 * statistics.median(batches), 3),
            "times_cheaper": round(statistics.median(single[mode, "20%"]) / statistics.median(batches), 1),
        }
    result["recall_at_10"] = recall(index, rows, dimension, dense, callers)
    swaps = [timed(lambda c=c: index.point_alias(ALIAS, c)) for c in ("bench__b", "bench__a") * 10]  # type: ignore[misc]
    result["point_alias"] = summary(swaps)
    result["row_hashes_all_s"] = round(timed(lambda: index.row_hashes("bench__a")), 2)
    some = [f"{n:032x}" for n in range(200)]
    result["row_hashes_of_200_documents_s"] = round(timed(lambda: index.row_hashes("bench__a", some)), 3)
    return result


def recall(
    index: MilvusIndex, rows: int, dimension: int, dense: np.ndarray, callers: dict[str, AccessFilter]
) -> dict[str, float]:
    """Share of the exact ten nearest rows that the dense search finds, by caller."""
    random = np.random.default_rng(1)
    centres = np.random.default_rng(0).normal(size=(200, dimension)) * 2
    stored = []
    for start in range(0, rows, 4_000):
        count = min(4_000, rows - start)
        terms = make_terms(random, count, 75)
        stored.append(make_vectors(random, count, dimension, centres))
        [random.uniform(0.5, 2.0, len(one)) for one in terms]  # as `make_rows` draws, to stay in step
    scores = dense @ np.concatenate(stored).T
    acl = (np.arange(rows) // 4) % ACL_SETS
    result = {}
    for caller, visible in callers.items():
        allowed = np.ones(rows, bool) if visible is UNFILTERED else np.isin(acl, visible.acl_ids)
        exact = np.argsort(-np.where(allowed, scores, -np.inf), axis=1)[:, :10]
        found = index.search_dense("bench__a", dense, visible=visible, limit=10)
        shares = [
            len({int(chunk_id, 16) for chunk_id in one.chunk_ids} & set(best.tolist())) / 10
            for one, best in zip(found, exact, strict=True)
        ]
        result[caller] = round(float(np.mean(shares)), 4)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lockstep-query-"))
    home = Home(folder)
    try:
        index = MilvusIndex(ensure_server(home, linger=False))
        built = {
            c: build(index, c, options.rows, options.dimension, seed) for seed, c in ((1, "bench__a"), (2, "bench__b"))
        }
        index.point_alias(ALIAS, "bench__a")
        result = measure(index, options.rows, options.dimension, options.repeats, server_status(home).pid or 0)
        print(json.dumps({"rows": options.rows, "cores": os.cpu_count(), "build": built, **result}, indent=2))
    finally:
        stop_server(home)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
