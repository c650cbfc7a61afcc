"""Asking the live snapshot as somebody: principals become access sets, questions become vectors of its own model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipelines.config import LexicalConfig
from pipelines.errors import SnapshotNotFound
from pipelines.index.protocol import State
from pipelines.lake import snapshots, term_statistics
from pipelines.lake.term_statistics import TermStatistics
from pipelines.lexical import Terms, query_vector, question_terms
from pipelines.principals import DEFAULT_TENANT
from pipelines.project import Project
from pipelines.retrieval.live import Answer, search_live
from pipelines.retrieval.search import Mode, Queries, Retriever, best_per_document
from pipelines.update.rights import Rights

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
        self._keep_warm_seconds = project.config.encoder.keep_warm_seconds
        self._rights = Rights(project)
        self._statistics_of = ""  # snapshot
        self._statistics: dict[str, TermStatistics | None] = {}  # by tenant; None: it has asked once

    def ask(
        self,
        texts: Sequence[str],
        principals: Sequence[str],
        *,
        tenant: str = DEFAULT_TENANT,
        k: int = 10,
        mode: Mode | None = None,
    ) -> Answer:
        """The `k` best rows for each question among those that the principals may read, by today's rules, too.

        Args:
            texts: questions.
            principals: who asks, and the groups and roles they have; none: no hits.
            tenant: whose people they are; rows of another are out of reach, whoever asks.
            k: rows a question at most.
            mode: hybrid, dense or bm25; None: as configured.

        Raises:
            AccessError: a principal, or the tenant's name, is malformed.
            ConfigError: the configuration has changed and is wrong now.
            SnapshotNotFound: nothing is live.
            IndexUnavailable: the index cannot be reached.
        """
        if not self._rights.sets(principals, tenant):
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
                visible=lambda state: self._rights.visible(state, principals, tenant),
                k=k,
                encode=lambda state, asked, how: self._encode(state, asked, how, tenant),
                mode=mode or self._mode,
            )
            snapshot_id = answer.snapshot_id
            hits += answer.hits
        return Answer(snapshot_id, hits)

    def ask_documents(
        self,
        texts: Sequence[str],
        principals: Sequence[str],
        *,
        tenant: str = DEFAULT_TENANT,
        k: int = 10,
        mode: Mode | None = None,
    ) -> Answer:
        """Like `ask`, with the best row of each of the `k` best documents."""
        answer = self.ask(texts, principals, tenant=tenant, k=k * _CHUNKS_PER_DOCUMENT, mode=mode)
        return replace(answer, hits=[best_per_document(hits)[:k] for hits in answer.hits])

    def _encode(self, state: State, texts: Sequence[str], mode: Mode, tenant: str) -> Queries:
        """The questions as the snapshot in that slot needs them: its model, its analyser, the tenant's statistics."""
        from pipelines.embedding.model import described_config
        from pipelines.embedding.warm import encoder_for

        dense = sparse = None
        if mode != "bm25":
            config = described_config(state["model"]["encoder"], keep_warm_seconds=self._keep_warm_seconds)
            dense = encoder_for(config, texts=len(texts)).encode(texts)
        if mode != "dense":
            lexical = LexicalConfig.model_validate(state["model"]["lexical"])
            statistics = self._term_statistics(state["snapshot_id"], tenant, question_terms(texts, lexical))
            sparse = [
                query_vector(text, lexical, (statistics.terms, statistics.frequencies), statistics.rows)
                for text in texts
            ]
        return Queries(dense, sparse)

    def _term_statistics(self, snapshot_id: str, tenant: str, terms: Terms) -> TermStatistics:
        """Of few terms those alone; of many, or once the tenant asks the same snapshot again, all, which are kept."""
        if self._statistics_of != snapshot_id:
            self._statistics_of, self._statistics = snapshot_id, {}
        known = self._statistics.get(tenant)
        if known is None:
            first = tenant not in self._statistics and len(terms) <= term_statistics.FEW_TERMS
            some = terms if first else None
            known = term_statistics.read(self._project.lake, snapshot_id, tenant, terms=some)
            self._statistics[tenant] = None if first else known
        return known
