"""A Kafka broker of one node (KRaft, no ZooKeeper) in a folder of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.servers.process import INSTALLED, HowToInstall, free_port, started, stopped

USER, PASSWORD = "lockstep", "lockstep-test-secret"
_CLUSTER = "bG9ja3N0ZXAtdGVzdC0xMg"  # any 16 bytes in Base64
_HEAP = ["-Xmx384m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]

_LOGGING = """rootLogger.level=warn
rootLogger.appenderRef.stdout.ref=STDOUT
appender.console.type=Console
appender.console.name=STDOUT
appender.console.layout.type=PatternLayout
"""


@dataclass
class Broker:
    """A running broker; `kill`, `stop` and `start` keep ports and data."""

    folder: Path
    libs: Path
    port: int = field(default_factory=free_port)
    sasl_port: int = field(default_factory=free_port)
    _controller_port: int = field(default_factory=free_port)
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def servers(self) -> str:
        """`bootstrap_servers` of the listener that asks for nothing."""
        return f"127.0.0.1:{self.port}"

    @property
    def sasl_servers(self) -> str:
        """`bootstrap_servers` of the listener with SASL/PLAIN, for USER and PASSWORD."""
        return f"127.0.0.1:{self.sasl_port}"

    def format(self) -> None:
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAIN",
            "listeners": f"PLAIN://{self.servers},SASL://{self.sasl_servers},CONTROLLER://127.0.0.1:{self._controller_port}",
            "listener.security.protocol.map": "PLAIN:PLAINTEXT,SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config": (
                f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            ),
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "message.max.bytes": "20000000",
            "log.segment.delete.delay.ms": "100",
        }
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        self._properties.write_text(text)
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(self._properties)]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder)

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [*self._java(), "kafka.Kafka", str(self._properties)]
        self._process = started(command, self.folder / "kafka.log", self._answers, cwd=self.folder)

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            stopped(self._process)
            self._process = None

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.servers, "log_level": 2})

    def producer(self, **options: Any) -> Any:
        from confluent_kafka import Producer

        return Producer({"bootstrap.servers": self.servers, "log_level": 2, **options})

    def create_topic(self, name: str, partitions: int = 1, **config: str) -> None:
        from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=config)
        admin = self.admin()  # its answers end with it
        admin.create_topics([topic])[name].result(30)

    def delete_topic(self, name: str) -> None:
        admin = self.admin()
        admin.delete_topics([name])[name].result(30)

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _java(self) -> list[str]:
        logging = self.folder / "log4j2.properties"
        if not logging.exists():
            logging.write_text(_LOGGING)
        setting = f"-Dlog4j2.configurationFile={logging}"
        return ["java", *_HEAP, setting, "-cp", f"{self.libs}/*"]

    def _answers(self) -> bool:
        from confluent_kafka import KafkaException

        try:
            return bool(self.admin().list_topics(timeout=1).brokers)
        except KafkaException:
            return False


@contextmanager
def kafka(folder: Path) -> Iterator[Broker]:
    """A broker without topics. Topics are not made by asking for them."""
    libs = Path(os.environ.get("LOCKSTEP_KAFKA_LIBS") or INSTALLED / "kafka" / "libs")
    if shutil.which("java") is None:
        pytest.skip("java is missing; install a Java runtime of version 17 or later")
    if not any(libs.glob("kafka_2.13-*.jar")):
        pytest.skip(HowToInstall("Kafka"))
    broker = Broker(folder, libs)
    broker.format()
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
