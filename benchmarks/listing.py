"""A listing of a million objects compared with a manifest of a million rows: `python -m benchmarks.listing`.

The objects have no content. A generator stands where the S3 client answers, so that the source's own code runs over
pages as boto3 gives them; `--http` puts a server there instead, and boto3 itself is measured too. The manifest is a
Delta table. Each part runs in a process of its own that reports its peak memory.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import pyarrow as pa

from benchmarks import measuring
from pipelines.governance.access import AclRegistry, SourceLabels
from pipelines.home import Home
from pipelines.identity import doc_id
from pipelines.lake.events import EventLog
from pipelines.lake.schemas import ACL_SETS, DOCUMENTS
from pipelines.lake.tables import Lake
from pipelines.sources.detect import decide
from pipelines.sources.s3.bucket import Bucket
from pipelines.sources.s3.section import S3Source
from pipelines.sources.section import AccessRule
from pipelines.update.looking.known import known_documents
from pipelines.update.looking.progress import Progress

PAGE = 1_000
START = datetime(2026, 1, 1, tzinfo=UTC)


def key_of(number: int) -> str:
    return f"team-{number % 50:02}/project-{number % 1_000:03}/2026/{number % 12 + 1:02}/report-{number:08}.md"


def etag_of(number: int) -> str:
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


def edited(number: int) -> bool:
    """One in ten thousand differs from the manifest; one in ten thousand others is gone."""
    return number % 10_000 == 5_000


def gone(number: int) -> bool:
    return number % 10_000 == 7_000


def objects(start: int, count: int) -> Iterator[dict[str, Any]]:
    for number in range(start, start + count):
        if not gone(number):
            tag = etag_of(-number if edited(number) else number)
            at = START + timedelta(seconds=number)
            yield {"Key": key_of(number), "Size": 1_000 + number % 5_000, "ETag": f'"{tag}"', "LastModified": at}


class Generated:
    """Answers `list_objects_v2` as boto3's client does, and keeps what the making of the answers took."""

    def __init__(self, total: int) -> None:
        self.total, self.seconds = total, 0.0

    def list_objects_v2(self, *, ContinuationToken: str = "0", **_: Any) -> dict[str, Any]:  # noqa: N803
        started = time.perf_counter()
        first = int(ContinuationToken)
        page = list(objects(first, min(PAGE, self.total - first)))
        after = first + PAGE
        answer = {"Contents": page, "IsTruncated": after < self.total, "NextContinuationToken": str(after)}
        self.seconds += time.perf_counter() - started
        return answer


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the same pages as XML, prepared before they are asked for."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    pages: tuple[bytes, ...] = ()

    def do_GET(self) -> None:
        first = int(parse_qs(urlsplit(self.path).query).get("continuation-token", ["0"])[0])
        body = self.pages[first // PAGE]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


def rendered(first: int, total: int) -> bytes:
    after = first + PAGE
    parts = [
        "<?xml version='1.0'?><ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>",
        f"<IsTruncated>{str(after < total).lower()}</IsTruncated>",
        f"<NextContinuationToken>{after}</NextContinuationToken><EncodingType>url</EncodingType>",
    ]
    parts += [
        f"<Contents><Key>{one['Key']}</Key><LastModified>{one['LastModified']:%Y-%m-%dT%H:%M:%S.000Z}"
        f"</LastModified><ETag>{escape(one['ETag'])}</ETag><Size>{one['Size']}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
        for one in objects(first, min(PAGE, total - first))
    ]
    return ("".join(parts) + "</ListBucketResult>").encode()


def serve(total: int, ready: Any) -> None:
    Handler.pages = tuple(rendered(first, total) for first in range(0, total, PAGE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ready.send(server.server_address[1])
    server.serve_forever()


def write_manifest(lake: Lake, total: int) -> None:
    """The rows that the documents of an earlier update have."""
    at_once = 100_000
    labels = SourceLabels(section(), AclRegistry(ACL_SETS.empty_table()))
    for start in range(0, total, at_once):
        numbers = range(start, min(start + at_once, total))
        uris = [key_of(number) for number in numbers]
        made = {
            "doc_id": [doc_id("bucket", uri) for uri in uris],
            "uri": uris,
            "size_bytes": [1_000 + number % 5_000 for number in numbers],
            "etag": [etag_of(number) for number in numbers],
            "modified_at": [START + timedelta(seconds=number) for number in numbers],
            "content_hash": [hashlib.sha256(uri.encode()).hexdigest() for uri in uris],
            "acl_id": labels.acl_ids(pa.chunked_array([pa.array(uris)])),
            "title": [f"Report {number}" for number in numbers],
        }
        fixed = {
            "source": "bucket", "tenant": "default", "classification": "internal", "version": 1,
            "media_type": "text/markdown", "metadata": "{}", "status": "active", "run_id": "generated",
            "updated_at": START + timedelta(days=365),
        }  # fmt: skip
        columns = []
        for field in DOCUMENTS:
            if field.name in made:
                columns.append(pa.array(made[field.name], field.type))
            elif field.name in fixed:
                columns.append(pa.array([fixed[field.name]] * len(uris), field.type))
            else:
                columns.append(pa.nulls(len(uris), field.type))
        lake.append("documents", pa.Table.from_arrays(columns, schema=DOCUMENTS), run_id="generated")


def section(**options: Any) -> S3Source:
    rules = (AccessRule(match="team-00/**", readers=("group:hr",)), AccessRule(match="**", readers=("group:staff",)))
    return S3Source(name="bucket", kind="s3", bucket="generated", access=rules, **options)


def measure(folder: Path, total: int, url: str | None) -> dict[str, Any]:
    """List, read the manifest, compare; seconds each and peak memory of this process."""
    idle = peak_bytes()
    home = Home(folder)
    lake = Lake(home.lake)
    generated = Generated(total)
    config = section(endpoint_url=url, region="us-east-1") if url else section()
    source = Bucket(config) if url else Bucket(config, lambda _service, _settings: generated)
    labels = SourceLabels(config, AclRegistry(ACL_SETS.empty_table()))
    started = time.perf_counter()
    listing = source.list()
    listed = time.perf_counter()
    known = known_documents(lake, EventLog(home), Progress(config.name), labels)
    read = time.perf_counter()
    decision = decide(known.table, listing, None, labels=labels, source="bucket")
    decided = time.perf_counter()
    expected = sum(map(edited, range(total))), sum(map(gone, range(total)))
    found = len(decision.look), len(decision.deleted)
    if found != expected or len(listing.items) != total - expected[1]:
        raise SystemExit(f"expected (changed, gone) {expected}, found {found} of {len(listing.items):,} objects")
    seconds = listed - started + decided - read
    return {
        "objects": total,
        "list_seconds": listed - started,
        "of_it_generating_seconds": generated.seconds,
        "read_manifest_seconds": read - listed,
        "compare_seconds": decided - read,
        "objects_per_second": total / seconds,
        "objects_per_second_with_reading": total / (seconds + read - listed),
        "changed": found[0],
        "gone": found[1],
        "relabelled": len(decision.relabelled),
        "idle_bytes": idle,
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """Of this process since it began; `ru_maxrss` would count its parent's, too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--http", action="store_true", help="through boto3 and a server, instead of at its answers")
    parser.add_argument("--inside", type=Path, help="(used by itself) measure in this process, over that manifest")
    parser.add_argument("--url", help="(used by itself) of the server")
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(measure(options.inside, options.objects, options.url)))
        return
    with TemporaryDirectory(prefix="lockstep-bench-") as made:
        folder = options.folder or Path(made)
        lake = Lake(Home(folder).lake)
        if lake.version("documents") < 0:
            write_manifest(lake, options.objects)
        result = run(folder, options.objects, http=options.http)
    rows = [
        ["list", result["list_seconds"]],
        ["of it: generating the pages", result["of_it_generating_seconds"]],
        ["read the manifest", result["read_manifest_seconds"]],
        ["compare", result["compare_seconds"]],
    ]
    lines = [
        f"{result['objects']:,} objects, {result['changed']:,} changed, {result['gone']:,} gone"
        + (", through boto3 and HTTP" if options.http else ""),
        "",
        measuring.table(rows, ["what", "seconds"]),
        "",
        f"{result['objects_per_second']:,.0f} objects/s listed and compared, "
        f"{result['objects_per_second_with_reading']:,.0f} with reading the manifest; "
        f"peak memory {result['peak_bytes'] / 2**20:,.0f} MiB ({result['idle_bytes'] / 2**20:,.0f} MiB before)",
    ]
    measuring.tell(result, lines, as_json=options.json)


def run(folder: Path, total: int, *, http: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.listing", "--inside", str(folder), "--objects", str(total)]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    server = None
    if http:
        near, far = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(total, far), daemon=True)
        server.start()
        command += ["--url", f"http://127.0.0.1:{near.recv()}"]
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    finally:
        if server is not None:
            server.terminate()
            server.join()
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main()
