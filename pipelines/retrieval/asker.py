"""Asking the live snapshot as somebody: principals become access sets, questions become vectors of its own model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipelines.config import LexicalConfig
from pipelines.errors import SnapshotNotFound
from pipelines.governance.access import acl_ids_for
from pipelines.index.protocol import State
from pipelines.lake import snapshots
from pipelines.lake.snapshots import TermStatistics
from pipelines.lexical import query_vector
from pipelines.project import Project
from pipelines.retrieval.live import Answer, search_live
from pipelines.retrieval.search import Mode, Queries, Retriever, best_per_document

_BATCH = 200  # questions a request: each is about 20 times cheaper than alone, and a request stays small
_CHUNKS_PER_DOCUMENT = 5  # rows asked for per wanted document, since several of the best may be of one


class Asker:
    """Answers questions from whatever is live; keeps the encoder and the term statistics it loaded."""

    def __init__(self, project: Project) -> None:
        self._project = project
        config = project.config.retrieval
        self._mode: Mode = config.mode
        self._candidates = config.candidates
        self._rrf_k = config.rrf_k
        self._statistics: dict[str, TermStatistics] = {}

    def ask(self, texts: Sequence[str], principals: Sequence[str], *, k: int = 10, mode: Mode | None = None) -> Answer:
        """The `k` best rows for each question among those that the principals may read.

        Args:
            texts: questions.
            principals: who asks, and the groups and roles they have; none: no hits.
            k: rows a question at most.
            mode: hybrid, dense or bm25; None: as configured.

        Raises:
            AccessError: a principal is malformed.
            SnapshotNotFound: nothing is live.
            IndexUnavailable: the index cannot be reached.
        """
        acl_ids = acl_ids_for(principals, self._project.lake.read("acl_sets"))
        if not acl_ids:
            if principals and self._project.lake.version(snapshots.TABLE) < 0:
                raise SnapshotNotFound(
                    f"index {self._project.alias!r} has no live snapshot; run `lockstep update` first"
                )
            return Answer(None, [[] for _ in texts])
        retriever = Retriever(self._project.index(), candidates=max(self._candidates, k), rrf_k=self._rrf_k)
        hits = []
        snapshot_id = None
        for start in range(0, len(texts), _BATCH):
            answer = search_live(
                retriever,
                self._project.alias,
                texts[start : start + _BATCH],
                acl_ids=acl_ids,
                k=k,
                encode=self._encode,
                mode=mode or self._mode,
            )
            snapshot_id = answer.snapshot_id
            hits += answer.hits
        return Answer(snapshot_id, hits)

    def ask_documents(
        self, texts: Sequence[str], principals: Sequence[str], *, k: int = 10, mode: Mode | None = None
    ) -> Answer:
        """Like `ask`, with the best row of each of the `k` best documents."""
        answer = self.ask(texts, principals, k=k * _CHUNKS_PER_DOCUMENT, mode=mode)
        return replace(answer, hits=[best_per_document(hits)[:k] for hits in answer.hits])

    def _encode(self, state: State, texts: Sequence[str], mode: Mode) -> Queries:
        """The questions as the snapshot in that slot needs them: its model, its analyser, its statistics."""
        from pipelines.embedding.encoder import load_described

        dense = sparse = None
        if mode != "bm25":
            dense = load_described(state["model"]["encoder"]).encode(texts)
        if mode != "dense":
            statistics = self._term_statistics(state["snapshot_id"])
            lexical = LexicalConfig.model_validate(state["model"]["lexical"])
            sparse = [
                query_vector(text, lexical, (statistics.terms, statistics.frequencies), statistics.rows)
                for text in texts
            ]
        return Queries(dense, sparse)

    def _term_statistics(self, snapshot_id: str) -> TermStatistics:
        if snapshot_id not in self._statistics:
            found = snapshots.read_term_statistics(self._project.lake, snapshot_id)
            self._statistics = {snapshot_id: found}
        return self._statistics[snapshot_id]
