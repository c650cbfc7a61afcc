"""The Arrow schema of every Delta table, in one place. No column name is spelled anywhere else as a definition.

All times are UTC with microseconds. Hashes and ids are lower-case hex strings.
"""

from __future__ import annotations

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")


def _schema(*fields: tuple[str, pa.DataType] | tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(f[0], f[1], nullable=f[2] if len(f) > 2 else True) for f in fields])


DOCUMENTS = _schema(
    ("doc_id", pa.string(), False),
    ("source", pa.string(), False),
    ("uri", pa.string(), False),  # the source's own id: relative path, record id
    ("tenant", pa.string(), False),
    ("acl_id", pa.int64(), False),
    ("classification", pa.string(), False),
    ("media_type", pa.string(), False),
    ("size_bytes", pa.int64(), False),
    ("etag", pa.string()),
    ("modified_at", TIMESTAMP),
    ("content_hash", pa.string(), False),  # the version that is served
    ("version", pa.int32(), False),  # +1 for each content change
    ("title", pa.string(), False),
    ("metadata", pa.string(), False),  # JSON object: author, created, language, tags, ... as far as known
    ("status", pa.string(), False),  # active | deleted
    ("deleted_at", TIMESTAMP),
    ("retain_until", TIMESTAMP),
    ("quarantined_hash", pa.string()),  # the newer content that could not be parsed, if any
    ("detected_at", TIMESTAMP),  # when Lockstep first heard of what the row says now
    ("run_id", pa.string(), False),
    ("updated_at", TIMESTAMP, False),
)

ACL_SETS = _schema(
    ("acl_id", pa.int64(), False),
    ("tenant", pa.string(), False),
    ("principals", pa.list_(pa.string()), False),  # sorted, without duplicates
    ("created_at", TIMESTAMP, False),
)

ELEMENT = pa.struct(
    [
        pa.field("kind", pa.string(), nullable=False),  # see pipelines.parsing.elements.KINDS
        pa.field("text", pa.string(), nullable=False),
        pa.field("level", pa.int32()),  # heading depth, 1 = outermost; null for what is no heading
        pa.field("page", pa.int32()),  # 1-based page or slide; null where the format has none
        pa.field("html", pa.string()),  # tables only
        pa.field("language", pa.string()),  # code blocks only: the language named in the source
    ]
)

# One row a parsed content: it is complete or absent, and one that failed or is empty is not parsed again.
ELEMENTS = _schema(
    ("content_hash", pa.string(), False),
    ("parser_fp", pa.string(), False),
    ("status", pa.string(), False),  # parsed | empty | failed
    ("error_class", pa.string()),
    ("error", pa.string()),
    ("transient", pa.bool_(), False),  # a failure that another attempt may cure (time limit, worker killed)
    ("title", pa.string(), False),
    ("metadata", pa.string(), False),  # JSON object
    ("pages", pa.int32()),
    ("characters", pa.int64(), False),
    ("seconds", pa.float64(), False),
    ("elements", pa.list_(ELEMENT), False),
)

CHUNKS = _schema(
    ("content_hash", pa.string(), False),
    ("recipe_fp", pa.string(), False),
    ("ordinal", pa.int32(), False),  # 0-based; its neighbours are ordinal - 1 and ordinal + 1
    ("chunk_count", pa.int32(), False),  # chunks of this content, so that the last one is known
    ("text", pa.string(), False),  # exactly as encoded: heading context, newline, body
    ("text_hash", pa.string(), False),
    ("body_start", pa.int32(), False),  # characters of `text` before the body
    ("kind", pa.string(), False),  # text | table | code | list
    ("heading_path", pa.list_(pa.string()), False),
    ("section", pa.int32(), False),  # ordinal of the parent section in the document, 0 = before any heading
    ("char_start", pa.int64(), False),  # half-open span of the body in the document's normalised text
    ("char_end", pa.int64(), False),
    ("pages", pa.list_(pa.int32()), False),
    ("tokens", pa.int32(), False),  # of `text`, special tokens included, by the encoder's own tokenizer
    (
        "terms",
        pa.list_(pa.int64()),
        False,
    ),  # hashed lexical terms, ascending (dimensions of the sparse vector)
    ("weights", pa.list_(pa.float32()), False),  # their BM25 document weights
)

EMBEDDINGS = _schema(
    ("text_hash", pa.string(), False),
    ("model_fp", pa.string(), False),
    ("vector", pa.list_(pa.float32()), False),
)

INDEX_SNAPSHOTS = _schema(
    ("snapshot_id", pa.string(), False),
    ("sequence", pa.int64(), False),  # 1, 2, 3, ... per index
    ("index_name", pa.string(), False),
    ("parent", pa.string()),
    ("kind", pa.string(), False),  # incremental | full
    ("manifest_version", pa.int64(), False),
    ("recipe_fp", pa.string(), False),  # of the whole recipe: parsers, chunker, lexical analyser
    ("model_fp", pa.string(), False),
    ("model", pa.string(), False),  # JSON: how to load the encoder that a query of this snapshot must use
    ("collection", pa.string(), False),
    ("documents", pa.int64(), False),
    ("rows", pa.int64(), False),
    ("digest", pa.string(), False),
    ("upserted", pa.int64(), False),
    ("deleted", pa.int64(), False),
    ("gates", pa.string(), False),  # JSON: gate name to {passed, ...}
    ("status", pa.string(), False),  # building | candidate | live | retired | rejected | diverged
    ("run_id", pa.string(), False),
    ("created_at", TIMESTAMP, False),
    ("updated_at", TIMESTAMP, False),
    ("promoted_at", TIMESTAMP),  # when readers first saw it
)

