import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from pipelines.config import load_config
from pipelines.home import Home
from pipelines.project import Project
from pipelines.service.receiver import signature
from pipelines.sources.registry import open_stream
from pipelines.sources.surroundings import Surroundings
from pipelines.sources.webhook.inbox import Inbox
from pipelines.update.looking.follow import pump

pytestmark = pytest.mark.integration

KEY = b"0123456789abcdef0123456789abcdef"
ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0


class Running:
    """An installation, and the receiver process of it."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home")
        self.config = folder / "lockstep.yaml"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config.write_text(
            "index: demo\n"
            "sources:\n"
            "  - {name: hook, kind: webhook, secret_env: HOOK_SECRET, max_waiting: 100000}\n"
            f"receiver: {{port: {self.port}}}\n"
            "streams: {max_event_bytes: 100000}\n"
        )
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        environment = {**os.environ, "LOCKSTEP_HOME": str(self.home.root), "HOOK_SECRET": KEY.decode()}
        command = [sys.executable, "-m", "pipelines.cli", "receive", "--config", str(self.config)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        assert "receiving webhooks on" in self.process.stderr.readline()
        threading.Thread(target=self.process.stderr.read, daemon=True).start()  # so that its log never fills the pipe

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def waiting(self) -> set[str]:
        return {delivery.id for delivery in Inbox(self.home, "hook").waiting()}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def receiver(folder: Path) -> Iterator[Running]:
    running = Running(folder)
    running.start()
    try:
        yield running
    finally:
        running.kill()


@pytest.fixture
def running(tmp_path) -> Iterator[Running]:
    with receiver(tmp_path) as found:
        yield found


def upsert(uri: str, version: int = 1, text: str = "text") -> bytes:
    message = {"schema_version": 1, "type": "upsert", "uri": uri, "version": version, "content": {"text": text}}
    return json.dumps(message).encode()


def signed(body: bytes, at: float | None = None) -> dict[str, str]:
    timestamp = f"{time.time() if at is None else at:.0f}"
    return {"X-Lockstep-Timestamp": timestamp, "X-Lockstep-Signature": signature(KEY, timestamp, body)}


def post(url: str, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    given = signed(body) if headers is None else headers
    return httpx.post(f"{url}/webhooks/hook", content=body, headers=given, verify=False)


def test_a_receiver_that_is_killed_at_any_time_loses_nothing_that_it_answered(running):
    """A caller sends on and on, and counts what was answered 202; the receiver is killed four times meanwhile."""
    accepted: dict[str, str] = {}
    enough = threading.Event()

    client = httpx.Client(verify=False)

    def send() -> None:
        number = 0
        while not enough.is_set():
            number += 1
            body = upsert(f"{threading.get_ident()}/{number}.md")
            headers = signed(body)
            while not enough.is_set():  # as a producer does: the same call again, until it is answered
                try:
                    answer = client.post(f"{running.url}/webhooks/hook", content=body, headers=headers)
                except httpx.TransportError:
                    enough.wait(0.05)
                    continue
                assert answer.status_code in (202, 409), answer.text
                found = re.search("[0-9a-f]{64}", answer.text)
                assert found is not None
                accepted[found.group()] = json.loads(body)["uri"]
                break

    callers = [threading.Thread(target=send) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        for kills in range(1, 5):
            before = len(accepted)
            wait_for(lambda before=before, kills=kills: len(accepted) >= before + 10 + 7 * kills)
            running.kill()
            running.start()
        before = len(accepted)
        wait_for(lambda: len(accepted) >= before + 10)
    finally:
        enough.set()
        for caller in callers:
            caller.join()
        client.close()
    assert set(accepted) <= running.waiting()

    around = Surroundings.of(running.home)
    stream = open_stream(load_config(running.config).source("hook"), around)
    assert stream is not None
    new = 0
    while messages := stream.receive(limit=1_000, wait_seconds=0):
        events = [event for message in messages for event in message.events]
        assert {event.type for event in events} == {"upsert"}
        new += around.events.append(events).new
        stream.acknowledge(messages)
    assert running.waiting() == set()
    documents = set(around.events.state("hook")["uri"].to_pylist())
    assert set(accepted.values()) <= documents
    assert len(documents) == new


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        threading.Event().wait(0.01)


def test_a_call_that_was_answered_is_refused_after_a_kill(running):
    body = upsert("a.md")
    headers = signed(body)
    assert post(running.url, body, headers).status_code == 202
    running.kill()
    running.start()
    assert post(running.url, body, headers).status_code == 409
    assert len(running.waiting()) == 1


def test_of_one_call_that_comes_many_times_at_once_one_is_taken_in(running):
    body = upsert("a.md")
    headers = signed(body)
    statuses: list[int] = []
    callers = [
        threading.Thread(target=lambda: statuses.append(post(running.url, body, headers).status_code))
        for _ in range(12)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(statuses) == [202] + [409] * 11
    assert len(running.waiting()) == 1


def test_a_body_that_never_ends_is_refused_and_the_connection_closed(running):
    """Written piece by piece, as a caller who ignores the limit does."""
    timestamp = f"{time.time():.0f}"
    head = (
        "POST /webhooks/hook HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        f"X-Lockstep-Timestamp: {timestamp}\r\nX-Lockstep-Signature: v1={'0' * 64}\r\n\r\n"
    )
    part = b"x" * 10_000
    chunk = f"{len(part):x}\r\n".encode() + part + b"\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_SECONDS) as caller:
        caller.sendall(head.encode())
        answer = b""
        try:
            while sent < 10_000:
                caller.sendall(chunk)
                sent += 1
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            while received := caller.recv(4_096):
                answer += received
        except ConnectionResetError:
            pass
    assert sent < 10_000
    assert not answer or answer.startswith(b"HTTP/1.1 413")
    assert running.waiting() == set()
    assert post(running.url, upsert("a.md")).status_code == 202


def test_a_receiver_that_is_asked_to_end_answers_what_it_has_begun(running):
    assert post(running.url, upsert("a.md")).status_code == 202
    assert running.process is not None
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(timeout=PATIENCE_SECONDS) in (0, 130, -signal.SIGINT)
    assert len(running.waiting()) == 1


def test_a_port_that_is_taken_is_told_with_the_key_to_change(running):
    command = [sys.executable, "-m", "pipelines.cli", "receive", "--config", str(running.config)]
    environment = {**os.environ, "LOCKSTEP_HOME": str(running.home.root), "HOOK_SECRET": KEY.decode()}
    other = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert other.returncode == 1
    assert "receiver.port" in other.stderr
    assert KEY.decode() not in other.stderr


def test_calls_nobody_understands_are_in_the_log_as_rejected_events_with_their_bodies(running):
    good, bad = upsert("a.md"), b"no json at all"
    assert [post(running.url, body).status_code for body in (bad, good)] == [202, 202]
    project = Project.open(running.config, running.home)
    section = project.config.source("hook")
    stream = open_stream(section, project.surroundings())
    assert stream is not None
    report = pump(project, section, stream, wait_seconds=0, run_id="test")
    assert (report.messages, report.new, report.rejected) == (2, 2, 1)
    rows = project.events.after("hook", 0, ("rejected",)).to_pylist()
    (rejected,) = rows
    assert project.blobs.read(rejected["content_hash"]) == bad
    assert project.events.state("hook")["uri"].to_pylist() == ["a.md"]
