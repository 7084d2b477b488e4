"""An application of FastAPI behind real HTTPS, on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from autotrain_cloud.ca import Authority


@contextmanager
def served(
    application: FastAPI, authority: Authority, folder: Path, *, name: str = "127.0.0.1"
) -> Iterator[str]:
    """-> its URL. `authority` signs for it, under a name; `folder` gets the files."""
    made = authority.server([name])
    certificate, key = folder / "https.pem", folder / "https.key"
    certificate.write_bytes(made.certificate)
    key.write_bytes(made.key)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application, ssl_certfile=certificate, ssl_keyfile=key, log_config=None, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
