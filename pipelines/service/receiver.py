"""The HTTP end of the source `webhook`: checks each call, and answers 202 once its body is on the disk.

Nothing in a body is looked at here, and nothing at all before its signature holds; docs/webhooks.md is the contract
with producers. What a call says becomes events by `pipelines.sources.webhook.source`, when the inbox is read.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipelines.config import Config
from pipelines.errors import ConfigError, LockstepError
from pipelines.home import Home
from pipelines.sources.webhook.inbox import Inbox, InboxFull, delivery_id
from pipelines.sources.webhook.source import WebhookSource, secrets

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

TIMESTAMP_HEADER = "x-lockstep-timestamp"
SIGNATURE_HEADER = "x-lockstep-signature"

_TIMESTAMP = re.compile(r"[0-9]{1,12}")  # seconds since 1970
_SIGNATURE = re.compile(r"v1=([0-9a-f]{64})")
_MOST_SIGNATURES = 8
_BODY_SECONDS = 30.0  # for a whole body; who is slower ties up memory
_MOST_CALLS = 32  # at a time: each holds its body in memory
_MOST_CONNECTIONS = 1_024  # with or without a call under way
_RETRY_AFTER_SECONDS = 30


def signature(key: bytes, timestamp: str, body: bytes) -> str:
    """What a producer sends as X-Lockstep-Signature."""
    return "v1=" + hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class _Refused(Exception):
    """The answer to a call that is not taken in."""

    def __init__(self, status: int, reason: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class _Door:
    """One source, and the keys to it; none when its secret is not set."""

    section: WebhookSource
    keys: tuple[bytes, ...]
    inbox: Inbox


Log = Callable[[str], None]


def to_standard_error(line: str) -> None:
    """One line a call, with its time."""
    sys.stderr.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {line}\n")
    sys.stderr.flush()


class Receiver:
    """Takes calls in. `now` gives seconds since 1970; `log` gets one line a call, without secrets or content."""

    def __init__(
        self, config: Config, home: Home, *, now: Callable[[], float] = time.time, log: Log = to_standard_error
    ) -> None:
        self._now = now
        self._log = log
        self._max_bytes = config.streams.max_event_bytes
        self._under_way = 0  # calls whose bodies are in memory
        self._doors: Mapping[str, _Door] = {
            section.name: self._door(section, home) for section in config.sources if isinstance(section, WebhookSource)
        }
        if not self._doors:
            raise ConfigError(
                "no source of `kind: webhook` is configured, so there is nothing to receive; docs/webhooks.md shows one"
            )

    def app(self) -> Starlette:
        """The ASGI application."""
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        async def health(request: Request) -> Response:
            del request
            return JSONResponse({"status": "ok"})

        return Starlette(
            routes=[
                Route("/health", health, methods=["GET"]),
                Route("/webhooks/{source}", self._deliver, methods=["POST"]),
            ]
        )

    def _door(self, section: WebhookSource, home: Home) -> _Door:
        inbox = Inbox(home, section.name)
        try:
            inbox.prepare()
        except OSError as error:
            raise LockstepError(
                f"source {section.name!r}: its inbox under {home.inbox} cannot be written: {error}; free space on that "
                "disk and make the folder writable, then start the receiver again"
            ) from error
        try:
            return _Door(section, secrets(section), inbox)
        except ConfigError as error:
            self._log(f"{error}; until then every call to it is refused")
            return _Door(section, (), inbox)

    async def _deliver(self, request: Request) -> Response:
        from starlette.requests import ClientDisconnect
        from starlette.responses import JSONResponse

        name = request.path_params["source"]
        told = name if name in self._doors else "(unknown source)"
        body = bytearray()
        try:
            delivery = await self._accept(name, request, body)
        except _Refused as refused:
            self._log(f"refused {told} {refused.status} {len(body)} bytes: {refused.reason}")
            headers = {"Connection": "close"} if refused.status in (408, 413) else {}
            if refused.retry_after_seconds is not None:
                headers["Retry-After"] = str(refused.retry_after_seconds)
            return JSONResponse({"error": refused.reason}, refused.status, headers)
        except ClientDisconnect:
            self._log(f"refused {told} 499 {len(body)} bytes: the caller went away before the end")
            return JSONResponse({"error": "incomplete"}, 400)
        self._log(f"accepted {told} 202 {len(body)} bytes: {delivery}")
        return JSONResponse({"id": delivery}, 202)

    async def _accept(self, name: str, request: Request, body: bytearray) -> str:
        """Check one call, in an order in which nothing of it is trusted before its signature is proved."""
        door = self._doors.get(name)
        if door is None:
            raise _Refused(404, "there is no such webhook")
        timestamp, given = request.headers.get(TIMESTAMP_HEADER, ""), request.headers.getlist(SIGNATURE_HEADER)
        offered = [part.strip() for value in given for part in value.split(",")][:_MOST_SIGNATURES]
        signatures = [match[1] for part in offered if (match := _SIGNATURE.fullmatch(part))]
        if not signatures or not _TIMESTAMP.fullmatch(timestamp):
            raise _Refused(401, f"the headers {TIMESTAMP_HEADER} (seconds) and {SIGNATURE_HEADER} (v1=hex) are needed")
        if self._under_way >= _MOST_CALLS:
            raise _Refused(503, "too many calls at a time; send it again later", 1)
        self._under_way += 1
        try:
            await self._read(request, body)
            return await self._store_proved(door, signatures, timestamp, bytes(body))
        finally:
            self._under_way -= 1

    async def _store_proved(self, door: _Door, signatures: list[str], timestamp: str, body: bytes) -> str:
        from anyio.to_thread import run_sync

        name = door.section.name
        if not _proved(door.keys, signatures, timestamp, body):
            raise _Refused(401, "the signature does not hold")
        skew = self._now() - int(timestamp)
        if abs(skew) > door.section.tolerance_seconds:
            raise _Refused(
                401,
                f"the time stamp is {abs(skew):.0f} s {'old' if skew > 0 else 'ahead'}, and "
                f"{door.section.tolerance_seconds:.0f} s are allowed; set the clock, or sign the call anew",
            )
        if not door.section.monitor:
            raise _Refused(503, "this webhook is switched off for now", 10 * _RETRY_AFTER_SECONDS)
        delivery = delivery_id(name, timestamp, body)
        try:
            fresh = await run_sync(self._store, door, delivery, body)
        except InboxFull as error:
            raise _Refused(503, f"nothing was stored: {error}; send it again later", _RETRY_AFTER_SECONDS) from None
        except OSError as error:
            self._log(f"writing the inbox of {name}: {error}")
            raise _Refused(503, "nothing was stored; send it again later", _RETRY_AFTER_SECONDS) from None
        if not fresh:
            raise _Refused(409, f"this call was accepted before: {delivery}")
        return delivery

    async def _read(self, request: Request, body: bytearray) -> None:
        from anyio import fail_after

        too_large = _Refused(413, f"the body is larger than {self._max_bytes} bytes")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._max_bytes:
            raise too_large
        try:
            with fail_after(_BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > self._max_bytes:
                        raise too_large
        except TimeoutError:
            raise _Refused(408, f"the body did not come within {_BODY_SECONDS:.0f} s") from None

    @staticmethod
    def _store(door: _Door, delivery: str, body: bytes) -> bool:
        return door.inbox.put(delivery, body, most_waiting=door.section.max_waiting)


def _proved(keys: tuple[bytes, ...], signatures: list[str], timestamp: str, body: bytes) -> bool:
    """Whether any key made any of the signatures; takes as long whichever does, and no keys prove nothing."""
    held = False
    for key in keys:
        expected = signature(key, timestamp, body).removeprefix("v1=")
        for given in signatures:
            held |= hmac.compare_digest(expected, given)
    return held


def serve(config: Config, home: Home, *, host: str | None = None, port: int | None = None) -> None:
    """Receive calls until a signal ends it; calls that are under way are answered first.

    Raises:
        ConfigError: there is no webhook.
        LockstepError: the inbox cannot be written, or the port is taken.
    """
    import uvicorn

    receiver = Receiver(config, home)
    host, port = host or config.receiver.host, port or config.receiver.port
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise LockstepError(
            f"listening on {host}:{port}: {error.strerror or error}; end what uses that port, or set the keys "
            "`receiver.host` and `receiver.port`"
        ) from error
    options: dict[str, Any] = {
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "limit_concurrency": _MOST_CONNECTIONS,
        "timeout_keep_alive": 5,
        "timeout_graceful_shutdown": 20,
        "lifespan": "off",
        "ws": "none",
    }
    with listening:
        to_standard_error(f"receiving webhooks on http://{host}:{port}/webhooks/SOURCE")
        uvicorn.Server(uvicorn.Config(receiver.app(), **options)).run(sockets=[listening])
