"""The suites, one a table."""

from __future__ import annotations

from pipelines.quality.suite import Suite
from pipelines.quality.suites.acl_sets import ACL_SETS_SUITE
from pipelines.quality.suites.chunks import CHUNKS_SUITE
from pipelines.quality.suites.documents import DOCUMENTS_SUITE
from pipelines.quality.suites.elements import ELEMENTS_SUITE
from pipelines.quality.suites.embeddings import EMBEDDINGS_SUITE
from pipelines.quality.suites.index_snapshots import INDEX_SNAPSHOTS_SUITE

SUITES: dict[str, Suite] = {
    suite.table: suite
    for suite in (
        DOCUMENTS_SUITE,
        ACL_SETS_SUITE,
        ELEMENTS_SUITE,
        CHUNKS_SUITE,
        EMBEDDINGS_SUITE,
        INDEX_SNAPSHOTS_SUITE,
    )
}
