"""The application behind uvicorn, which ends its streams when it is to stop."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from autotrain_cloud.settings import ApiSettings
from edge_runtime.errors import ConfigError

log = logging.getLogger(__name__)
NEW_OBJECTS = 50_000  # that make the garbage collector come; 500 rows are some thousand
WARM_S = 10.0  # that a server which is stopped at once waits for what it began


class Server(uvicorn.Server):
    """uvicorn waits for answers to end, and a stream of events ends only when it is told."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.app.state.services.hub.stop_soon()  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def serve(app: FastAPI, settings: ApiSettings) -> bool:
    """Until SIGTERM or SIGINT; -> no: it could not listen. Raises ConfigError."""
    for path in (settings.certificate, settings.key):
        if path is not None and not path.is_file():
            raise ConfigError(f"api: {path}: is missing; `vitconformer cloud ca server` makes it")
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key, server_header=False, access_log=False, log_config=None,
        proxy_headers=settings.behind_proxy, limit_concurrency=1000, timeout_keep_alive=10,
        timeout_graceful_shutdown=10, h11_max_incomplete_event_size=32_768,
    )  # fmt: skip
    server = Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises them again when it has stopped
    with _logging():
        warming = threading.Thread(target=warm, args=(app,), name="warm", daemon=True)
        warming.start()
        server.run()
        warming.join(WARM_S)
    return server.started


def warm(app: FastAPI) -> None:
    """Makes what the first who asks would wait for, and then has the garbage collector leave alone
    all that is there, and come only when more is new than a page has: to pass over what stays,
    again and again, takes longer than most pages.
    """
    try:
        app.state.services.warm()
    except Exception as error:
        log.warning("not at hand yet: %s", error)  # whoever asks for it has it made
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Requests and uvicorn's own words as lines of JSON on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    loggers = [logging.getLogger(name) for name in ("autotrain_cloud.api", "uvicorn")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True


class Lines(logging.Formatter):
    """One JSON object a line; what is one already stays as it is."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name.endswith(".access"):
            return record.getMessage()
        facts = {
            "at": round(time.time(), 3), "level": record.levelname.lower(), "from": record.name,
            "message": record.getMessage(),
        }  # fmt: skip
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return json.dumps(facts)
