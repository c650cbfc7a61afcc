"""BM25 over SciFact, from the project's own chunks: retrieval quality, and the speed of chunking.

    python benchmarks/lexical_scifact.py [--max-tokens N] [--k1 X] [--b X] [--average-length X]

Reads ../shared/data/scifact. A document scores as its best chunk does. nDCG@10 and recall@10 by ir-measures.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path

import ir_measures
import numpy as np
import pyarrow as pa
from ir_measures import R, nDCG
from scipy.sparse import csr_matrix

from pipelines.chunking.stage import chunk_stage
from pipelines.config import ChunkingConfig, EncoderConfig, LexicalConfig
from pipelines.lake.schemas import ELEMENTS
from pipelines.lexical import document_vectors, query_vector

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "scifact"
BATCH_DOCUMENTS = 512


def main() -> None:
    defaults = LexicalConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-tokens", type=int, default=None)
    parser.add_argument("--k1", type=float, nargs="+", default=[defaults.k1])
    parser.add_argument("--b", type=float, nargs="+", default=[defaults.b])
    parser.add_argument("--average-length", type=float, nargs="+", default=[defaults.average_length])
    options = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is absent: put the SciFact corpus, queries and judgements there")

    corpus = _lines("corpus.jsonl")
    queries = {row["id"]: row["text"] for row in _lines("queries.train.jsonl")}
    with (DATA / "qrels.train.tsv").open(encoding="utf-8") as file:
        qrels = [
            ir_measures.Qrel(row["query_id"], row["doc_id"], int(row["relevance"]))
            for row in csv.DictReader(file, delimiter="\t")
        ]

    stage = chunk_stage(ChunkingConfig(max_tokens=options.max_tokens), defaults, EncoderConfig())
    batches = list(_batches(corpus))
    wall, processor = time.perf_counter(), time.process_time()
    chunks = pa.Table.from_batches(list(stage(iter(batches))))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    tokens = np.asarray(chunks["tokens"])
    lengths = np.asarray(chunks["terms"].combine_chunks().value_lengths())
    print(
        f"{len(corpus)} documents, {chunks.num_rows} chunks, {wall:.2f} s ({processor:.2f} s of processor time): "
        f"{chunks.num_rows / wall:.0f} chunks/s\n"
        f"tokens a chunk: mean {tokens.mean():.0f}, smallest {tokens.min()}, largest {tokens.max()}; "
        f"distinct terms a chunk: mean {lengths.mean():.0f}"
    )
    texts = chunks["text"].to_pylist()
    documents = np.array([int(h) for h in chunks["content_hash"].to_pylist()])
    ids = [row["id"] for row in corpus]
    for k1 in options.k1:
        for b in options.b:
            for average in options.average_length:
                config = LexicalConfig(k1=k1, b=b, average_length=average)
                run = _run(texts, documents, ids, queries, config)
                measured = ir_measures.calc_aggregate([nDCG @ 10, R @ 10], qrels, run)
                print(
                    f"k1 {k1:g}, b {b:g}, average length {average:g}: "
                    f"nDCG@10 {measured[nDCG @ 10]:.4f}, recall@10 {measured[R @ 10]:.4f}",
                    flush=True,
                )


def _run(
    texts: list[str], documents: np.ndarray, ids: list[str], queries: dict[str, str], config: LexicalConfig
) -> list[ir_measures.ScoredDoc]:
    offsets, terms, weights = document_vectors(texts, config)
    known, columns, frequencies = np.unique(terms, return_inverse=True, return_counts=True)
    matrix = csr_matrix((weights, columns, offsets), shape=(len(texts), len(known))).T.tocsr()
    first = np.flatnonzero(np.r_[True, documents[1:] != documents[:-1]])  # a document's chunks are neighbours
    run = []
    for query, text in queries.items():
        vector = query_vector(text, config, (known, frequencies), len(texts))
        scores = np.zeros(len(texts), np.float32)
        for at, weight in zip(np.searchsorted(known, list(vector)), vector.values(), strict=True):
            rows = slice(matrix.indptr[at], matrix.indptr[at + 1])
            scores[matrix.indices[rows]] += weight * matrix.data[rows]
        best = np.maximum.reduceat(scores, first)
        run += [
            ir_measures.ScoredDoc(query, ids[documents[first[at]]], float(best[at]))
            for at in np.argsort(-best, kind="stable")[:100]
        ]
    return run


def _batches(corpus: list[dict[str, str]]) -> Iterator[pa.RecordBatch]:
    schema = pa.schema(
        [("content_hash", pa.string()), ("recipe_fp", pa.string()), ("title", pa.string()), ELEMENTS.field("elements")]
    )
    for at in range(0, len(corpus), BATCH_DOCUMENTS):
        rows = corpus[at : at + BATCH_DOCUMENTS]
        yield pa.RecordBatch.from_pylist(
            [
                {
                    "content_hash": str(at + i),
                    "recipe_fp": "",
                    "title": row["title"],
                    "elements": [{"kind": "paragraph", "text": row["text"]}],
                }
                for i, row in enumerate(rows)
            ],
            schema=schema,
        )


def _lines(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


if __name__ == "__main__":
    main()
