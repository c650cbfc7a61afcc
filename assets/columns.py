"""What every column means, in words for the catalogue; types and nullability come from the library's schemas.

Nothing else belongs here. A test holds that every column of every shown table has its description.
"""

from __future__ import annotations

import pyarrow as pa

from pipelines.index.rows import INDEX_ROW
from pipelines.lake.schemas import TABLES

INDEX = "live_index"  # not a table: the fields of the collection behind the alias

SCHEMAS: dict[str, pa.Schema] = {**TABLES, INDEX: INDEX_ROW}

KEYS: dict[str, tuple[str, ...]] = {
    "documents": ("doc_id",),
    "acl_sets": ("acl_id",),
    "elements": ("content_hash", "parser_fp"),
    "chunks": ("content_hash", "recipe_fp", "ordinal"),
    "embeddings": ("text_hash", "model_fp"),
    "index_snapshots": ("snapshot_id",),
    "dead_letters": ("letter_id",),
    "change_events": ("sequence",),
    "document_versions": ("doc_id", "durable_at", "change"),
    INDEX: ("chunk_id",),
}

_EVERYWHERE = {
    "doc_id": "Document: hash of its source's name and its address there",
    "content_hash": "SHA-256 of the document's bytes; their blob's name",
    "text_hash": "SHA-256 of the chunk's text exactly as it is encoded",
    "recipe_fp": "Fingerprint of parser, chunker, tokenizer and lexical analyser",
    "model_fp": "Fingerprint of the encoder: model files, backend, number format, normalisation, maximum length",
    "source": "Name of the source in the configuration",
    "uri": "The source's own address of the document: relative path or record id",
    "tenant": "Tenant that the source's configuration names",
    "classification": "Classification that the source's configuration names",
    "acl_id": "Access set of the document; a query filters by the sets that its caller may read",
    "run_id": "Run that wrote the row",
    "updated_at": "When the row was last written (UTC)",
    "created_at": "When the row was first written (UTC)",
}

