"""How other programs on the device speak with a running agent: JSON lines over a Unix socket.

    {"do": "status"}                       -> {"ok": true, ...}
    {"do": "erase", "segments": [...]}     -> {"ok": true, "segments": 3}
    {"do": "unknown"}                      -> {"ok": false, "error": "..."}

The socket lies in the state directory and only the agent's user (and root) may speak through it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edge_runtime.errors import EdgeError, StorageError

log = logging.getLogger("edge_runtime.agent")

NAME = "control.sock"
MAX_LINE = 1 << 20  # bytes of a request or an answer
PATIENCE_S = 30.0  # for the other side

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Control:
    """Answers, on a thread of its own, one question at a time."""

    def __init__(self, directory: Path, answers: Mapping[str, Answer]) -> None:
        """Raises StorageError if there can be no socket."""
        self._answers = answers
        self._path = directory / NAME
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)
            with _address(self._path) as address:
                before = os.umask(0o177)
                try:
                    self._socket.bind(address)
                finally:
                    os.umask(before)
            self._socket.listen(8)
        except OSError as error:
            self._socket.close()
            raise StorageError(f"{self._path}: no control socket: {error}") from error
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends accept
        self._thread.join()
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(PATIENCE_S)
                with connection.makefile("rwb") as lines:
                    for line in iter(lambda: lines.readline(MAX_LINE), b""):
                        lines.write(json.dumps(self._answer(line)).encode() + b"\n")
                        lines.flush()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            answer = self._answers[request["do"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            known = ", ".join(sorted(self._answers))
            return {"ok": False, "error": f'expected one line of JSON, {{"do": one of {known}}}'}
        try:
            return {"ok": True, **answer(request)}
        except EdgeError as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:
            log.debug("%s failed", request["do"], exc_info=True)
            return {"ok": False, "error": repr(error)}


def ask(directory: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer of the agent whose state is here; None if none runs. Raises StorageError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_S)
        try:
            with _address(directory / NAME) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise StorageError(f"{directory / NAME}: {error.strerror or error}") from error
        try:
            with connection.makefile("rwb") as lines:
                lines.write(json.dumps(request).encode() + b"\n")
                lines.flush()
                answer: dict[str, Any] = json.loads(lines.readline(MAX_LINE))
        except (OSError, ValueError) as error:
            raise StorageError(f"the agent did not answer: {error}") from error
    if not answer.pop("ok", False):
        raise StorageError(f"the agent refused: {answer.get('error')}")
    return answer


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """A name for the socket that is short enough (108 bytes) wherever the directory is."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
