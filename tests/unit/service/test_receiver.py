import asyncio
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pipelines.config import Config
from pipelines.errors import ConfigError, LockstepError
from pipelines.home import Home
from pipelines.service.receiver import Receiver, signature
from pipelines.sources.webhook.inbox import Inbox

NOW = 1_800_000_000.0
KEY, OLD_KEY, OTHER_KEY = b"the-new-key-of-the-hook", b"the-old-key-of-the-hook", b"somebody-elses-key"


class Calls:
    """A receiver and its callers."""

    def __init__(self, home: Home, monkeypatch, *, max_event_bytes: int = 1_000, **options) -> None:
        monkeypatch.setenv("HOOK_SECRET", KEY.decode())
        monkeypatch.setenv("HOOK_SECRET_OLD", OLD_KEY.decode())
        hook = {"name": "hook", "kind": "webhook", "secret_env": "HOOK_SECRET", **options}
        unset = {"name": "unset", "kind": "webhook", "secret_env": "NOT_SET_ANYWHERE"}
        folder = {"name": "handbook", "kind": "filesystem", "path": "corpus"}
        config = {"index": "demo", "sources": [hook, unset, folder], "streams": {"max_event_bytes": max_event_bytes}}
        self.home = home
        self.now = NOW
        self.lines: list[str] = []
        self.receiver = Receiver(Config.model_validate(config), home, now=lambda: self.now, log=self.lines.append)
        self.client = TestClient(self.receiver.app())

    def post(self, body: bytes = b"{}", *, to: str = "hook", key: bytes = KEY, at: float | str = NOW, **headers):
        timestamp = at if isinstance(at, str) else f"{at:.0f}"
        given = {"X-Lockstep-Timestamp": timestamp, "X-Lockstep-Signature": signature(key, timestamp, body)}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        given = {name: value for name, value in given.items() if value is not None}
        return self.client.post(f"/webhooks/{to}", content=body, headers=given)

    def stored(self, source: str = "hook") -> int:
        return len(Inbox(self.home, source).waiting())


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def calls(home, monkeypatch):
    return Calls(home, monkeypatch)


def test_a_signed_call_is_in_the_inbox_when_it_is_answered(calls):
    answer = calls.post(b'{"any": "thing"}')
    assert answer.status_code == 202
    (delivery,) = Inbox(calls.home, "hook").waiting()
    assert answer.json() == {"id": delivery.id}
    assert Inbox(calls.home, "hook").read(delivery) == b'{"any": "thing"}'


def test_a_body_that_nobody_will_understand_is_taken_in_all_the_same(calls):
    assert calls.post(b"\x00\xff no json").status_code == 202
    assert calls.post(b"").status_code == 202
    assert calls.stored() == 2


GOOD = signature(KEY, f"{NOW:.0f}", b"{}")


@pytest.mark.parametrize(
    "changed",
    [
        {"key": OTHER_KEY},
        {"X_Lockstep_Signature": None},
        {"X_Lockstep_Timestamp": None},
        {"X_Lockstep_Signature": ""},
        {"X_Lockstep_Signature": "v1="},
        {"X_Lockstep_Signature": "v1=" + "0" * 64},
        {"X_Lockstep_Signature": GOOD.removeprefix("v1=")},
        {"X_Lockstep_Signature": GOOD.replace("v1", "v0")},
        {"X_Lockstep_Signature": GOOD.upper()},
        {"X_Lockstep_Signature": GOOD + "00"},
        {"X_Lockstep_Signature": ",".join(["v1=" + "0" * 64] * 8 + [GOOD])},
        {"X_Lockstep_Timestamp": f"{NOW + 1:.0f}"},
        {"at": "+1800000000"},
        {"at": "1800000000.0"},
        {"at": "1e9"},
        {"at": "9" * 5_000},
    ],
    ids=lambda changed: "-".join(f"{name}={str(value)[:12]}" for name, value in changed.items()),
)
def test_a_call_without_a_signature_that_holds_is_refused_and_not_stored(calls, changed):
    answer = calls.post(**changed)
    assert answer.status_code == 401
    assert calls.stored() == 0


def test_a_changed_body_does_not_fit_its_signature(calls):
    assert calls.post(b'{"a": 2}', X_Lockstep_Signature=signature(KEY, f"{NOW:.0f}", b'{"a": 1}')).status_code == 401
    assert calls.stored() == 0


