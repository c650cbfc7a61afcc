import errno
import os
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.errors import ConfigError, SourceError
from pipelines.home import Home
from pipelines.sources.base import Fetched
from pipelines.sources.filesystem.folder import Folder
from pipelines.sources.filesystem.section import FilesystemSource
from pipelines.sources.registry import open_source
from pipelines.sources.surroundings import Surroundings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    return folder


def source(root: Path, **options) -> Folder:
    seams = {name: options.pop(name) for name in ("scan", "reader") if name in options}
    return Folder(FilesystemSource(name="handbook", kind="filesystem", path=root, **options), **seams)


def write(root: Path, *names: str, content: bytes = b"text") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1_700_000_000.25, 1_700_000_000.25))


def uris(listing) -> list[str]:
    return listing.items["uri"].to_pylist()


def classes(listing) -> dict[str, str]:
    return {problem.uri: problem.error_class for problem in listing.problems}


def failing_scan(*names: str, code: int):
    """os.scandir that fails for folders of these names: root may read every folder."""

    def scan(path: bytes):
        if Path(os.fsdecode(path)).name in names:
            raise OSError(code, os.strerror(code))
        return os.scandir(path)

    return scan


def test_every_file_is_listed_once_with_size_and_time(root):
    write(root, "a.md", "hr/b.md", "hr/deep/c.txt")
    listing = source(root).list()
    assert uris(listing) == ["a.md", "hr/b.md", "hr/deep/c.txt"]
    assert listing.complete
    assert listing.problems == ()
    row = listing.items.to_pylist()[0]
    assert row["size_bytes"] == 4
    assert row["modified_at"].isoformat() == "2023-11-14T22:13:20.250000+00:00"


def test_an_empty_folder_is_read_and_empty(root):
    listing = source(root).list()
    assert len(listing.items) == 0
    assert listing.complete


def test_include_and_exclude_choose_files(root):
    write(root, "a.md", "a.txt", "drafts/b.md", "hr/c.md", ".git/config", "hr/.hidden.md")
    assert uris(source(root, include=("**/*.md",), exclude=("drafts/**",)).list()) == ["a.md", "hr/c.md"]
    assert uris(source(root).list()) == ["a.md", "a.txt", "drafts/b.md", "hr/c.md"]
    assert uris(source(root, include=("**/.*",)).list()) == ["hr/.hidden.md"]


def test_a_missing_folder_is_an_error_that_names_path_and_key_and_not_an_empty_source(root):
    root.rmdir()
    with pytest.raises(SourceError, match="does not exist") as caught:
        source(root).list()
    assert str(root) in str(caught.value)
    assert "`path`" in str(caught.value)
    with pytest.raises(SourceError, match="does not exist"):
        source(root).fetch(["a.md"])


def test_a_file_in_place_of_the_folder_is_an_error_that_says_what_to_use(tmp_path):
    write(tmp_path, "corpus.jsonl")
    with pytest.raises(SourceError, match="kind: records"):
        source(tmp_path / "corpus.jsonl").list()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_root_that_cannot_be_read_is_an_error_and_not_an_empty_source(root, code):
    write(root, "a.md")
    with pytest.raises(SourceError, match=os.strerror(code)):
        source(root, scan=failing_scan("corpus", code=code)).list()


@pytest.mark.parametrize(
    ("code", "transient"), [(errno.EACCES, False), (errno.EIO, True), (errno.ESTALE, True), (errno.ENOENT, True)]
)
def test_an_unreadable_folder_is_a_problem_for_what_lies_below_it_alone(root, code, transient):
    write(root, "a.md", "hr/b.md", "it/c.md")
    listing = source(root, scan=failing_scan("hr", code=code)).list()
    assert uris(listing) == ["a.md", "it/c.md"]
    assert not listing.complete
    (problem,) = listing.problems
    assert (problem.uri, problem.error_class, problem.subtree) == ("hr", "FolderUnreadable", True)
    assert problem.transient is transient
    assert "exclude" in problem.message


def test_an_excluded_folder_need_not_be_readable(root):
    write(root, "a.md", "hr/b.md")
    listing = source(root, exclude=("hr/**",), scan=failing_scan("hr", code=errno.EACCES)).list()
    assert uris(listing) == ["a.md"]
    assert listing.complete


