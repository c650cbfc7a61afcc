"""Following two sources as the sensors do, as an action that a test can kill anywhere and begin again.

A folder whose changes are announced by hints, and a feed of versioned events; the changes hold an edit, a new file, one
that cannot be read, deletions that the guard asks about, other readers, versions out of order and twice, a deletion
by event, and a message that nobody understands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.home import Home
from pipelines.lake.events import Event

FILES: dict[str, bytes] = {
    "leave.md": b"# Leave\n\nThirty days.\n",
    "hr/pay.txt": b"Pay bands are reviewed in March.\n",
    "travel.md": b"# Travel\n\nBy train.\n",
    **{f"old/{number}.md": f"# Old\n\nPage {number} will go.\n".encode() for number in range(4)},
}
CHANGED: dict[str, bytes] = {
    "leave.md": b"# Leave\n\nThirty-one days.\n",  # edited
    "hr/pay-2026.txt": FILES["hr/pay.txt"],  # renamed
    "travel.md": FILES["travel.md"],
    "new.md": b"# New\n\nA page that came.\n",
    "broken.pdf": b"%PDF-1.7 and nothing that follows",
}
RULES = [{"match": "hr/**", "readers": ["group:hr"]}, {"match": "**", "readers": ["group:staff"]}]
OTHER_RULES = [{"match": "travel.md", "readers": ["group:board"]}, *RULES]


def configuration(model: Path, files: str, *, changed: bool) -> dict[str, Any]:
    """As a mapping; `changed` gives one document other readers."""
    return {
        "index": "follow",
        "encoder": {"model": str(model), "dtype": "float32"},
        "parsing": {"workers": 1},
        "guard": {"min_documents": 2, "max_deleted_share": 0.3, "window_seconds": 0},
        "sources": [
            {"name": "docs", "kind": "filesystem", "path": files, "access": OTHER_RULES if changed else RULES},
            {"name": "feed", "kind": "webhook", "secret_env": "LOCKSTEP_TEST_SECRET"},
        ],
    }


def announcements(*, changed: bool) -> list[list[Event]]:
    """What producers send, in batches that become durable one after the other."""
    first = [_told("k1.md", 1, b"# One\n\nFirst.\n"), _told("k2.md", 1, b"# Two\n\nSecond.\n")]
    if not changed:
        return [first, [_hint(uri, "first") for uri in FILES]]
    versions = [
        _told("k1.md", 3, b"# One\n\nThird.\n"),
        _told("k1.md", 2, b"# One\n\nNever to be seen.\n"),  # late
        _told("k2.md", 2, None),
        _told("k3.md", 1, b"# Three\n\nNew.\n"),
        _told("k3.md", 1, b"# Three\n\nNew.\n"),  # twice
        _told("k1.md", 1, b"# One\n\nFirst.\n"),  # once more, long after
        Event(
            "feed", "", "rejected", "webhook:bad", content=b"{", size_bytes=1, error_class="NotJson", error="no JSON"
        ),
    ]
    touched = sorted({*FILES, *CHANGED} - {"travel.md"})
    return [versions, [_hint(uri, "second") for uri in touched], [_hint("old", "third", subtree=True)]]


def _told(uri: str, version: int, content: bytes | None) -> Event:
    return Event(
        "feed",
        uri,
        "delete" if content is None else "upsert",
        f"webhook:{uri}-{version}",
        version=version,
        content=content,
        size_bytes=None if content is None else len(content),
        readers=("group:staff",),
    )


def _hint(uri: str, batch: str, *, subtree: bool = False) -> Event:
    return Event("docs", uri, "changed", f"watch:{batch}:{uri}", subtree=subtree)


def follow(config: str, home: str, *, changed: bool) -> None:
    """Everything from the announcements to the promotion, the operator's answer included.

    What is announced again after a kill is what nobody had acknowledged: the log knows it by its identity.
    """
    from pipelines.update.applying import approvals
    from pipelines.update.looking.observe import observe
    from tests.updating import update

    project = opened(config, home)
    for batch in announcements(changed=changed):
        project.events.append(batch)
    for source in ("feed", "docs"):
        observe(project, source, run_id="look", mode="hints")
    update(project, "follow", scan=False)
    asked = [request for request in approvals.requests(project) if request.approved_by is None]
    for request in asked:
        approvals.approve(project, request.source, by="operator", run_id="approve")
    if approvals.requests(project):
        update(project, "approved", scan=False)


def follow_points(config: str, home: str) -> list[str]:
    """What an undisturbed run passes."""
    from tests.integration._commit_points import AllPoints

    points = AllPoints()
    follow(config, home, changed=True)
    return points.passed


def follow_dying(config: str, home: str, at: str, how: Any, delay_seconds: float = 0.0) -> None:
    """Follow until this process is killed at that point; at the latest at the end."""
    from tests.integration._commit_points import AllPoints, strike

    points = AllPoints(at, how, lambda: strike("SIGKILL"), delay_seconds)
    follow(config, home, changed=True)
    if points.waiting is not None:
        points.waiting.join()


def follow_again(config: str, home: str) -> dict[str, Any]:
    """The next run, and what is there then; nobody has read any text that was never to be seen."""
    before = texts_shown(config, home)
    follow(config, home, changed=True)
    after = found(config, home)
    return {**after, "shown_before": before, "shown_after": texts_shown(config, home)}


def follow_clean(config: str, home: str) -> str:
    """The digest of a full build in a fresh home, with everything listed."""
    from tests.updating import update

    project = opened(config, home)
    for batch in announcements(changed=True)[:1]:
        project.events.append(batch)
    return update(project, "clean", full=True).candidate.digest


def texts_shown(config: str, home: str) -> list[str]:
    """Every text behind the alias with its access set."""
    project = opened(config, home)
    index = project.index()
    live = index.alias_target(project.alias)
    rows = index._rows(live, None) if live else []
    return sorted(f"{row['uri']} {row['acl_id']}: {row['text']}" for row in rows)


def opened(config: str, home: str) -> Any:
    """A project on an index that outlives the process."""
    import os

    from pipelines.config import load_config
    from pipelines.project import Project
    from tests.fakes.file_index import FileIndex
    from tests.integration._actions import parse_here

    os.environ["LOCKSTEP_TEST_SECRET"] = "0123456789abcdef0123456789abcdef"
    parse_here()
    place = Home(Path(home))
    return Project(load_config(Path(config)), place, index=FileIndex(place.index / "rows.pickle"))


def found(config: str, home: str) -> dict[str, Any]:
    """What is there: comparable with what another way to the same state leaves."""
    from collections import Counter

    from pipelines.lake.dead_letters import open_letters
    from pipelines.update.applying.approvals import requests
    from pipelines.update.applying.pending import pending
    from pipelines.update.snapshot.verify import verify

    project = opened(config, home)
    lake = project.lake
    documents = lake.read("documents").to_pylist()
    letters = open_letters(lake).to_pylist()
    proof = verify(project)
    events = lake.read("change_events")
    kept = lake.read("document_versions").to_pylist()
    seen = Counter((row["doc_id"], row["manifest_version"]) for row in kept)
    index = project.index()
    return {
        "documents": sorted([row["uri"], row["status"], row["version"], row["acl_id"]] for row in documents),
        "letters": sorted([row["uri"], row["stage"]] for row in letters),
        "digest": proof.actual_digest,
        "rows": index.count(index.alias_target(project.alias)),
        "verified": proof.ok,
        "pending": sum(one.announced + one.found for one in pending(project)),
        "asked": len(requests(project)),
        "events_doubled": len(events) - len(set(events["event_id"].to_pylist())),
        "sequences_doubled": len(events) - len(set(events["sequence"].to_pylist())),
        "versions_doubled": sum(count - 1 for count in seen.values()),
        "texts_doubled": len(texts := lake.read("embeddings")["text_hash"].to_pylist()) - len(set(texts)),
        "last_versions": sorted({row["uri"]: row["version"] for row in kept if row["source"] == "feed"}.items()),
    }
