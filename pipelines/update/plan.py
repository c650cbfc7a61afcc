"""What an update would do and what it would cost, changing nothing: sources are read, no table is written."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.chunking.stage import chunk_stage
from pipelines.errors import LakeError, SourceError
from pipelines.governance.access import AclRegistry
from pipelines.identity import content_hash
from pipelines.lake.dead_letters import Failure
from pipelines.lake.derive import missing
from pipelines.lake.events import Event, EventLog
from pipelines.lake.schemas import CHUNKS, ELEMENTS
from pipelines.lake.tables import Lake
from pipelines.parsing.stage import parse_stage
from pipelines.project import Project
from pipelines.sources.registry import open_source
from pipelines.sources.section import SourceSection
from pipelines.update.applying import reach
from pipelines.update.applying.found import apply_found
from pipelines.update.deriving import chunks
from pipelines.update.looking import progress
from pipelines.update.looking.contact import Beat, side_by_side
from pipelines.update.looking.known import known_documents
from pipelines.update.looking.look import Look
from pipelines.update.reports import PlanReport, SourceOutcome

_EXACT_DOCUMENTS = 2_000  # of more new contents than this only so many are parsed; the rest is extrapolated
_EXACT_BYTES = 256 * 1024 * 1024  # and no more than this is kept in memory
_TOKENS_PER_SECOND = 12_000  # of the default encoder on 2 cores, see benchmarks/README.md; for the estimate alone

_KEY = ["content_hash", "media_type"]
_DOCUMENT = ["doc_id", *_KEY]


def plan(project: Project, *, approve_deletions: bool = False, scan: bool = True) -> PlanReport:
    """Compare the sources with the manifest, parse and chunk new contents in memory, and count what is missing.

    A source that cannot be read, or whose deletions the guard refuses, is told in `notes`.

    Args:
        project: whose sources are meant.
        approve_deletions: plan as if the guard had the operator's word.
        scan: look at the sources now; off: plan only what looks found before.
    """
    started = time.perf_counter()
    lake = project.lake
    contents = _Contents()
    looks = _looks(project, contents) if scan else {}
    registry = AclRegistry(lake.read("acl_sets"))
    outcomes, changed = [], []
    for section in project.config.sources:
        look = looks.get(section.name)
        also = look.found if isinstance(look, _Looked) else ()
        applied = apply_found(project, section, registry, approve_deletions=approve_deletions, also=also, ask=False)
        changed.append(applied.rows().select(["action", *_DOCUMENT]))
        outcomes.append(_outcome(applied.outcome, look))
    cost = _Cost(project, _desired(project, pa.concat_tables(changed)), contents.held)
    return PlanReport(
        sources=tuple(outcomes),
        added=sum(o.added for o in outcomes),
        changed=sum(o.changed for o in outcomes),
        deleted=sum(o.deleted for o in outcomes),
        access_changed=sum(o.access_changed for o in outcomes),
        unchanged=sum(o.unchanged for o in outcomes),
        to_parse=cost.to_parse,
        to_encode=cost.to_encode,
        encode_exact=cost.exact,
        estimated_seconds=cost.tokens / _TOKENS_PER_SECOND,
        notes=tuple(o.error for o in outcomes if o.error),
        seconds=time.perf_counter() - started,
    )


def _desired(project: Project, staged: pa.Table) -> pa.Table:
    """Contents that may lack something once that is merged: of what changed, or of everything, each once."""
    known, _ = reach.documents(project)
    gone = staged.filter(pc.is_in(staged["action"], value_set=pa.array(["delete", "content"])))["doc_id"]
    stays = pc.invert(pc.is_in(known["doc_id"], value_set=gone.combine_chunks()))
    new = staged.filter(pc.equal(staged["action"], "content"))
    contents = pa.concat_tables([known.filter(stays).select(_KEY), new.select(_KEY)], promote_options="default")
    return contents.group_by(_KEY).aggregate([]).sort_by([(name, "ascending") for name in _KEY])


@dataclass(frozen=True, slots=True)
class _Looked:
    """What one look found, and how it went."""

    found: tuple[Event, ...]
    unchanged: int
    complete: bool
    problems: tuple[Failure, ...]


class _Contents:
    """The bytes of documents that were read, as far as they fit; filled by several threads."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def keep(self, content: bytes) -> None:
        with self._lock:
            if self._bytes < _EXACT_BYTES:
                self.held[content_hash(content)] = content
                self._bytes += len(content)