@contextmanager
def without_root():
    """As somebody whom modes bind: root reads everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared_root(root: Path) -> Path:
    """A corpus that another user may reach."""
    for folder in (root, *root.parents):
        if folder == Path(folder.anchor):
            break
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    root.chmod(0o755)
    return root


def test_the_kernels_own_refusal_of_a_folder_and_of_a_file_ends_in_a_clear_state(shared_root):
    write(shared_root, "a.md", "hr/b.md", "secret.md")
    (shared_root / "hr").chmod(0)
    (shared_root / "secret.md").chmod(0)
    try:
        with without_root():
            folder = source(shared_root)
            listing = folder.list()
            answers = {answer.uri: answer for answer in folder.fetch(["a.md", "secret.md", "hr/b.md"])}
    finally:
        (shared_root / "hr").chmod(0o755)
    assert uris(listing) == ["a.md", "secret.md"]
    assert classes(listing) == {"hr": "FolderUnreadable"}
    assert isinstance(answers["a.md"], Fetched)
    assert answers["secret.md"].error_class == answers["hr/b.md"].error_class == "FileUnreadable"
    assert not answers["secret.md"].transient


def test_a_folder_replaced_during_the_walk_is_an_error(root):
    write(root, "a/b.md")

    def scan(path: bytes):
        entries = os.scandir(path)
        if path.endswith(b"/a"):
            shutil.move(root, root.with_name("moved"))
            root.mkdir()
        return entries

    with pytest.raises(SourceError, match="replaced"):
        source(root, scan=scan).list()


def test_a_file_removed_during_the_walk_is_simply_not_there(root):
    write(root, "a.md", "b.md")

    def scan(path: bytes):
        found = os.scandir(path)
        entries = list(found)
        found.close()
        (root / "a.md").unlink(missing_ok=True)

        @contextmanager
        def opened():
            yield iter(entries)

        return opened()

    listing = source(root, scan=scan).list()
    assert uris(listing) == ["b.md"]
    assert listing.problems == ()


ODD_NAMES = [
    b"with space.md",
    b" leading and trailing ",
    b"new\nline.md",
    b"tab\tand\rreturn",
    b"latin1-\xe4\xf6.md",
    b"100%.md",
    b"100%25.md",
    b"-rf",
    b"quote'\"`$(x).md",
    b"back\\slash",
    "日本語\u200b.md".encode(),
    "Cafe\u0301.md".encode(),
    "Café.md".encode(),
    b"*?[x].md",
    b"con:aux|.md",
    b"x" * 255,
    b"\x01\x7f",
    b"~",
]


def test_odd_names_are_listed_and_fetched_under_printable_uris(root):
    for number, name in enumerate(ODD_NAMES):
        path = root / os.fsdecode(name)
        path.write_bytes(b"content %d" % number)
        os.utime(path, (1_700_000_000.5, 1_700_000_000.5))
    folder = source(root)
    listing = folder.list()
    assert len(listing.items) == len(ODD_NAMES)
    assert all("\n" not in uri for uri in uris(listing))
    answers = list(folder.fetch(uris(listing)))
    assert {answer.content for answer in answers} == {b"content %d" % n for n in range(len(ODD_NAMES))}


def test_a_path_longer_than_the_system_allows_is_a_problem_and_no_crash(root):
    write(root, "a.md")
    at = os.open(root, os.O_RDONLY)
    for _ in range(18):
        os.mkdir("d" * 250, dir_fd=at)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("deep.md", os.O_WRONLY | os.O_CREAT, dir_fd=at))
    os.close(at)
    listing = source(root).list()
    assert uris(listing) == ["a.md"]
    (problem,) = listing.problems
    assert (problem.error_class, problem.subtree) == ("FolderUnreadable", True)


def test_links_inside_the_folder_are_read_once_under_their_own_names(root):
    write(root, "real/a.md", "b.md")
    (root / "again").symlink_to("real")
    (root / "c.md").symlink_to("b.md")
    listing = source(root).list()
    assert uris(listing) == ["b.md", "real/a.md"]
    assert listing.problems == ()


def test_a_link_that_leaves_the_folder_is_refused_and_named(root, tmp_path):
    write(tmp_path, "outside/secret.md")
    write(root, "a.md")
    (root / "file.md").symlink_to(tmp_path / "outside" / "secret.md")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "passwd").symlink_to("/etc/passwd")
    (root / "neighbour").symlink_to(root.with_name("corpus-2"))
    root.with_name("corpus-2").mkdir()
    listing = source(root).list()
    assert uris(listing) == ["a.md"]
    assert classes(listing) == dict.fromkeys(("file.md", "folder", "passwd", "neighbour"), "SymlinkOutside")
    assert [problem.uri for problem in listing.problems if problem.subtree] == ["folder", "neighbour"]
    assert {a.error_class for a in source(root).fetch(["file.md", "folder/secret.md"])} == {"Replaced"}


def test_link_loops_and_broken_links_are_named(root):
    write(root, "d/a.md")
    (root / "self").symlink_to("self")
    (root / "ping").symlink_to("pong")
    (root / "pong").symlink_to("ping")
    (root / "d" / "up").symlink_to("..")
    (root / "d" / "same").symlink_to("../d")
    (root / "broken").symlink_to("nowhere")
    listing = source(root).list()
    assert uris(listing) == ["d/a.md"]
    assert classes(listing) == {
        "self": "SymlinkLoop",
        "ping": "SymlinkLoop",
        "pong": "SymlinkLoop",
        "d/up": "SymlinkLoop",
        "d/same": "SymlinkLoop",
        "broken": "SymlinkBroken",
    }
    assert listing.complete


def test_links_that_are_not_included_are_no_problem(root):
    write(root, "a.md")
    (root / ".#a.md").symlink_to("user@host.1234")
    (root / "out").symlink_to("/etc")
    assert source(root, exclude=("out",)).list().problems == ()


def test_the_root_may_be_a_link(root, tmp_path):
    write(root, "a.md")
    (tmp_path / "link").symlink_to(root)
    folder = source(tmp_path / "link")
    assert uris(folder.list()) == ["a.md"]
    assert [answer.content for answer in folder.fetch(["a.md"])] == [b"text"]


def test_special_files_are_named_and_never_opened(root):
    write(root, "a.md")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        at = Path.cwd()
        os.chdir(root)  # the address of a socket has at most 108 bytes
        try:
            server.bind("socket")
        finally:
            os.chdir(at)
        listing = source(root).list()
        answers = list(source(root).fetch(["pipe", "socket"]))
    assert uris(listing) == ["a.md"]
    assert classes(listing) == {"pipe": "SpecialFile", "socket": "SpecialFile"}
    assert [answer.error_class for answer in answers] == ["SpecialFile", "FileUnreadable"]


def test_a_file_above_the_limit_is_named_with_the_key_to_change(root):
    write(root, "big.md", content=b"x" * 11)
    write(root, "fits.md", content=b"x" * 10)
    listing = source(root, max_bytes=10).list()
    assert uris(listing) == ["fits.md"]
    (problem,) = listing.problems
    assert problem.error_class == "TooLarge"
    assert "11 bytes" in problem.message
    assert "max_bytes" in problem.message


def test_times_outside_the_calendar_are_held_within_it(root):
    write(root, "old", "new")
    os.utime(root / "old", (-2_000_000_000, -2_000_000_000))
    os.utime(root / "new", (15_000_000_000, 15_000_000_000))
    assert len(source(root).list().items) == 2


def test_progress_is_reported_while_listing(root):
    write(root, *(f"{number}.md" for number in range(1_001)))
    seen: list[tuple[int, int]] = []
    source(root).list(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1_000, 0), (1_001, 1_001)]


def test_more_than_a_thousand_problems_are_counted_and_stop_every_deletion(root):
    for number in range(1_005):
        (root / f"{number}").symlink_to("nowhere")
    listing = source(root).list()
    assert len(listing.problems) == 1_001
    assert not listing.complete
    assert "5 further" in listing.problems[-1].message


def test_a_source_is_opened_by_its_kind(root):
    assert isinstance(
        open_source(FilesystemSource(name="h", kind="filesystem", path=root), Surroundings.of(Home(root))), Folder
    )


def test_a_pattern_that_matches_nothing_is_a_configuration_error(root):
    config = FilesystemSource.model_construct(
        name="h", kind="filesystem", path=root, include=("/abs/**",), exclude=(), max_bytes=1
    )
    with pytest.raises(ConfigError, match="abs"):
        open_source(config, Surroundings.of(Home(root)))
