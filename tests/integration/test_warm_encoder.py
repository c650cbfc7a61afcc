"""The encoder that commands keep warm: the same vectors, for this user only, and never in the way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipelines.config import EncoderConfig
from pipelines.embedding import warm
from pipelines.embedding.encoder import load_encoder, loaded

TEXTS = ["one text", "another text, which is longer than the first", "", "Büro and 東京 " * 40]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder of this test's own; what listens in it ends when it is removed."""
    with tempfile.TemporaryDirectory(prefix="ls-") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        monkeypatch.setattr(warm, "_started", {})
        yield Path(name)


@pytest.fixture
def config(tiny_model: Path, folder: Path) -> Iterator[EncoderConfig]:
    config = EncoderConfig(model=str(tiny_model), dtype="float32")
    with warm.short_lived():
        yield config
    warm.stop(config)


def in_a_command(config: EncoderConfig, code: str) -> str:
    """What other commands see: a process of its own that has loaded nothing."""
    program = (
        "import sys; from pipelines.config import EncoderConfig; from pipelines.embedding import warm\n"
        "config = EncoderConfig.model_validate_json(sys.argv[1])\n"
        f"with warm.short_lived():\n    {code}\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, config.model_dump_json()], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def process(config: EncoderConfig) -> psutil.Process | None:
    """The process that listens for that model."""
    path = str(warm.socket_path(config))
    found = [one for one in psutil.process_iter(["cmdline"]) if path in (one.info["cmdline"] or ())]
    return found[0] if found else None


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_vectors_are_those_of_a_model_that_is_loaded_here_bit_for_bit(config: EncoderConfig) -> None:
    vectors, errors = warm.WarmEncoder(config).try_encode(TEXTS)
    here = load_encoder(config)
    assert np.array_equal(vectors, here.encode(TEXTS))
    assert errors == {}
    remote = warm.WarmEncoder(config)
    assert (remote.model_fp, remote.dimension, remote.max_tokens) == (here.model_fp, here.dimension, here.max_tokens)


def test_a_command_loads_no_model_and_the_next_one_finds_the_process(config: EncoderConfig) -> None:
    ask = "warm.encoder_for(config, texts=1).encode(['a text'])"
    assert in_a_command(config, ask) == "False"
    first = process(config)
    assert first is not None
    assert in_a_command(config, ask) == "False"
    again = process(config)
    assert again is not None
    assert again.pid == first.pid


def test_many_commands_at_once_start_one(config: EncoderConfig) -> None:
    code = "print(warm.encoder_for(config, texts=1).encode(['a text']).tobytes().hex())"
    program = (
        "import sys; from pipelines.config import EncoderConfig; from pipelines.embedding import warm\n"
        "config = EncoderConfig.model_validate_json(sys.argv[1])\n"
        f"with warm.short_lived():\n    {code}\n"
    )
    command = [sys.executable, "-c", program, config.model_dump_json()]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {one.communicate()[0] for one in started}
    assert {one.returncode for one in started} == {0}
    assert answers == {load_encoder(config).encode(["a text"]).tobytes().hex() + "\n"}
    path = str(warm.socket_path(config))
    until(lambda: sum(path in (one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])) == 1)


@pytest.mark.parametrize("texts", [None, 0, warm.FEW + 1])
def test_many_texts_are_encoded_here(config: EncoderConfig, texts: int | None) -> None:
    assert not isinstance(warm.encoder_for(config, texts=texts), warm.WarmEncoder)


def test_who_lives_longer_than_a_command_loads_the_model_itself(tiny_model: Path, folder: Path) -> None:
    config = EncoderConfig(model=str(tiny_model), dtype="float32", token_budget=513)
    warm.begin(config, texts=1)
    assert not isinstance(warm.encoder_for(config, texts=1), warm.WarmEncoder)
    assert loaded(config)
    assert list(folder.iterdir()) == []


def test_nothing_is_kept_warm_where_nobody_wants_it(tiny_model: Path, folder: Path) -> None:
    config = EncoderConfig(model=str(tiny_model), dtype="float32", token_budget=514, keep_warm_seconds=0)
    with warm.short_lived():
        warm.begin(config, texts=1)
        assert not isinstance(warm.encoder_for(config, texts=1), warm.WarmEncoder)
    assert list(folder.iterdir()) == []


def test_it_ends_when_nobody_has_asked_for_a_while(tiny_model: Path, folder: Path) -> None:
    config = EncoderConfig(model=str(tiny_model), dtype="float32", keep_warm_seconds=0.2)
    with warm.short_lived():
        warm.WarmEncoder(config).encode(["a text"])
    until(lambda: process(config) is None)
    assert warm.stop(config) is False


def test_a_killed_process_is_followed_by_another(config: EncoderConfig) -> None:
    here = load_encoder(config).encode(["a text"])
    assert np.array_equal(warm.WarmEncoder(config).encode(["a text"]), here)
    killed = process(config)
    assert killed is not None
    killed.kill()
    killed.wait()
    assert in_a_command(config, "warm.encoder_for(config, texts=1).encode(['a text'])") == "False"


def test_a_process_that_cannot_start_leaves_the_work_to_the_command(
    config: EncoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert np.array_equal(warm.WarmEncoder(config).encode(["a text"]), load_encoder(config).encode(["a text"]))


def test_a_folder_that_others_can_look_into_is_not_used(
    config: EncoderConfig, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / f"lockstep-{os.geteuid()}").mkdir(mode=0o755)
    warm.begin(config, texts=1)
    vectors = warm.WarmEncoder(config).encode(["a text"])
    assert np.array_equal(vectors, load_encoder(config).encode(["a text"]))
    assert "must belong to user" in caplog.text
    assert list(folder.glob("*/*")) == []


def test_only_its_owner_can_reach_it(config: EncoderConfig) -> None:
    warm.WarmEncoder(config).encode(["a text"])
    path = warm.socket_path(config)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_who_reaches_the_socket_is_not_answered(config: EncoderConfig) -> None:
    warm.WarmEncoder(config).encode(["a text"])
    path = warm.socket_path(config)
    for opened in (path.parents[1], path.parent, path):
        opened.chmod(0o777)
    program = (
        "import os, sys; from multiprocessing.connection import Client\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "connection = Client(sys.argv[1], 'AF_UNIX')\n"
        "try:\n    connection.send_bytes(b'[\"a text\"]'); print(connection.recv_bytes())\n"
        "except (EOFError, OSError) as error: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "refused"


def test_bytes_that_are_no_question_end_that_connection_alone(config: EncoderConfig) -> None:
    encoder = warm.WarmEncoder(config)
    before = encoder.encode(["a text"])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(warm.socket_path(config)))
        client.sendall(b"\xff\xff\xff\xff nonsense")
    assert np.array_equal(encoder.encode(["a text"]), before)


def test_a_command_that_loaded_the_model_leaves_a_process_for_the_next_one(config: EncoderConfig) -> None:
    code = "warm.encoder_for(config, texts=warm.FEW + 1).encode(['a text']); warm.keep_ready(config)"
    assert in_a_command(config, code) == "True"
    until(lambda: process(config) is not None)
    assert in_a_command(config, "warm.keep_ready(config)") == "False"
    assert np.array_equal(warm.WarmEncoder(config).encode(["a text"]), load_encoder(config).encode(["a text"]))