# Of each snapshot and tenant: how rare a word is for one tenant is not told by another's texts. A snapshot's rows hold
# only what differs from a base, which many share: an update adds what it changed, not the whole vocabulary. Terms are
# divided into rows by ranges: a question reads those that can have one of its own.
TERM_STATISTICS = _schema(
    ("snapshot_id", pa.string(), False),  # or the id of a base
    ("tenant", pa.string(), False),
    ("base", pa.string()),  # what these differ from; null in the base itself
    ("rows", pa.int64(), False),  # in all, whatever the base says
    ("first_term", pa.int64()),  # of this row; null where it has none, and where an earlier version wrote all in one
    ("last_term", pa.int64()),
    ("terms", pa.list_(pa.int64()), False),  # ascending
    ("frequencies", pa.list_(pa.int32()), False),  # rows that contain the term; 0: none any more
)

DEAD_LETTERS = _schema(
    ("letter_id", pa.string(), False),
    ("source", pa.string(), False),
    ("uri", pa.string(), False),
    ("stage", pa.string(), False),  # event | list | fetch | parse | chunk | encode
    ("content_hash", pa.string()),  # reference to the payload in the blob store
    ("error_class", pa.string(), False),
    ("error", pa.string(), False),
    ("transient", pa.bool_(), False),
    ("attempts", pa.int32(), False),
    ("status", pa.string(), False),  # open | resolved | discarded
    ("run_id", pa.string(), False),
    ("first_seen_at", TIMESTAMP, False),
    ("last_seen_at", TIMESTAMP, False),
    ("retry_at", TIMESTAMP),  # when it is tried again by itself; null: not before somebody asks
)

# What streams and listings announced, durable before any cursor moves. A row is never changed.
CHANGE_EVENTS = _schema(
    # Ascending in the order in which they became durable; microseconds since 1970 or above, so that numbers go on
    # upwards after the table was lost, and nothing new hides below what was applied before.
    ("sequence", pa.int64(), False),
    ("event_id", pa.string(), False),  # of what is announced, not of its delivery: a second delivery adds no row
    ("source", pa.string(), False),
    ("uri", pa.string(), False),
    # upsert | delete: announced; changed: look again; observed | absent: what a look at the source found;
    # failed | recovered: what could not be listed or fetched, and what can be again; rejected: not understood
    ("type", pa.string(), False),
    ("subtree", pa.bool_(), False),  # changed: everything below `uri` too
    ("version", pa.int64()),  # upsert and delete: of this document; the highest wins, whenever it arrives
    ("content_hash", pa.string()),  # the bytes, in the blob store: inline content, or a rejected payload
    ("size_bytes", pa.int64()),
    ("etag", pa.string()),
    ("pointer", pa.string()),  # where the content is, when the event does not carry it
    ("media_type", pa.string()),
    ("attributes", pa.string(), False),  # JSON object: title, author, created, version_label, ... as announced
    ("readers", pa.list_(pa.string())),  # null: the event says nothing about readers
    ("occurred_at", TIMESTAMP),  # by the producer's clock
    ("modified_at", TIMESTAMP),
    ("received_at", TIMESTAMP, False),
    ("origin", pa.string(), False),  # kafka:TOPIC[PARTITION]@OFFSET, sqs:MESSAGE, watch, listing, webhook:ID, replay
    ("error_class", pa.string()),  # rejected and failed: why, in one word
    ("error", pa.string()),
)

# Every version of every document, derived from the manifest's change feed before that is vacuumed.
DOCUMENT_VERSIONS = _schema(
    ("doc_id", pa.string(), False),
    ("source", pa.string(), False),
    ("uri", pa.string(), False),
    ("version", pa.int32(), False),
    ("change", pa.string(), False),  # added | changed | deleted | restored | access | attributes | quarantined
    ("content_hash", pa.string(), False),
    ("media_type", pa.string(), False),
    ("size_bytes", pa.int64(), False),
    ("acl_id", pa.int64(), False),
    ("title", pa.string(), False),
    ("metadata", pa.string(), False),  # JSON object, as in `documents`
    ("modified_at", TIMESTAMP),
    ("detected_at", TIMESTAMP),
    ("durable_at", TIMESTAMP, False),  # when the manifest said so
    ("manifest_version", pa.int64(), False),
    ("run_id", pa.string(), False),
)

AUDIT_LOG = _schema(
    ("sequence", pa.int64(), False),
    ("at", TIMESTAMP, False),
    ("actor", pa.string(), False),
    ("action", pa.string(), False),
    ("target", pa.string(), False),
    ("detail", pa.string(), False),  # JSON object
    ("run_id", pa.string(), False),
    ("previous_hash", pa.string(), False),
    ("entry_hash", pa.string(), False),
)

TABLES: dict[str, pa.Schema] = {
    "documents": DOCUMENTS,
    "acl_sets": ACL_SETS,
    "elements": ELEMENTS,
    "chunks": CHUNKS,
    "embeddings": EMBEDDINGS,
    "index_snapshots": INDEX_SNAPSHOTS,
    "term_statistics": TERM_STATISTICS,
    "dead_letters": DEAD_LETTERS,
    "change_events": CHANGE_EVENTS,
    "document_versions": DOCUMENT_VERSIONS,
    "audit_log": AUDIT_LOG,
}