_OF_TABLE: dict[str, dict[str, str]] = {
    "documents": {
        "media_type": "Kind of content, found in the bytes first and the name second",
        "size_bytes": "Size at the source, in bytes",
        "etag": "The source's own version mark, if it has one",
        "modified_at": "Modification time at the source (UTC)",
        "content_hash": "SHA-256 of the bytes of the version that is served",
        "version": "Counts content changes, from 1",
        "title": "Title found in the document, else made from its name",
        "metadata": "JSON object: author, created, language, tags and more, as far as known",
        "status": "active, deleted, or quarantined (no version of it could ever be parsed)",
        "deleted_at": "When the deletion was found (UTC)",
        "retain_until": "Until when a deleted document is kept (UTC)",
        "quarantined_hash": "The newer content that could not be parsed, while the last good one is served",
        "detected_at": "When Lockstep first heard of what the row says now (UTC)",
    },
    "acl_sets": {
        "acl_id": "Number of the access set: a hash of tenant and principals",
        "tenant": "Whose principals they are",
        "principals": "Who may read, sorted: user:, group: and role: names",
    },
    "elements": {
        "parser_fp": "Fingerprint of how that media type is parsed",
        "status": "parsed, empty or failed",
        "error_class": "Why it failed, in one word: Encrypted, Damaged, TimeLimit, ...",
        "error": "Why it failed, in a sentence",
        "transient": "Whether another attempt may succeed (a time limit, a worker that was killed)",
        "title": "Title found in the content",
        "metadata": "JSON object: author, created, language, tags and more, as found in the content",
        "pages": "Pages or slides, where the format has them",
        "characters": "Characters of text found",
        "seconds": "How long the parse took",
        "elements": "What was found, in reading order: kind, text, level, page, table HTML, code language",
    },
    "chunks": {
        "ordinal": "Position in the document, from 0; its neighbours are one less and one more",
        "chunk_count": "Chunks of this content in all",
        "text": "Exactly what is encoded: heading context, then the body",
        "body_start": "Characters of text before the body",
        "kind": "text, table, code or list",
        "heading_path": "Headings above, from the outermost in",
        "section": "Number of the parent section in the document; 0 before any heading",
        "char_start": "First character of the body in the document's normalised text",
        "char_end": "One past its last character",
        "pages": "Pages that it touches",
        "tokens": "Tokens of the text by the encoder's own tokenizer, special tokens included",
        "terms": "Hashed lexical terms, ascending: dimensions of the sparse vector",
        "weights": "Their BM25 document weights",
    },
    "embeddings": {
        "vector": "Finite and of unit length",
    },
    "index_snapshots": {
        "snapshot_id": "Identity of the snapshot",
        "sequence": "1, 2, 3, ... per index",
        "index_name": "Name of the index, and of the alias that readers resolve",
        "parent": "Snapshot that was live when this one was built",
        "kind": "incremental, full or rollback",
        "manifest_version": "Version of documents that it holds",
        "model": "JSON: the encoder and lexical analyser that a query of this snapshot must use",
        "collection": "Physical collection (slot) that holds its rows",
        "documents": "Active documents",
        "rows": "Rows that the tables say it holds",
        "digest": "Order-independent digest of its rows: sum of their hashes modulo 2^256",
        "upserted": "Rows written to make it",
        "deleted": "Rows removed to make it",
        "gates": "JSON: result of every gate",
        "status": "building, candidate, live, retired or rejected",
        "promoted_at": "When readers first saw it (UTC)",
    },
    "dead_letters": {
        "letter_id": "One letter a document and stage",
        "stage": "Where it failed: event, list, fetch, parse, chunk or encode",
        "content_hash": "The bytes that failed; their blob's name",
        "error_class": "Why, in one word",
        "error": "Why, in a sentence",
        "transient": "Whether another attempt may succeed",
        "attempts": "Attempts so far",
        "status": "open, resolved or discarded",
        "first_seen_at": "When it first failed (UTC)",
        "last_seen_at": "When it last failed or was resolved (UTC)",
        "retry_at": "When it is tried again by itself (UTC); empty: not before somebody asks",
    },
    "change_events": {
        "sequence": "Number that grows in the order in which the events became durable",
        "event_id": "Identity of what is announced, not of its delivery: a second delivery adds no row",
        "uri": "The source's own address of the document, or of the folder that a hint names",
        "type": "Announced: upsert, delete, changed, rejected. Found by a look: observed, absent, failed, recovered",
        "subtree": "A hint on everything below the address, too",
        "version": "Of this document, by the producer; the highest wins, whenever it arrives",
        "content_hash": "The bytes that came with it, in the blob folder; of a rejected message its payload",
        "pointer": "Where the content is, when the event does not carry it",
        "media_type": "Kind of content, as announced",
        "attributes": "JSON object: title, author, created, version label and more, as announced",
        "readers": "Who may read, as announced; empty: the event says nothing about it",
        "occurred_at": "When it happened, by the producer's clock (UTC)",
        "modified_at": "Modification time, as announced (UTC)",
        "size_bytes": "Size, as announced or found by the listing",
        "etag": "The source's own version mark, as announced or found by the listing",
        "received_at": "When Lockstep received it (UTC)",
        "origin": "Where it came from: kafka:TOPIC[PARTITION]@OFFSET, watch, listing, ...",
        "error_class": "Of a rejected one: why, in one word",
        "error": "Of a rejected one: why, in a sentence",
    },
    "document_versions": {
        "media_type": "Kind of content",
        "size_bytes": "Size at the source, in bytes",
        "version": "Content version of the document after the change, from 1",
        "change": "added, changed, deleted, restored, access, attributes or quarantined",
        "title": "Title as served",
        "metadata": "JSON object: author, created, version label and more, as known then",
        "modified_at": "Modification time at the source (UTC)",
        "detected_at": "When Lockstep first heard of it (UTC)",
        "durable_at": "When the manifest said so (UTC)",
        "manifest_version": "Version of the table documents in which it was said",
    },
    INDEX: {
        "chunk_id": "Row: hash of document, text hash, and how often that text came before in the document",
        "title": "Title of the document",
        "heading_path": "Headings above, from the outermost in, joined by ' > '",
        "pages": "Pages, such as 3 or 3-4",
        "text": "Exactly what was encoded: heading context, then the body",
        "body_start": "Characters of text before the body",
        "row_hash": "Hash of every stored field but the vectors, and of the model",
        "dense": "The text's vector, unit length",
        "terms": "Dimensions of the sparse vector",
        "weights": "BM25 document weights of those terms",
    },
}

# Table and column to the columns that it comes from.
LINEAGE: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "documents": {
        "content_hash": (("elements", "content_hash"),),
        "title": (("elements", "title"),),
        "metadata": (("elements", "metadata"),),
    },
    "chunks": {
        "content_hash": (("elements", "content_hash"), ("documents", "content_hash")),
        "text": (("elements", "elements"), ("elements", "title")),
        "text_hash": (("elements", "elements"), ("elements", "title")),
        "pages": (("elements", "elements"),),
        "heading_path": (("elements", "elements"), ("elements", "title")),
    },
    "embeddings": {
        "text_hash": (("chunks", "text_hash"),),
        "vector": (("chunks", "text"),),
    },
    "live_index": {
        "chunk_id": (("documents", "doc_id"), ("chunks", "text_hash")),
        **{name: (("documents", name),) for name in ("doc_id", "source", "uri", "tenant", "classification", "acl_id")},
        "title": (("documents", "title"),),
        **{name: (("chunks", name),) for name in ("text", "text_hash", "body_start", "heading_path", "pages")},
        "terms": (("chunks", "terms"),),
        "weights": (("chunks", "weights"),),
        "dense": (("embeddings", "vector"),),
    },
}


def describe(table: str, column: str) -> str:
    """What a column of a table means; nothing while nobody has described it, which a test does not let pass."""
    return _OF_TABLE.get(table, {}).get(column) or _EVERYWHERE.get(column, "")
