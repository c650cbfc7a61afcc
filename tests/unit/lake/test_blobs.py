"""The blob store: content in, hash out, and damage noticed."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pipelines.errors import LakeError
from pipelines.identity import content_hash
from pipelines.lake.blobs import BlobStore


def test_the_same_bytes_are_stored_once(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    assert blobs.put(b"text") == blobs.put(b"text") == content_hash(b"text")
    assert sum(1 for file in tmp_path.rglob("*") if file.is_file()) == 1
    assert blobs.read(content_hash(b"text")) == b"text"


def test_an_empty_document_is_stored(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    assert blobs.read(blobs.put(b"")) == b""


def test_a_missing_blob_names_itself_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match=r"blob 0+ is missing .* `lockstep update --full`"):
        BlobStore(tmp_path).read("0" * 64)


def test_a_damaged_blob_is_not_served(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    key = blobs.put(b"right")
    (tmp_path / key[:2] / key).write_bytes(b"wrong")
    with pytest.raises(LakeError, match="damaged"):
        blobs.read(key)


def test_a_damaged_blob_of_another_size_is_written_again(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    key = blobs.put(b"right")
    (tmp_path / key[:2] / key).write_bytes(b"")
    blobs.put(b"right")
    assert blobs.read(key) == b"right"


def test_a_store_can_be_sent_to_another_process(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    key = blobs.put(b"text")
    assert pickle.loads(pickle.dumps(blobs)).read(key) == b"text"
