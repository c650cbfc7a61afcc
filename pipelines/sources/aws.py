"""Clients of AWS and of what speaks its protocols, and what their errors mean to somebody who has to act.

Credentials come from AWS's own chain (environment, profile, machine role), never from the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from pipelines.errors import RateLimited, SourceError, SourceForbidden

MAX_ATTEMPTS = 3  # of one request, by botocore's own retries with backoff; then the source is left alone for a while
CONNECTIONS = 64  # kept open by a client; more threads than that open some anew
_CONNECT_SECONDS = 10
_READ_SECONDS = 60

_THROTTLED = frozenset(
    {
        "SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "TooManyRequests",
        "TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimitExceeded", "RequestThrottledException",
        "ServiceUnavailable", "429", "503",
    }
)  # fmt: skip
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_UNKNOWN_KEY = frozenset(
    {
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidToken",
        "NotSignedUp",
        "XAdminUserNotFound",
    }
)
_BAD_SIGNATURE = frozenset({"SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestInTheFuture"})
_DENIED = frozenset(
    {"AccessDenied", "AccessDeniedException", "AllAccessDisabled", "AccountProblem", "Forbidden", "UnauthorizedAccess",
     "AuthorizationError", "403", "401"}
)  # fmt: skip
_MISSING = frozenset(
    {
        "NoSuchBucket", "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue",
        "AWS.SimpleQueueService.QueueDeletedRecently",
    }
)  # fmt: skip
_ELSEWHERE = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
)


def make_client(service: str, settings: dict[str, Any]) -> Any:
    """A client of a service, for `region_name`, `endpoint_url` and `profile_name` as far as they are given."""
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": MAX_ATTEMPTS}
    options = Config(
        retries=retries, connect_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS, max_pool_connections=CONNECTIONS
    )
    return new_client(service, config=options.merge(Config(**signing(service))), **settings)


def new_client(service: str, *, config: Any = None, profile_name: str | None = None, **settings: Any) -> Any:
    """A client with a session of its own, so that each looks for credentials anew, as `boto3.Session().client()`.

    What botocore knows of AWS's services is shared by all: a session would parse that anew, which is seven eighths of
    the processor time of its first client.
    """
    from botocore.session import Session

    session = Session(profile=profile_name)
    session.register_component("data_loader", _models(session.get_config_variable("data_path")))
    return session.create_client(service, config=config, **settings)


@cache
def _models(data_path: str | None) -> Any:
    """The descriptions of services in botocore's package, and in further folders; each is parsed once."""
    from botocore.loaders import create_loader

    return create_loader(data_path)


def signing(service: str) -> dict[str, str]:
    """Options of a client that signs addresses as requests: without, those of S3 have signatures of the old version."""
    return {"signature_version": "s3v4"} if service == "s3" else {}


@dataclass(frozen=True, slots=True)
class Far:
    """What is talked to, for messages: `source` is the source's name, `what` such as "bucket 'docs'"."""

    source: str
    what: str

    @contextmanager
    def doing(self, action: str, permission: str) -> Iterator[None]:
        """Turn AWS's errors inside the block into ours.

        Args:
            action: what is being done, such as "list the objects".
            permission: what that needs, such as "s3:ListBucket".

        Raises:
            SourceError: one of its kinds, with advice.
        """
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            yield
        except (ClientError, BotoCoreError, HTTPClientError) as error:
            raise self.explained(error, action, permission) from error

    def explained(self, error: Exception, action: str, permission: str) -> SourceError:
        """The error as one of ours; see `doing`."""
        from botocore.exceptions import ClientError

        begin = f"source {self.source!r}: cannot {action} of {self.what}"
        if not isinstance(error, ClientError):
            return _without_answer(begin, error)
        code, text = error_code(error), str(error.response.get("Error", {}).get("Message", ""))
        said = f"{code}: {text}" if text and text != code else code
        if code in _THROTTLED or error_status(error) in (429, 503):
            wait = _retry_after(error)
            when = f" for {wait:g} seconds" if wait is not None else ""
            return RateLimited(f"{begin}: it asks to be left alone{when} ({said})", retry_after_seconds=wait)
        for codes, advice in (
            (_EXPIRED, "the credentials have expired; renew them (for a profile: sign in again) for this process"),
            (
                _UNKNOWN_KEY,
                "the access key is not known there; correct AWS_ACCESS_KEY_ID or the profile, and the endpoint",
            ),
            (_BAD_SIGNATURE, "the secret key is not the right one; correct AWS_SECRET_ACCESS_KEY or the profile"),
            (_SKEWED, "this machine's clock is wrong by more than a few minutes; set it"),
            (_DENIED, f"these credentials may not; allow {permission} there, or use others"),
        ):
            if code in codes:
                return SourceForbidden(f"{begin} ({said}): {advice}. Nothing was changed")
        if code in _MISSING:
            return SourceError(f"{begin} ({said}): there is none; create it, or correct its name. Nothing was changed")
        if code in _ELSEWHERE:
            return SourceError(f"{begin} ({said}): it lies in another region; correct the key `region`")
        if error_status(error) == 403:
            return SourceForbidden(f"{begin} ({said}): these credentials may not; allow {permission} there")
        return SourceError(f"{begin} ({said}); nothing was changed, the next run tries again")


def error_code(error: Any) -> str:
    """AWS's own word for a ClientError, such as "NoSuchKey"; of an answer without a body its status, such as "404"."""
    return str(error.response.get("Error", {}).get("Code", ""))


def error_status(error: Any) -> int:
    """The HTTP status of a ClientError's answer, 0 without one."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_denied(error: Any) -> bool:
    """Whether the answer says that this one thing may not be read, and nothing about the credentials as such."""
    code = error_code(error)
    of_the_credentials = _EXPIRED | _UNKNOWN_KEY | _BAD_SIGNATURE | _SKEWED
    return code in _DENIED or (error_status(error) == 403 and code not in of_the_credentials)


def _retry_after(error: Any) -> float | None:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    value = {str(name).lower(): str(text) for name, text in headers.items()}.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _without_answer(begin: str, error: Exception) -> SourceError:
    from botocore import exceptions as boto

    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return SourceForbidden(
            f"{begin}: there are no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for this process, "
            "or name a profile with the key `profile`"
        )
    if isinstance(error, boto.ProfileNotFound):
        return SourceForbidden(f"{begin}: {error}; add it to ~/.aws/config, or correct the key `profile`")
    signing_in = boto.CredentialRetrievalError | boto.TokenRetrievalError | boto.SSOError
    if isinstance(error, signing_in | boto.RefreshWithMFAUnsupportedError):
        return SourceForbidden(f"{begin}: the credentials could not be had ({error}); sign in again")
    if isinstance(error, boto.NoRegionError):
        return SourceError(f"{begin}: no region is known; set the key `region` of the source, or AWS_REGION")
    if isinstance(error, boto.ParamValidationError | ValueError):
        return SourceError(f"{begin}: {error}; correct the configuration of this source")
    return SourceError(f"{begin}: no answer ({type(error).__name__}: {error}); check the endpoint and the network")
