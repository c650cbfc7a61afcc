"""Many small objects of a bucket that answers late: one read after the other, and side by side, in one run.

    python -m benchmarks.s3_fetch [--objects 10000] [--bytes 4096] [--latency-ms 20]

A server on 127.0.0.1 speaks enough of S3 for GET, and answers each after the latency. Those that are read one after the
other are a share of all objects, which would take minutes; the ratio is of objects a second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection

from pipelines.sources.base import Fetched
from pipelines.sources.s3.bucket import Bucket
from pipelines.sources.s3.section import S3Source

_SHARE = 20  # of the objects one in so many is read one after the other


def serve(content: bytes, latency_seconds: float, told: Connection) -> None:
    """A process of its own: the client shall have a core for itself."""
    head = (
        'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nETag: "0123456789abcdef0123456789abcdef"\r\n'
        f"Last-Modified: Fri, 01 May 2026 10:00:00 GMT\r\nContent-Length: {len(content)}\r\n\r\n"
    ).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(latency_seconds)
                writer.write(head + content)
                await writer.drain()
        writer.close()

    async def run() -> None:
        running = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
        told.send(running.sockets[0].getsockname()[1])
        await running.serve_forever()

    asyncio.run(run())


@contextmanager
def server(content: bytes, latency_seconds: float) -> Iterator[str]:
    mine, theirs = Pipe()
    process = Process(target=serve, args=(content, latency_seconds, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{mine.recv()}"
    finally:
        process.terminate()
        process.join(10)


def rate(url: str, objects: int, at_once: int) -> float:
    section = S3Source(name="s", kind="s3", bucket="b", endpoint_url=url, region="us-east-1", fetches_at_once=at_once)
    source = Bucket(section)
    started = time.perf_counter()
    found = sum(isinstance(answer, Fetched) for answer in source.fetch(f"docs/{n}.txt" for n in range(objects)))
    assert found == objects
    return objects / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--bytes", type=int, default=4_096)
    parser.add_argument("--latency-ms", type=float, default=20)
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    at_once = S3Source.model_fields["fetches_at_once"].default
    with server(b"x" * options.bytes, options.latency_ms / 1_000) as url:
        rate(url, 50, 1)
        alone = rate(url, max(1, options.objects // _SHARE), 1)
        together = rate(url, options.objects, at_once)
    told = {"one_after_the_other_per_second": round(alone, 1), "side_by_side_per_second": round(together, 1)}
    print(json.dumps({**told, "at_once": at_once, "times_faster": round(together / alone, 1)}))


if __name__ == "__main__":
    main()
