"""What stands before Milvus Lite's service: only who brings the installation's token is answered.

Used inside the server process and nowhere else.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

import grpc  # type: ignore[import-untyped]  # it ships none

from pipelines.index.address import same_token

_REFUSED = "this Milvus Lite process belongs to a Lockstep installation and answers only its owner's commands"


class TokenGuard(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Refuses every call without the token, whatever it asks, before the service sees it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept_service(self, continuation: Callable[[Any], Any], call: Any) -> Any:
        """The service's own handler, or one that refuses."""
        given = next((value for key, value in call.invocation_metadata if key == "authorization"), "")
        handler = continuation(call)
        if handler is None or same_token(_decoded(given), self._token):
            return handler
        return grpc.unary_unary_rpc_method_handler(_refuse)


def _decoded(given: str | bytes) -> str:
    try:
        return base64.b64decode(given, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _refuse(_request: bytes, context: Any) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, _REFUSED)
