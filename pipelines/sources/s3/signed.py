"""Reading many small objects faster than botocore's own calls, which take five times the processor time of a GET.

botocore signs the address of an object, for which it knows everything about credentials, regions and endpoints; its
HTTP session fetches it; and the few headers that count are read here. A checksum that S3 stored with the object is
compared by botocore's own code, as in its calls. Every answer but a complete 200, and everything that fails on the way,
is left to `get_object`, which retries it, follows a bucket to its region, and explains it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

_EXPIRES_SECONDS = 900
_CHECKSUM_MODE = "ENABLED"
_METADATA = "x-amz-meta-"


class SignedReads:
    """Reads objects of one bucket. Safe to use from several threads.

    Args:
        client: a boto3 client of S3 with signatures of version 4; with any other, and with one that cannot sign an
            address, `get` knows nothing.
        bucket: whose objects.
    """

    def __init__(self, client: Any, bucket: str) -> None:
        self._client, self._bucket = client, bucket
        config = getattr(getattr(client, "meta", None), "config", None)
        self._session = _session(config, client.meta.endpoint_url) if config is not None else None

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What `get_object` would answer, as far as a source uses it; None: ask that."""
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError, HTTPClientError
        from botocore.response import StreamingBody

        if self._session is None:
            return None
        asked = {"Bucket": self._bucket, "Key": key, "ChecksumMode": _CHECKSUM_MODE}
        try:
            url = self._client.generate_presigned_url("get_object", Params=asked, ExpiresIn=_EXPIRES_SECONDS)
            if "X-Amz-Signature=" not in url:
                return None
            headers = {"x-amz-checksum-mode": _CHECKSUM_MODE}
            request = AWSRequest("GET", url, headers=headers, stream_output=True)
            answer = self._session.send(request.prepare())
            length = answer.headers.get("Content-Length", "")
            if answer.status_code != 200 or not length.isdigit():
                answer.raw.close()
                return None
            found: dict[str, Any] = {
                "ContentLength": int(length),
                "ETag": answer.headers.get("ETag"),
                "LastModified": parsedate_to_datetime(answer.headers["Last-Modified"]),
                "ContentType": answer.headers.get("Content-Type"),
                "Metadata": {
                    name[len(_METADATA) :].lower(): value
                    for name, value in answer.headers.items()
                    if name.lower().startswith(_METADATA)
                },
            }
        except (BotoCoreError, HTTPClientError, KeyError, ValueError):
            return None
        if "x-amz-version-id" in answer.headers:
            found["VersionId"] = answer.headers["x-amz-version-id"]
        return {**found, "Body": self._checked(answer, StreamingBody(answer.raw, length))}

    def _checked(self, answer: Any, body: Any) -> Any:
        """The body, which raises at its end if it is not what the stored checksum says."""
        from botocore.httpchecksum import handle_checksum_body

        headers = {name.lower(): value for name, value in answer.headers.items()}
        told = {"headers": headers, "body": body, "context": {}}
        handle_checksum_body(answer, told, *self._checksums)
        return told["body"]

    @cached_property
    def _checksums(self) -> tuple[dict[str, Any], Any]:
        """Which checksums botocore can compare here, as its own code wants to be told, and of which operation."""
        from botocore.httpchecksum import resolve_response_checksum_algorithms

        operation = self._client.meta.service_model.operation_model("GetObject")
        asked: dict[str, Any] = {"context": {}}
        resolve_response_checksum_algorithms(asked, operation, {"ChecksumMode": _CHECKSUM_MODE})
        return asked["context"], operation


def _session(config: Any, endpoint: str) -> Any:
    """An HTTP session as the client has one: proxies, certificates, time limits and connections."""
    from botocore.httpsession import URLLib3Session
    from botocore.utils import get_environ_proxies

    return URLLib3Session(
        verify=os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or True,
        proxies=config.proxies or get_environ_proxies(endpoint),
        proxies_config=config.proxies_config,
        timeout=(config.connect_timeout, config.read_timeout),
        max_pool_connections=config.max_pool_connections,
        client_cert=config.client_cert,
    )