def test_while_keys_change_either_of_them_holds_and_one_of_several_signatures_is_enough(home, monkeypatch):
    calls = Calls(home, monkeypatch, secret_env_previous="HOOK_SECRET_OLD")
    assert calls.post(b"1", key=OLD_KEY).status_code == 202
    assert calls.post(b"2", key=KEY).status_code == 202
    both = signature(OTHER_KEY, f"{NOW:.0f}", b"3") + ", " + signature(KEY, f"{NOW:.0f}", b"3")
    assert calls.post(b"3", X_Lockstep_Signature=both).status_code == 202
    assert calls.post(b"4", key=OTHER_KEY).status_code == 401


def test_a_key_that_was_retired_holds_no_more(calls):
    assert calls.post(key=OLD_KEY).status_code == 401


@pytest.mark.parametrize(("skew", "status"), [(-301, 401), (-299, 202), (0, 202), (299, 202), (301, 401)])
def test_a_call_outside_the_tolerance_is_refused_and_the_answer_says_by_how_much(calls, skew, status):
    answer = calls.post(at=NOW + skew)
    assert answer.status_code == status
    if status == 401:
        assert "301 s" in answer.json()["error"]
        assert "300 s" in answer.json()["error"]
        assert calls.stored() == 0


def test_a_replayed_call_is_refused_and_stored_once(calls):
    first = calls.post(b"body")
    again = calls.post(b"body")
    assert (first.status_code, again.status_code) == (202, 409)
    assert first.json()["id"] in again.json()["error"]
    assert calls.stored() == 1


def test_a_replayed_call_is_refused_after_a_restart_and_under_another_key(home, monkeypatch):
    both = {"secret_env_previous": "HOOK_SECRET_OLD"}
    assert Calls(home, monkeypatch, **both).post(b"body").status_code == 202
    restarted = Calls(home, monkeypatch, **both)
    assert restarted.post(b"body").status_code == 409
    assert restarted.post(b"body", key=OLD_KEY).status_code == 409
    assert restarted.stored() == 1


def test_the_same_body_signed_anew_is_another_call(calls):
    assert calls.post(b"body", at=NOW).status_code == 202
    assert calls.post(b"body", at=NOW + 1).status_code == 202
    assert calls.stored() == 2


def test_a_body_above_the_limit_is_refused_and_one_at_it_is_not(calls):
    assert calls.post(b"x" * 1_000).status_code == 202
    assert calls.post(b"x" * 1_001).status_code == 413
    assert calls.stored() == 1


@pytest.mark.parametrize("length", ["99999999999", "9" * 4_000, "-1", "abc"])
def test_a_body_that_is_announced_as_too_large_is_not_read(calls, length):
    read, status = send(calls, [b"x"] * 10, headers={"content-length": length})
    assert (read, status) == (0, 413)


def test_a_body_of_unknown_length_is_refused_before_it_is_all_read(calls):
    read, status = send(calls, [b"x" * 600] * 1_000)
    assert status == 413
    assert read == 2
    assert calls.stored() == 0


def test_of_very_many_calls_at_once_some_are_asked_to_come_later_and_memory_stays_bounded(calls):
    """Forty callers who have not sent their bodies yet: the receiver holds 32."""
    body = b"{}"
    scope = signed(body)
    statuses: list[int] = []

    async def all_at_once():
        refused = asyncio.Event()

        async def call():
            async def receive():
                await refused.wait()
                return {"type": "http.request", "body": body, "more_body": False}

            async def answer(message):
                if "status" in message:
                    statuses.append(message["status"])
                if statuses.count(503) == 8:
                    refused.set()

            await calls.receiver.app()(dict(scope), receive, answer)

        await asyncio.gather(*(call() for _ in range(40)))

    asyncio.run(asyncio.wait_for(all_at_once(), timeout=20))
    assert statuses[:8] == [503] * 8
    assert sorted(statuses[8:]) == [202] + [409] * 31
    assert calls.post(b"another").status_code == 202


