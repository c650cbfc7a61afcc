"""An encoder kept warm between commands: a process beside them that has the model loaded.

Loading torch takes two seconds, which is more than everything else that an update of one document does. So a command
hands few texts to a process of the same user, which is started when it is first needed, computes exactly what this
process would compute, and ends when nobody has asked it for `encoder.keep_warm_seconds`. Whoever lives longer than one
command, or has many texts, loads the model itself.

The process listens on a Unix socket in a folder that is its owner's alone, and answers this user only. Its name has the
model's fingerprint and a mark of the code, so that another model, or another version, has another process. Whatever
keeps it from answering (no room for a socket, a killed process), the model is loaded here instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from multiprocessing.connection import Client, Connection
from pathlib import Path

import numpy as np

from pipelines import companion
from pipelines.config import EncoderConfig
from pipelines.embedding.encoder import Encoding, load_encoder, loaded
from pipelines.embedding.model import dimension, model_fp
from pipelines.embedding.runtime import Vectors, cores_to_use
from pipelines.embedding.tokenizer import load_tokenizer
from pipelines.installed import version_of

STOP = b"stop"
FEW = 64  # texts that are not worth loading a model for: at most two seconds of encoding
_START_SECONDS = 60.0
_PAUSE_SECONDS = 0.01

_wanted = False
_started: dict[Path, subprocess.Popen[bytes]] = {}
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def short_lived() -> Iterator[None]:
    """Inside, this process counts as one command: it lets the process beside it encode few texts."""
    global _wanted
    before, _wanted = _wanted, True
    try:
        yield
    finally:
        _wanted = before


def begin(config: EncoderConfig, *, texts: int) -> None:
    """Say that about so many texts will be encoded soon, so that the process can load its model meanwhile."""
    if _is_for(config, texts):
        _have_running(config)


def keep_ready(config: EncoderConfig) -> None:
    """Start the process if this one had to load the model itself, for the command that comes next."""
    if config.keep_warm_seconds > 0 and loaded(config):
        _have_running(config)


def stop(config: EncoderConfig) -> bool:
    """End the process for that model, of whichever installation; False when none runs."""
    try:
        with Client(str(socket_path(config)), "AF_UNIX") as connection:
            connection.send_bytes(STOP)
            connection.recv_bytes()
    except (OSError, EOFError):
        return False
    return True


def encoder_for(config: EncoderConfig, *, texts: int | None) -> Encoding:
    """What encodes that many texts soonest: the model as it is loaded here, the warm process, or the model loaded now.

    Raises:
        ConfigError: the model or the backend is not installed.
    """
    return WarmEncoder(config) if _is_for(config, texts) else load_encoder(config)


class WarmEncoder(Encoding):
    """Encodes through the process beside this one; by itself where that does not answer."""

    def __init__(self, config: EncoderConfig) -> None:
        """Connect to nothing yet."""
        self.model_fp, self.dimension = model_fp(config), dimension(config)
        self._config = config

    @property
    def max_tokens(self) -> int:
        """See `Encoding`; the tokenizer is read when this is asked, which a question does not."""
        return load_tokenizer(self._config).max_tokens

    def try_encode(self, texts: Sequence[str]) -> tuple[Vectors, dict[int, str]]:
        """See `Encoding`."""
        try:
            with _connection(self._config) as connection:
                connection.send_bytes(json.dumps(list(texts)).encode())
                head = json.loads(connection.recv_bytes())
                vectors = np.frombuffer(connection.recv_bytes(), np.float32).reshape(len(texts), self.dimension)
        except (OSError, EOFError) as error:
            _log.warning("the warm encoder does not answer (%s); loading the model here", error)
            return load_encoder(self._config).try_encode(texts)
        return vectors, {int(position): reason for position, reason in head["errors"].items()}


def socket_path(config: EncoderConfig) -> Path:
    """Where the process for that model listens."""
    name = f"{model_fp(config)} {config.token_budget} {cores_to_use()} {_code_mark()}"
    return runtime_folder() / f"encoder-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def runtime_folder() -> Path:
    """This user's folder for sockets, made if there is none: /run/user/..., else a folder of the user's in /tmp.

    Raises:
        PermissionError: somebody else made it, or can look inside.
    """
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    folder = base / f"lockstep-{os.geteuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise PermissionError(f"{folder} must belong to user {os.geteuid()} alone; remove it")
    return folder


@lru_cache(maxsize=1)
def _code_mark() -> str:
    """Changes with everything that a running process would not notice: this package's code, and the interpreter's."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    versions = [version_of(name) for name in ("torch", "tokenizers")]
    states = [(path.name, path.stat().st_mtime_ns) for path in files]
    return json.dumps([sys.executable, str(files[0].parent), versions, states])


def _is_for(config: EncoderConfig, texts: int | None) -> bool:
    few = texts is not None and 0 < texts <= FEW
    return few and _wanted and config.keep_warm_seconds > 0 and not loaded(config)


def _have_running(config: EncoderConfig) -> None:
    with contextlib.suppress(OSError):  # then whoever needs the model loads it
        path = socket_path(config)
        if not _is_listening(path) and not _is_starting(path):
            _start(config, path)


@contextlib.contextmanager
def _connection(config: EncoderConfig) -> Iterator[Connection]:
    """A connection to the process, which is started if none runs.

    Raises:
        OSError: there is none, and none can be started in time.
    """
    path = socket_path(config)
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            connection = Client(str(path), "AF_UNIX")
            break
        except (FileNotFoundError, ConnectionRefusedError):
            if not _is_starting(path):
                _start(config, path)
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
    with connection:
        yield connection


def _is_listening(path: Path) -> bool:
    with contextlib.suppress(OSError), Client(str(path), "AF_UNIX"):
        return True
    return False


def _is_starting(path: Path) -> bool:
    """Whether some process holds the name, and will listen.

    Raises:
        OSError: the process that was started here has ended.
    """
    process = _started.get(path)
    if process is not None:
        if process.poll() is None:
            return True
        if process.returncode:
            raise ChildProcessError(f"it ended with status {process.returncode}; see {path.with_suffix('.log')}")
    with path.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _start(config: EncoderConfig, path: Path) -> None:
    arguments = [str(path), config.model_dump_json()]
    with path.with_suffix(".log").open("wb") as log:
        _started[path] = companion.start_module(
            "pipelines.embedding.warm_process", arguments, output=log, folder=path.parent
        )
