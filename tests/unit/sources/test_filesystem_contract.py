import os
from pathlib import Path

import pytest

from pipelines.sources.addresses.uris import decode_uri
from pipelines.sources.base import Hint
from pipelines.sources.filesystem.folder import Folder
from pipelines.sources.filesystem.section import FilesystemSource
from tests.source_contract import Harness, SourceContract, uris


class FolderHarness(Harness):
    def __init__(self, folder: Path) -> None:
        self.root = folder / "corpus"
        self.root.mkdir()
        self.section = FilesystemSource(name="handbook", kind="filesystem", path=self.root, max_bytes=1_000)
        self._seconds = 1_700_000_000

    def open(self):
        return Folder(self.section)

    def put(self, uri, content):
        path = self.root / os.fsdecode(decode_uri(uri))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self._seconds += 1
        os.utime(path, (self._seconds + 0.25, self._seconds + 0.25))

    def delete(self, uri):
        (self.root / os.fsdecode(decode_uri(uri))).unlink()

    def break_(self):
        self.root.rename(self.root.with_name("unmounted"))

    def mend(self):
        self.root.with_name("unmounted").rename(self.root)


class TestFolder(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path):
        return FolderHarness(tmp_path)


class CountedScan:
    def __init__(self) -> None:
        self.folders: list[str] = []

    def __call__(self, path: bytes):
        self.folders.append(Path(os.fsdecode(path)).name)
        return os.scandir(path)


@pytest.fixture
def harness(tmp_path):
    return FolderHarness(tmp_path)


def test_a_look_reads_no_folder_that_no_hint_names(harness):
    for folder in ("hr", "it", "ops"):
        for number in range(20):
            harness.put(f"{folder}/{number}.md", b"text")
    scan = CountedScan()
    source = Folder(harness.section, scan=scan)
    assert uris(source.look([Hint("hr/3.md"), Hint("it/4.md")])) == {"hr/3.md", "it/4.md"}
    assert scan.folders == []
    assert len(source.look([Hint("ops"), Hint("ops/7.md")]).items) == 20
    assert scan.folders == ["ops"]


def test_a_hint_on_a_folder_walks_it_also_when_it_says_nothing_of_a_subtree(harness):
    harness.put("moved/in/a.md", b"text")
    harness.put("moved/b.md", b"text")
    assert uris(harness.open().look([Hint("moved")])) == {"moved/in/a.md", "moved/b.md"}


def test_a_look_leaves_out_what_a_listing_leaves_out(harness):
    section = harness.section.model_copy(update={"exclude": ("drafts/**", "**/~$*")})
    for uri in ("drafts/a.md", "drafts/in/b.md", ".git/config", "hr/.hidden/c.md", "~$lock.docx", "good.md"):
        harness.put(uri, b"text")
    hints = [Hint(uri) for uri in ("drafts/a.md", "drafts", "drafts/in", ".git", ".git/config", "hr", "~$lock.docx")]
    assert uris(Folder(section).look(hints)) == set()
    assert uris(Folder(section).look([*hints, Hint("good.md")])) == {"good.md"}


def test_a_look_follows_no_link_and_says_so_as_a_listing_does(harness, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("secret")
    harness.put("inside/a.md", b"text")
    (harness.root / "leaves").symlink_to(outside)
    (harness.root / "stays").symlink_to(harness.root / "inside")
    listed = harness.open().list()
    looked = harness.open().look([Hint("leaves/secret.md"), Hint("stays/a.md")])
    assert uris(looked) == set()
    assert looked.problems == listed.problems
    assert [(problem.uri, problem.error_class, problem.subtree) for problem in looked.problems] == [
        ("leaves", "SymlinkOutside", True)
    ]


@pytest.mark.parametrize("uri", ["../outside.md", "a/../b.md", "a//b.md", "./b.md", "%2e%2e/x", "b%00.md", "x" * 5_000])
def test_a_hint_that_no_document_can_be_called_is_not_looked_for(harness, uri):
    harness.put("b.md", b"text")
    (harness.root.parent / "outside.md").write_text("outside")
    looked = harness.open().look([Hint(uri)])
    assert (uris(looked), looked.problems) == (set(), ())


def test_a_file_in_place_of_a_folder_means_that_what_was_below_is_gone(harness):
    harness.put("hr", b"a file now")
    assert uris(harness.open().look([Hint("hr/b.md")])) == set()
    assert uris(harness.open().look([Hint("hr/b.md"), Hint("hr")])) == {"hr"}


def test_a_hinted_file_above_the_limit_is_the_problem_that_a_listing_has(harness):
    harness.put_too_large("hr/big.md")
    looked = harness.open().look([Hint("hr/big.md")])
    assert uris(looked) == set()
    assert looked.problems == harness.open().list().problems
    assert [problem.error_class for problem in looked.problems] == ["TooLarge"]


def test_checking_an_empty_folder_is_no_failure_and_says_that_nothing_was_read(harness):
    checks = {check.name: check for check in harness.open().check()}
    assert checks["read"].ok
    assert "none was read" in checks["read"].message
