"""moto's server as SQS, in a thread of this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.sources.aws import new_client

REGION = "us-east-1"


@dataclass
class Queues:
    """A running SQS."""

    url: str

    def client(self) -> Any:
        access = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
        return new_client("sqs", endpoint_url=self.url, **access)

    def create(self, name: str) -> str:
        """The url of a new queue. Its messages come again after two seconds if they are not acknowledged."""
        return str(self.client().create_queue(QueueName=name, Attributes={"VisibilityTimeout": "2"})["QueueUrl"])


@contextmanager
def sqs(folder: Path) -> Iterator[Queues]:
    """A server without queues."""
    del folder
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield Queues(f"http://{host}:{port}")
    finally:
        server.stop()
