"""Being connected to Milvus: one client for Milvus Lite's process and a server, and what its errors mean."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.errors import IndexMismatch, IndexUnavailable
from pipelines.index.address import Address

if TYPE_CHECKING:
    from pymilvus import MilvusClient

T = TypeVar("T")

_NOT_FOUND = (4, 100, 1600)  # collection (old code, new code), alias
_REFUSED = (6, 1100)  # the request itself is wrong, and would be again
_CONNECT_SECONDS = 10.0

# One call may take this long; without it a server that hangs would hang us. A dead one fails at once: `_RETRIES`
# are for a connection that is being set up again.
_SERVICE_CONFIG = json.dumps({"methodConfig": [{"name": [{}], "timeout": "300s"}]})
_RETRIES = 3


class Connection:
    """Connects on first use; not to be shared across a fork."""

    def __init__(self, address: Address) -> None:
        self.address = address

    @property
    def uri(self) -> str:
        """Where it is reached, for messages."""
        return self.address.uri

    @cached_property
    def _client(self) -> MilvusClient:
        from pymilvus import MilvusClient
        from pymilvus.client import entity_helper
        from pymilvus.exceptions import MilvusException

        # Its checks look at every character of a string, and twice at every entry of a sparse vector, which takes half
        # of the time of writing; `check_rows` has looked at all that they look for.
        entity_helper.CHECK_STR_ARRAY = False
        entity_helper.entity_is_sparse_matrix = _are_sparse
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises, and we report what it raises
        self._require_entry()
        try:
            return MilvusClient(
                self.uri,
                timeout=_CONNECT_SECONDS,
                token=self.address.token or "",
                dedicated=True,
                grpc_options={"grpc.service_config": _SERVICE_CONFIG},
            )
        except MilvusException as error:
            raise self._unavailable("connecting", error) from error

    def _require_entry(self) -> None:
        """Tell at once that the token is wrong: the client would try for ten seconds, and call that a lost connection.

        Raises:
            IndexUnavailable: the index does not accept the token.
        """
        import grpc  # type: ignore[import-untyped]  # it ships none
        from pymilvus.grpc_gen import milvus_pb2, milvus_pb2_grpc

        if not self.uri.startswith("http://"):
            return  # with TLS the client's own error has to do
        token = base64.b64encode((self.address.token or "").encode())
        with grpc.insecure_channel(self.uri.removeprefix("http://").rstrip("/")) as channel:
            try:
                milvus_pb2_grpc.MilvusServiceStub(channel).GetVersion(
                    milvus_pb2.GetVersionRequest(), timeout=_CONNECT_SECONDS, metadata=(("authorization", token),)
                )
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    raise IndexUnavailable(
                        f"connecting: the index at {self.uri} does not accept the token that it was given. Of Milvus "
                        "Lite: run `lockstep stop` and the command again, as the user who owns LOCKSTEP_HOME; of a "
                        "server: correct the variable that `milvus.token_env` names"
                    ) from error

    @cached_property
    def _is_lite(self) -> bool:
        return str(self._call("asking for the version", self._client.get_server_version)).startswith("milvus_lite")

    def close(self) -> None:
        """Give the connection back; the next call opens another."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()

    def _find(self, doing: str, function: Callable[..., T], *args: Any) -> T | None:
        """The answer, or None when the server says that there is no such collection or alias."""
        try:
            return self._call(doing, function, *args)
        except IndexMismatch:
            return None

    def _call(self, doing: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call the client; what it raises becomes one of our errors, with what was being done to what.

        Raises:
            IndexMismatch: there is no such collection or alias, or it cannot take this.
            IndexUnavailable: anything else.
        """
        import grpc
        from pymilvus.exceptions import MilvusException

        if getattr(function, "__self__", None) is self.__dict__.get("_client") and "timeout" not in kwargs:
            kwargs["retry_times"] = _RETRIES
        try:
            return function(*args, **kwargs)
        except MilvusException as error:
            if error.code in _NOT_FOUND + _REFUSED:
                raise IndexMismatch(f"{doing}: {error.message}") from error
            raise self._unavailable(doing, error) from error
        except grpc.RpcError as error:
            raise self._unavailable(doing, error) from error

    def _unavailable(self, doing: str, error: Exception) -> IndexUnavailable:
        return IndexUnavailable(
            f"{doing}: the index at {self.uri} did not answer as expected ({_reason(error)}); "
            "run the command again, which starts Milvus Lite when it is down; its log is server.log in the index folder"
        )


def _are_sparse(rows: Any) -> bool:
    """Whether these are sparse vectors, which we always give as dictionaries."""
    return len(rows) > 0 and isinstance(rows[0], dict)


def _reason(error: Exception) -> str:
    """The first sentence of a client's error, without its connection diagnostics."""
    text = str(getattr(error, "message", "") or getattr(error, "details", lambda: "")() or error)
    return text.split(", debug=")[0].strip()[:400]
