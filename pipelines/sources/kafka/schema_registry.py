"""Messages in the registry's framing: one zero byte, the schema's id in four bytes, then the JSON itself.

The id is looked up in a registry that speaks Confluent's HTTP interface, once each. What the message says is still
judged by our own schema, so that a registry can only refuse what we would take, never let in what we would not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pipelines.errors import RateLimited, SourceError, SourceForbidden
from pipelines.sources.announced.pointed import retry_after_seconds
from pipelines.sources.section import secret

if TYPE_CHECKING:
    from pipelines.sources.kafka.section import KafkaSource

_ANSWER_SECONDS = 10.0
_FRAME_BYTES = 5


class UnknownSchema(ValueError):
    """The framing is wrong, or the registry does not know the id as a JSON Schema."""


class SchemaRegistry:
    """The registry of one source; a context manager.

    Raises:
        ConfigError: a secret is not set.
    """

    def __init__(self, section: KafkaSource, transport: Any = None) -> None:
        import httpx

        assert section.schema_registry_url is not None
        user, password = section.schema_registry_username_env, section.schema_registry_password_env
        self._name = section.name
        self._url = section.schema_registry_url.rstrip("/")
        self._known: dict[int, str] = {}
        self._http = httpx.Client(
            auth=(secret(section, user), secret(section, password)) if user and password else None,
            timeout=_ANSWER_SECONDS,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def answers(self) -> str:
        """What it says to a harmless question.

        Raises:
            SourceError: it does not answer, or refuses.
        """
        return f"the schema registry {self._url} answers; it takes {', '.join(map(str, self._get('/schemas/types')))}"

    def unframed(self, payload: bytes) -> bytes:
        """The JSON in a message, after its schema was looked up.

        Raises:
            UnknownSchema: see there; the message can never be understood.
            SourceError: the registry does not answer; the message may be fine.
        """
        if len(payload) < _FRAME_BYTES or payload[0] != 0:
            raise UnknownSchema(
                "it is not framed for a schema registry (a zero byte and a schema id of four bytes); have the "
                "producer use a serializer for JSON Schema, or remove `schema_registry_url`"
            )
        schema_id = int.from_bytes(payload[1:_FRAME_BYTES], "big")
        kind = self._known.get(schema_id)
        if kind is None:
            found = self._get(f"/schemas/ids/{schema_id}")
            # Confluent's interface leaves the type out where it is Avro.
            kind = "none" if found is None else str(found.get("schemaType", "AVRO")).upper()
            if found is not None:
                self._known[schema_id] = kind
        if kind != "JSON":
            what = "is not in the registry" if kind == "none" else f"is of the type {kind}, and JSON is read"
            raise UnknownSchema(f"its schema {schema_id} {what}; register a JSON Schema, then replay it")
        return payload[_FRAME_BYTES:]

    def _get(self, path: str) -> Any:
        """The answer's JSON; None for "not found"."""
        import httpx

        begin = f"source {self._name!r}: asking the schema registry {self._url}{path}"
        try:
            answer = self._http.get(self._url + path)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SourceError(
                f"{begin}: no answer ({type(error).__name__}: {error}); start it, or correct the key "
                "`schema_registry_url`. No message is lost"
            ) from error
        if answer.status_code == 404:
            return None
        if answer.status_code in (401, 403):
            raise SourceForbidden(f"{begin}: {answer.status_code}; correct the registry's credentials of this source")
        if answer.status_code == 429:
            wait = retry_after_seconds(answer.headers.get("Retry-After"))
            raise RateLimited(f"{begin}: it asks to be left alone", retry_after_seconds=wait)
        try:
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise SourceError(f"{begin}: {answer.status_code}, and no usable answer; look at the registry") from error