def signed(body: bytes, headers: dict[str, str] | None = None) -> dict[str, object]:
    """The ASGI scope of a call with that body."""
    given = {
        "x-lockstep-timestamp": f"{NOW:.0f}",
        "x-lockstep-signature": signature(KEY, f"{NOW:.0f}", body),
        **(headers or {}),
    }
    return {
        "type": "http",
        "method": "POST",
        "path": "/webhooks/hook",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }


def send(calls: Calls, parts: list[bytes], headers: dict[str, str] | None = None) -> tuple[int, int]:
    """Call the application without a client, part by part: how many parts it read, and its answer's status."""
    scope = signed(b"".join(parts), headers)
    waiting, read, sent = list(parts), 0, []

    async def receive():
        nonlocal read
        read += 1
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def answer(message):
        sent.append(message)

    asyncio.run(calls.receiver.app()(scope, receive, answer))
    return read, sent[0]["status"]


@pytest.mark.parametrize("name", ["nobody", "handbook", "HOOK", "hook%2F..%2Fhook", "%00"])
def test_a_webhook_that_does_not_exist_is_not_found_whoever_asks(calls, name):
    assert calls.post(to=name).status_code == 404
    assert list(calls.home.inbox.glob("*/waiting/*")) == []


def test_a_webhook_whose_secret_is_not_set_lets_nobody_in(calls):
    for key in (KEY, b"", b"None"):
        assert calls.post(to="unset", key=key).status_code == 401
    assert calls.stored("unset") == 0
    assert any("NOT_SET_ANYWHERE" in line for line in calls.lines)


def test_a_webhook_that_is_switched_off_asks_to_come_later_and_says_so_only_to_those_with_the_key(home, monkeypatch):
    calls = Calls(home, monkeypatch, monitor=False)
    answer = calls.post()
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert calls.post(key=OTHER_KEY).status_code == 401
    assert calls.stored() == 0


def test_a_full_inbox_asks_to_come_later_and_takes_the_call_then(home, monkeypatch):
    calls = Calls(home, monkeypatch, max_waiting=2)
    assert [calls.post(body).status_code for body in (b"1", b"2", b"3")] == [202, 202, 503]
    assert calls.post(b"3").headers["Retry-After"] == "30"
    box = Inbox(home, "hook")
    box.put_away([delivery.id for delivery in box.waiting()], remember_seconds=600)
    assert calls.post(b"3").status_code == 202


def test_a_disk_that_refuses_asks_to_come_later(calls, monkeypatch):
    def fail(descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", fail)
        assert calls.post().status_code == 503
    assert calls.post().status_code == 202


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch", "head", "options"])
def test_only_posting_is_allowed(calls, method):
    answer = getattr(calls.client, method)("/webhooks/hook")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "POST"


def test_health_tells_nothing_but_that_it_runs(calls):
    answer = calls.client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_each_call_is_one_line_without_content_or_secret(calls):
    calls.lines.clear()
    calls.post(b'{"text": "confidential"}')
    calls.post(b'{"text": "confidential"}')
    calls.post(b'{"text": "confidential"}', key=OTHER_KEY)
    calls.post(b"x" * 2_000)
    calls.post(to="nobody%0Aaccepted hook 202")
    assert [line.split(" bytes")[0].rsplit(" ", 1)[0] for line in calls.lines] == [
        "accepted hook 202",
        "refused hook 409",
        "refused hook 401",
        "refused hook 413",
        "refused (unknown source) 404",
    ]
    text = "".join(calls.lines)
    assert "\n" not in text
    for secret in ("confidential", KEY.decode(), signature(KEY, f"{NOW:.0f}", b'{"text": "confidential"}')[3:]):
        assert secret not in text


def test_a_receiver_without_a_webhook_is_told_to_configure_one(home):
    config = {"index": "demo", "sources": [{"name": "handbook", "kind": "filesystem", "path": "corpus"}]}
    with pytest.raises(ConfigError, match="kind: webhook"):
        Receiver(Config.model_validate(config), home)


def test_a_receiver_whose_inbox_cannot_be_written_does_not_start(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file in place of the folder")
    with pytest.raises(LockstepError, match="inbox"):
        Calls(Home(tmp_path / "home"), monkeypatch)


def test_the_example_in_the_documentation_is_what_the_receiver_expects():
    page = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    assert signature(b"example-secret", "1700000000", b'{"hello": "world"}') in page
