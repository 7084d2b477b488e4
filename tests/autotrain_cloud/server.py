"""A static file server with ranges, on loopback, that can be told to misbehave."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """Serves `folder` while it is open; every request is in `asked`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.sent = 0
        self.ranges = True
        self.cut_after = 0  # bytes of a body, then the line is cut; 0: never
        self.trickle_s = 0.0  # between two bytes
        self.instead: dict[str, bytes] = {}  # path -> what is served in its place
        self.on_request: Callable[[str], None] = lambda path: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        class Http(ThreadingHTTPServer):
            def handle_error(self, request: object, address: object) -> None:
                if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that went away
                    super().handle_error(request, address)  # type: ignore[arg-type]

        self._http = Http(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.lstrip("/")
        self.asked.append(path)
        self.on_request(path)
        file = self.folder / path
        if path not in self.instead and not file.is_file():
            request.send_error(404)
            return
        data = self.instead.get(path) or file.read_bytes()
        start, wanted = 0, re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        if wanted and self.ranges:
            start = int(wanted[1])
            if start >= len(data):
                request.send_error(416)
                return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        body = data[start:]
        if self.trickle_s:
            for at in range(len(body)):
                request.wfile.write(body[at : at + 1])
                request.wfile.flush()
                time.sleep(self.trickle_s)
            return
        if self.cut_after:
            body = body[: self.cut_after]
            request.close_connection = True
        self.sent += len(body)
        request.wfile.write(body)
