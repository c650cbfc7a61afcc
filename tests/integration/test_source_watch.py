import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from pipelines.errors import SourceError
from pipelines.sources.base import Hint
from pipelines.sources.filesystem.folder import Folder
from pipelines.sources.filesystem.section import FilesystemSource
from pipelines.sources.filesystem.watching import FolderWatch, open_watch
from tests.source_contract import SourceContract, announces, received, uris
from tests.unit.sources.test_filesystem_contract import FolderHarness

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 20.0


class WatchedFolder(FolderHarness):
    streams = True

    def open_stream(self):
        stream = open_watch(self.section)
        assert stream is not None
        return stream


class TestWatchedFolder(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path):
        return WatchedFolder(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    return folder


def section(root: Path, **options) -> FilesystemSource:
    return FilesystemSource(name="handbook", kind="filesystem", path=root, **options)


@pytest.fixture
def watch(root: Path) -> Iterator[FolderWatch]:
    stream = FolderWatch(section(root))
    yield stream
    stream.close()


def everything(stream: FolderWatch, *until: str) -> list[str]:
    """Uris of all hints until these are among them."""
    return [event.uri for event in received(stream, *until)]


def told(stream: FolderWatch, condition) -> list[str]:
    """Uris of the hints until the condition on them holds."""
    found: list[str] = []
    deadline = monotonic() + PATIENCE_SECONDS
    while not condition(found):
        assert monotonic() < deadline, found
        messages = stream.receive(limit=100, wait_seconds=0.5)
        found += [event.uri for message in messages for event in message.events]
        stream.acknowledge(messages)
    return found


def test_an_editors_save_by_rename_is_one_hint(root, watch):
    (root / "a.md").write_text("old")
    everything(watch, "a.md")
    temporary = root / ".a.md.swp"
    temporary.write_text("new")
    temporary.replace(root / "a.md")
    (root / "end.md").write_text("end")
    assert sorted(everything(watch, "end.md", "a.md")) == ["a.md", "end.md"]


def test_a_file_that_comes_and_goes_at_once_and_is_no_document_is_not_told(root, tmp_path):
    stream = FolderWatch(section(root, include=("**/*.md",)))
    try:
        (root / "4913").write_text("an editor tries whether it may write here")
        (root / "4913").unlink()
        (root / "a.txt").write_text("no document")
        (root / "a.md").write_text("text")
        assert everything(stream, "a.md") == ["a.md"]
    finally:
        stream.close()


def test_what_is_excluded_or_hidden_is_not_told(root):
    stream = FolderWatch(section(root, exclude=("drafts/**",)))
    try:
        (root / "drafts" / "in").mkdir(parents=True)
        (root / ".git").mkdir()
        (root / "drafts/in/a.md").write_text("text")
        (root / ".git/index").write_text("text")
        (root / "b.md").write_text("text")
        assert everything(stream, "b.md") == ["b.md"]
    finally:
        stream.close()


def test_a_folder_moved_in_with_its_content_is_looked_at_as_a_whole(root, tmp_path, watch):
    outside = tmp_path / "outside" / "deep"
    outside.mkdir(parents=True)
    (outside / "a.md").write_text("text")
    (tmp_path / "outside").rename(root / "hr")
    events = received(watch, "hr/deep/a.md")
    hints = [Hint(event.uri, event.subtree) for event in events]
    assert uris(Folder(section(root)).look(hints)) == {"hr/deep/a.md"}
    (root / "hr/deep/b.md").write_text("text")
    assert "hr/deep/b.md" in everything(watch, "hr/deep/b.md")


def test_a_renamed_folder_is_told_under_both_names(root, watch):
    (root / "hr").mkdir()
    (root / "hr/a.md").write_text("text")
    everything(watch, "hr/a.md")
    (root / "hr").rename(root / "people")
    assert {"hr", "people"} <= set(told(watch, lambda found: {"hr", "people"} <= set(found)))
    (root / "people/a.md").write_text("changed")
    assert "people/a.md" in everything(watch, "people/a.md")


def test_a_removed_folder_is_one_hint(root, watch):
    (root / "hr").mkdir()
    for number in range(50):
        (root / f"hr/{number}.md").write_text("text")
    everything(watch, *(f"hr/{number}.md" for number in range(50)))
    shutil.rmtree(root / "hr")
    assert told(watch, lambda found: "hr" in found) == ["hr"]


def test_a_file_below_a_folder_that_a_link_leads_to_is_told_by_its_own_name(root):
    (root / "inside").mkdir()
    (root / "a-link").symlink_to(root / "inside")
    (root / "z-link").symlink_to(root / "inside")
    stream = FolderWatch(section(root))
    try:
        (root / "inside/a.md").write_text("text")
        assert "inside/a.md" in everything(stream, "inside/a.md")
    finally:
        stream.close()


def test_a_slow_writers_file_is_looked_at_again_after_its_last_write(root, watch):
    with (root / "slow.md").open("w") as file:
        file.write("first")
        file.flush()
        everything(watch, "slow.md")
        file.write(", last")
    assert everything(watch, "slow.md") == ["slow.md"]


def test_a_name_that_is_no_text_leads_to_a_look_at_everything_and_watching_goes_on(root, watch):
    (Path(os.fsdecode(os.fsencode(root) + b"/Geh\xe4lter.md"))).write_text("text")
    assert told(watch, lambda found: "" in found) == [""]
    assert uris(Folder(section(root)).look([Hint("", subtree=True)])) == {"Geh%E4lter.md"}
    (root / "a.md").write_text("text")
    assert "a.md" in everything(watch, "a.md")


def test_what_happens_between_two_receives_is_not_missed(root, watch):
    for number in range(5):
        (root / f"{number}.md").write_text("text")
        told(watch, lambda found, number=number: any(uri == f"{number}.md" for uri in found))
    assert watch.lag().messages == 0


def test_a_hint_that_was_not_acknowledged_comes_again(root, watch):
    (root / "a.md").write_text("text")
    first = watch.receive(limit=10, wait_seconds=PATIENCE_SECONDS)
    assert watch.lag().messages == 1
    again = watch.receive(limit=10, wait_seconds=0)
    assert [message.events[0].origin for message in again] == [message.events[0].origin for message in first]
    watch.acknowledge(again)
    assert watch.lag().messages == 0
    assert watch.receive(limit=10, wait_seconds=0) == []


def test_each_hint_is_an_event_of_its_own(root, watch):
    origins = set()
    for _ in range(2):
        (root / "a.md").write_text("text")
        origins |= {event.identity(None) for event in received(watch, "a.md")}
    assert len(origins) == 2


def test_a_root_that_is_removed_is_an_error_and_one_that_comes_back_is_looked_at_as_a_whole(root, watch):
    (root / "a.md").write_text("text")
    everything(watch, "a.md")
    shutil.rmtree(root)
    deadline = monotonic() + PATIENCE_SECONDS
    with pytest.raises(SourceError, match="is not there") as caught:
        while monotonic() < deadline:
            watch.acknowledge(watch.receive(limit=10, wait_seconds=0.5))
    assert "`path`" in str(caught.value)
    root.mkdir()
    (root / "b.md").write_text("text")
    events = []
    while not any(event.uri == "" for event in events):
        assert monotonic() < deadline
        try:
            messages = watch.receive(limit=10, wait_seconds=0.5)
        except SourceError:
            os.sched_yield()
            continue
        events += [event for message in messages for event in message.events]
        watch.acknowledge(messages)
    (root / "c.md").write_text("text")
    assert "c.md" in everything(watch, "c.md")


def test_a_watch_that_is_opened_again_after_an_error_begins_with_a_look_at_everything(root):
    first = FolderWatch(section(root))
    shutil.rmtree(root)
    deadline = monotonic() + PATIENCE_SECONDS
    with pytest.raises(SourceError):
        while monotonic() < deadline:
            first.acknowledge(first.receive(limit=10, wait_seconds=0.5))
    first.close()
    root.mkdir()
    (root / "a.md").write_text("text")
    for expected in ([""], []):
        stream = FolderWatch(section(root))
        messages = stream.receive(limit=10, wait_seconds=0)
        assert [message.events[0].uri for message in messages] == expected
        stream.close()


def test_a_folder_that_is_not_there_cannot_be_watched(tmp_path):
    with pytest.raises(SourceError, match="is not there"):
        FolderWatch(section(tmp_path / "none"))


def test_watching_can_be_switched_off(root):
    assert open_watch(section(root, watch=False)) is None


def test_a_stream_that_is_opened_first_asks_for_what_happened_while_nobody_watched(root: Path) -> None:
    for _ in range(2):
        stream = open_watch(section(root))
        assert stream is not None
        try:
            first = stream.receive(limit=10, wait_seconds=10)
        finally:
            stream.close()
        assert [(event.uri, event.subtree) for one in first for event in one.events] == [("", True)]


_FOLLOW = """
import json, sys
from pathlib import Path
from pipelines.errors import SourceError
from pipelines.sources.filesystem.section import FilesystemSource
from pipelines.sources.filesystem.watching import FolderWatch

def say(**what):
    print(json.dumps(what), flush=True)

section = FilesystemSource(name="handbook", kind="filesystem", path=Path(sys.argv[1]))
try:
    stream = FolderWatch(section)
    say(ready=True)
    while True:
        messages = stream.receive(limit=1000, wait_seconds=1)
        stream.acknowledge(messages)
        for message in messages:
            say(uri=message.events[0].uri)
except SourceError as error:
    say(error=str(error))
"""


def follower(root: Path, *before: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-c", _FOLLOW, str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_a_queue_that_ran_over_leads_to_a_look_at_everything(root):
    """17,000 events while the watching process stands still: the kernel keeps 16,384."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip(f"fs.inotify.max_queued_events is {limit}: too many files for a test")
    process = follower(root)
    try:
        assert process.stdout is not None
        assert "ready" in json.loads(process.stdout.readline())
        process.send_signal(signal.SIGSTOP)
        for number in range(limit // 2):  # a new file is three events or more
            (root / f"{number}.md").write_text("x")
        process.send_signal(signal.SIGCONT)
        found = []
        for line in process.stdout:
            found.append(json.loads(line)["uri"])
            if "" in found:
                break
        assert found == [""]
    finally:
        process.kill()
        process.communicate()


def test_a_limit_of_the_system_is_an_error_that_names_the_setting(root):
    for number in range(40):
        (root / str(number)).mkdir()
    setting = 'echo "$0" > /proc/sys/user/max_inotify_watches && exec "$@"'
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-r", "true"], check=False).returncode:
        pytest.skip("no user namespaces here: allow them, or run this as root")
    for allowed, more in (("30", 0), ("60", 60)):  # reached when watching begins, and reached later
        process = follower(root, "unshare", "-r", "sh", "-c", setting, allowed)
        try:
            assert process.stdout is not None
            answer = json.loads(process.stdout.readline())
            if more:
                assert "ready" in answer
                for number in range(more):
                    (root / f"new{number}").mkdir()
                answer = next(line for line in map(json.loads, process.stdout) if "error" in line)
            assert "fs.inotify.max_user_watches" in answer["error"]
            assert "listing" in answer["error"]
        finally:
            process.kill()
            process.communicate()


def test_events_of_a_hint_name_no_more_than_where_to_look(root, watch):
    (root / "a.md").write_text("text")
    (event,) = received(watch, "a.md")
    assert (event.type, event.subtree, event.content, event.version) == ("changed", True, None, None)
    assert event.origin.startswith("watch:")
    assert event.occurred_at is not None
    assert announces(event, "a.md")
