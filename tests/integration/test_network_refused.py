"""The main job needs no network: neither it nor any process that it starts tries to leave the machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.home import Home
from pipelines.index.server import stop_server
from tests.integration._forkserver import ROOT
from tests.integration._stages import SECOND, configuration, write_corpus

pytestmark = pytest.mark.integration

_COMMANDS = """
import sys
from pipelines.cli.main import main
config = ["--config", sys.argv[1]]
for arguments in (["update"], ["query", "leave", "--as", "group:staff"], ["verify"], ["status"], ["stop"]):
    main([*arguments, *config], standalone_mode=False)
"""
_ABROAD = re.compile(r"sin6?_addr|inet_addr|inet_pton")
_AT_HOME = re.compile(r'inet_addr\("(127\.[\d.]+|0\.0\.0\.0)"\)|inet_pton\(AF_INET6, "(::1|::|::ffff:127\.[\d.]+)"')


def works(*command: str) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


def test_update_query_and_verify_reach_for_no_network(tmp_path: Path, tiny_model: Path) -> None:
    write_corpus(tmp_path / "corpus", SECOND)
    config = tmp_path / "lockstep.yaml"
    config.write_text(yaml.safe_dump(configuration(tiny_model)), encoding="utf-8")
    attempts, calls = tmp_path / "attempts", tmp_path / "calls"
    command = [sys.executable, "-c", _COMMANDS, str(config)]
    traced = works("strace", "-f", "true")
    if traced:  # sees compiled code, too
        command = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(calls), *command]
    if works("unshare", "--net", "ip", "link", "set", "lo", "up"):  # nothing but loopback is there
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]
    environment = {
        **os.environ,
        "LOCKSTEP_HOME": str(tmp_path / "home"),
        "LOCKSTEP_TEST_ATTEMPTS": str(attempts),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "integration" / "_refusing"), str(ROOT)]),
    }
    for name in ("DO_NOT_TRACK", "GX_ANALYTICS_ENABLED", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        environment.pop(name, None)  # what is off must be off without the operator's help
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    finally:
        stop_server(Home(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert "leave.md" in done.stdout
    assert "the index holds exactly what the tables say" in done.stdout
    lines = attempts.read_text(encoding="utf-8").splitlines()
    started = [line for line in lines if line.startswith("#")]
    assert any("pipelines.parsing.worker" in line for line in started)
    assert any("pipelines.index.lite" in line for line in started)
    assert [line for line in lines if not line.startswith("#")] == []
    if traced:
        found = calls.read_text(encoding="utf-8", errors="replace").splitlines()
        assert any("127.0.0.1" in line for line in found), "the trace sees calls to Milvus Lite"
        assert [line for line in found if _ABROAD.search(line) and not _AT_HOME.search(line)] == []
