import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import SourceError
from pipelines.sources.filesystem import watching
from pipelines.sources.filesystem.section import FilesystemSource
from pipelines.sources.filesystem.watching import FolderWatch, check_watch

PATIENCE_SECONDS = 20.0


class Notify:
    """What the kernel tells, written down: sets of changes, or an error; afterwards nothing, until it is stopped."""

    def __init__(self, *turns) -> None:
        self.turns = list(turns)
        self.closed = threading.Event()

    def watch(self, debounce_ms, step_ms, timeout_ms, stop):
        if self.turns:
            turn = self.turns.pop(0)
            if isinstance(turn, Exception):
                raise turn
            return turn
        return "stop" if stop.wait(timeout_ms / 1_000) else "timeout"

    def close(self) -> None:
        self.closed.set()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    return folder


def section(root: Path, **options) -> FilesystemSource:
    return FilesystemSource(name="handbook", kind="filesystem", path=root, **options)


@pytest.fixture
def watch(root, monkeypatch) -> Iterator:
    opened: list[FolderWatch] = []

    def start(*notifies, **options) -> FolderWatch:
        waiting = list(notifies)

        def notify(section, root, **how):
            found = waiting.pop(0) if waiting and how.get("recursive", True) else Notify()
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(watching, "_notify", notify)
        monkeypatch.setattr(watching, "_REOPEN_SECONDS", 0.0)
        opened.append(FolderWatch(section(root, **options)))
        return opened[-1]

    yield start
    for stream in opened:
        stream.close()


def told(stream: FolderWatch) -> list[str]:
    messages = stream.receive(limit=100_000, wait_seconds=PATIENCE_SECONDS)
    stream.acknowledge(messages)
    return sorted(event.uri for message in messages for event in message.events)


def changes(root: Path, *names: str, kind: int = 2) -> set[tuple[int, str]]:
    return {(kind, str(root / name)) for name in names}


def test_files_below_a_changed_folder_need_no_hint_of_their_own(root, watch):
    (root / "hr/in").mkdir(parents=True)
    (root / "hr/a.md").write_text("text")
    (root / "hr/in/b.md").write_text("text")
    assert told(watch(Notify(changes(root, "hr", "hr/a.md", "hr/in", "hr/in/b.md", "hrx.md")))) == ["hr", "hrx.md"]


def test_what_is_gone_is_told_when_it_may_have_been_a_document_or_a_folder_of_documents(root, watch):
    gone = changes(root, "a.md", "b.txt", "folder", ".hidden", ".git/index", "drafts/c.md", kind=3)
    stream = watch(Notify(gone), include=("**/*.md",), exclude=("drafts/**",))
    assert told(stream) == ["a.md", "b.txt", "folder"]


def test_what_lies_outside_the_folder_is_not_told(root, watch):
    outside = {(2, str(root.parent / "other.md")), (2, str(root.parent)), (2, str(root))}
    assert told(watch(Notify(outside | changes(root, "a.md", kind=3)))) == ["a.md"]


def test_as_many_changes_as_may_fill_the_queue_are_a_look_at_everything(root, watch, monkeypatch):
    monkeypatch.setattr(watching, "_queue_length", lambda: 80)
    few = [f"{number}.md" for number in range(10)]
    assert told(watch(Notify(changes(root, *few, kind=3)))) == sorted(few)
    assert told(watch(Notify(changes(root, *few, "one-more.md", kind=3)))) == [""]


def test_a_process_that_stood_still_looks_at_everything(root, watch, monkeypatch):
    now = iter([0.0, 0.0])
    monkeypatch.setattr(watching, "monotonic", lambda: next(now, 100.0))
    assert told(watch(Notify(changes(root, "a.md", kind=3)))) == [""]


def test_hints_that_nobody_takes_become_one(root, watch, monkeypatch):
    monkeypatch.setattr(watching, "_MOST_WAITING", 5)
    stream = watch(Notify(changes(root, *(f"{number}.md" for number in range(6)), kind=3)))
    assert told(stream) == [""]
    assert stream.lag().messages == 0


def test_a_watch_that_breaks_is_opened_again_and_everything_is_looked_at(root, watch):
    broken = Notify(RuntimeError('Unable to decode path "/x/\\xE4" to string'))
    stream = watch(broken, Notify(changes(root, "a.md", kind=3)))
    assert "" in told(stream)
    assert broken.closed.is_set()


def test_a_watch_that_cannot_be_opened_again_is_an_error_until_it_can(root, watch):
    stream = watch(Notify(RuntimeError("broken")), SourceError("the limit is reached"), SourceError("still"))
    seen = []
    while not seen or seen[-1] != [""]:
        try:
            seen.append(told(stream))
        except SourceError as error:
            seen.append(str(error))
    assert set(map(str, seen)) <= {"the limit is reached", "still", "['']"}
    assert seen[-1] == [""]


def test_receiving_nothing_ends_when_the_time_is_up(root, watch):
    assert watch(Notify()).receive(limit=10, wait_seconds=0) == []


def test_at_most_as_many_hints_as_asked_for_come_at_once_and_none_is_lost(root, watch):
    names = [f"{number}.md" for number in range(5)]
    stream = watch(Notify(changes(root, *names, kind=3)))
    found = []
    while len(found) < 5:
        messages = stream.receive(limit=2, wait_seconds=PATIENCE_SECONDS)
        assert 0 < len(messages) <= 2
        found += [message.events[0].uri for message in messages]
        stream.acknowledge(messages)
    assert sorted(found) == names


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:42 / /mnt/share rw - nfs4 server:/export rw
31 22 0:43 / /mnt/share/local\\040disk rw - ext4 /dev/sdb1 rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/x", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/x/y", "nfs4"),
        ("/mnt/shared", "ext4"),
        ("/mnt/share/local disk/x", "ext4"),
    ],
)
def test_the_file_system_that_a_path_lies_on_is_told(tmp_path, monkeypatch, path, kind):
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(watching, "_MOUNTS", tmp_path / "mountinfo")
    assert watching._file_system(path) == kind


def test_checking_says_that_a_network_share_does_not_tell_what_others_change(root, tmp_path, monkeypatch):
    (tmp_path / "mountinfo").write_text(MOUNTS.replace("/mnt/share ", f"{root} "))
    monkeypatch.setattr(watching, "_MOUNTS", tmp_path / "mountinfo")
    check = check_watch(section(root), bytes(root))
    assert check.ok
    assert "nfs4" in check.message
    assert "300 s" in check.message


@pytest.mark.parametrize(
    ("reason", "setting"),
    [
        ("OS file watch limit reached.", "fs.inotify.max_user_watches"),
        ("Error creating recommended watcher: Too many open files (os error 24)", "fs.inotify.max_user_instances"),
        ("something else", "`watch: false`"),
    ],
)
def test_what_keeps_a_folder_from_being_watched_is_named_with_the_setting_to_change(root, reason, setting):
    advice = watching._advice(section(root), RuntimeError(reason))
    assert setting in advice
    assert "handbook" in advice
    assert "listing" in advice