def _looks(project: Project, contents: _Contents) -> dict[str, _Looked | BaseException]:
    """Look at every source side by side, writing nothing."""

    def work(section: SourceSection, beat: Beat) -> _Looked:
        lake, log = Lake(project.home.lake), EventLog(project.home)
        labels = project.labels(section, AclRegistry(lake.read("acl_sets")))
        source = open_source(section, project.surroundings())
        look = Look(section, source, labels, contents.keep, progress=lambda _done, _total: beat())
        state = progress.read(project.home, section.name)
        listing = look.listing()
        found = tuple(look.events(known_documents(lake, log, state, labels), listing))
        return _Looked(found, look.unchanged, look.complete, tuple(look.failures))

    sections = {section.name: section for section in project.config.sources}
    found = side_by_side(
        {name: partial(work, section) for name, section in sections.items()},
        {name: section.stall_seconds for name, section in sections.items()},
    )
    for look in found.values():
        if isinstance(look, BaseException) and not isinstance(look, SourceError):
            raise look
    return found


def _outcome(outcome: SourceOutcome, look: _Looked | BaseException | None) -> SourceOutcome:
    if isinstance(look, BaseException):
        return replace(outcome, complete=False, error=outcome.error or f"{type(look).__name__}: {look}")
    if look is None:
        return outcome
    complete = outcome.complete and look.complete
    return replace(outcome, unchanged=outcome.unchanged + look.unchanged, complete=complete, problems=look.problems)


class _Cost:
    """What the desired documents lack in the tables, found by running the stages in memory."""

    def __init__(self, project: Project, wanted: pa.Table, contents: dict[str, bytes]) -> None:
        self._project = project
        self._contents = contents
        self._keyed = project.recipe.keyed(wanted)
        elements = self._parse()
        fresh = self._chunk(elements)
        have = list(chunks.chunks_wanted(project, wanted))
        texts = pa.concat_tables([*have, fresh.select(["text_hash", "tokens"])], promote_options="default")
        texts = texts.append_column("model_fp", pa.array([project.recipe.model_fp] * len(texts), pa.string()))
        lacking = missing(project.lake, "embeddings", texts, ["text_hash", "model_fp"])
        scale = self.to_parse / self._parsed if self._parsed else 1.0
        self.exact = self._parsed == self.to_parse
        self.to_encode = round(len(lacking) * scale)
        self.tokens = int((pc.sum(lacking["tokens"]).as_py() or 0) * scale)

    def _parse(self) -> pa.Table:
        todo = missing(self._project.lake, "elements", self._keyed, ["content_hash", "parser_fp"])
        self.to_parse = len(todo)
        known = [self._can_read(key) for key in todo["content_hash"].to_pylist()]
        todo = todo.filter(pa.array(known, pa.bool_())).slice(0, _EXACT_DOCUMENTS)
        self._parsed = len(todo)
        if not len(todo):
            return ELEMENTS.empty_table()
        stage = parse_stage(self._project.config.parsing, self._read)
        return pa.Table.from_batches(stage(iter(todo.select(_KEY).to_batches())), schema=ELEMENTS)

    def _chunk(self, fresh: pa.Table) -> pa.Table:
        """Chunks that the tables do not have, of contents parsed just now or before."""
        config = self._project.config
        parsed = fresh.filter(pc.equal(fresh["status"], "parsed"))
        with_text = chunks.with_text(self._project, self._keyed, also=parsed)
        todo = missing(self._project.lake, "chunks", with_text, ["content_hash", "recipe_fp"])
        if not len(todo):
            return CHUNKS.empty_table()
        stage = chunk_stage(config.chunking, config.lexical, config.encoder)
        return pa.Table.from_batches(stage(self._inputs(todo, parsed)), schema=CHUNKS)

    def _inputs(self, todo: pa.Table, parsed: pa.Table) -> Iterator[pa.RecordBatch]:
        yield from chunks.elements_of(todo, parsed.to_batches(max_chunksize=256))
        yield from chunks.chunk_inputs(self._project, todo)

    def _can_read(self, key: str) -> bool:
        return key in self._contents or self._project.blobs.exists(key)

    def _read(self, key: str) -> bytes:
        content = self._contents.get(key)
        if content is not None:
            return content
        try:
            return self._project.blobs.read(key)
        except LakeError:
            return b""
