"""AWS clients set up as dagster-aws sets up its own: what sources and streams use inside Dagster."""

from __future__ import annotations

from typing import Any

from pipelines.sources.aws import CONNECTIONS, MAX_ATTEMPTS, new_client, signing


def aws_client(service: str, settings: dict[str, Any]) -> Any:
    """A boto3 client of a service ("s3", "sqs"), for `region_name`, `endpoint_url` and `profile_name` where given.

    With dagster-aws' retries. Its `S3Resource` keeps ten connections and takes no other number; objects are read by
    more threads than that, each of which would open one anew for every object.
    """
    from botocore.config import Config
    from dagster_aws.utils import construct_boto_client_retry_config

    retries = construct_boto_client_retry_config(MAX_ATTEMPTS)  # type: ignore[no-untyped-call]
    options = retries.merge(Config(max_pool_connections=CONNECTIONS, **signing(service)))
    return new_client(service, config=options, **settings)
