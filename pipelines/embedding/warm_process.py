"""The process that keeps an encoder warm: `python -m pipelines.embedding.warm_process SOCKET CONFIG`; see `warm`."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import threading
import time
from multiprocessing.connection import Connection, Listener
from pathlib import Path

from pipelines.config import EncoderConfig
from pipelines.embedding.encoder import Encoder, load_encoder
from pipelines.embedding.warm import STOP

_LOOK_SECONDS = 1.0
_CREDENTIALS = struct.Struct("3i")  # pid, uid and gid of who has connected


class _Service:
    """Answers connections, each in a thread of its own, and knows since when nobody has asked."""

    def __init__(self, encoder: Encoder) -> None:
        self.stopped = threading.Event()
        self._encoder = encoder
        self._busy = 0
        self._last_asked = time.monotonic()
        self._lock = threading.Lock()

    def idle_seconds(self) -> float:
        """Seconds since the last answer; 0 while one is being made."""
        with self._lock:
            return 0.0 if self._busy else time.monotonic() - self._last_asked

    def listen(self, listener: Listener) -> None:
        """Answer whoever connects, until the process ends."""
        while True:
            threading.Thread(target=self._answer, args=(listener.accept(),), daemon=True).start()

    def _answer(self, connection: Connection) -> None:
        with self._lock:
            self._busy += 1
        try:
            with connection:
                if _user(connection) == os.geteuid():
                    self._serve(connection)
        except EOFError:  # it only looked whether anybody listens
            return
        except OSError as error:
            sys.stderr.write(f"a connection ended: {error}\n")
        finally:
            with self._lock:
                self._busy -= 1
                self._last_asked = time.monotonic()

    def _serve(self, connection: Connection) -> None:
        asked = connection.recv_bytes()
        if asked == STOP:
            self.stopped.set()
            connection.send_bytes(STOP)
            return
        vectors, errors = self._encoder.try_encode(json.loads(asked))
        connection.send_bytes(json.dumps({"errors": errors}).encode())
        connection.send_bytes(vectors.tobytes())


def _user(connection: Connection) -> int:
    """The user at the other end, as the kernel tells; where it does not, the folder's rights have to do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return os.geteuid()
    with socket.socket(fileno=os.dup(connection.fileno())) as peer:
        found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])


def main(path: Path, config: EncoderConfig) -> None:
    """Load the model, listen, and end when nobody has asked for a while, or the socket is gone.

    It ends at once if another process has the name.
    """
    os.umask(0o077)
    with path.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        service = _Service(load_encoder(config))
        path.unlink(missing_ok=True)  # of a process that was killed
        with Listener(str(path), "AF_UNIX", backlog=64) as listener:
            threading.Thread(target=service.listen, args=(listener,), daemon=True).start()
            while path.exists() and service.idle_seconds() < config.keep_warm_seconds:
                if service.stopped.wait(_LOOK_SECONDS):
                    break
        sys.stderr.flush()
        os._exit(0)  # the thread that listens has no other end


if __name__ == "__main__":
    main(Path(sys.argv[1]), EncoderConfig.model_validate_json(sys.argv[2]))
