"""AWS clients made by dagster-aws' own resources: what sources and streams use inside Dagster."""

from __future__ import annotations

from typing import Any

from pipelines.sources.aws import MAX_ATTEMPTS


def aws_client(service: str, settings: dict[str, Any]) -> Any:
    """A boto3 client of a service ("s3", "sqs"), for `region_name`, `endpoint_url` and `profile_name` where given."""
    from dagster_aws.s3 import S3Resource  # 0.3 s with boto3, and most sources need neither

    if service == "s3":
        return S3Resource(max_attempts=MAX_ATTEMPTS, **settings).get_client()
    import boto3
    from dagster_aws.utils import construct_boto_client_retry_config

    retries = construct_boto_client_retry_config(MAX_ATTEMPTS)  # type: ignore[no-untyped-call]
    rest = {name: value for name, value in settings.items() if name != "profile_name"}
    session = boto3.session.Session(profile_name=settings.get("profile_name"))
    return session.client(service, config=retries, **rest)
