"""`vitconformer cloud enrol-server`: gives devices their certificates, over HTTPS."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "the HTTPS server that gives devices their certificates"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the action's options to `parser`."""
    parser.add_argument("--ca", type=Path, required=True, metavar="DIR", help="the authority")
    parser.add_argument(
        "--certificate", type=Path, required=True, metavar="FILE", help="of `cloud ca server`"
    )
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="of it")
    parser.add_argument("--host", default="0.0.0.0", metavar="ADDRESS", help="(0.0.0.0)")
    parser.add_argument("--port", type=int, default=8443, metavar="N", help="(8443)")


def run(args: argparse.Namespace) -> int:
    import uvicorn
    from fastapi import FastAPI

    from autotrain_cloud.ca import Authority
    from autotrain_cloud.enrolment import Enrolment, router
    from edge_runtime.errors import ConfigError

    application = FastAPI(title="enrolment", docs_url=None, redoc_url=None, openapi_url=None)
    application.include_router(router(Enrolment(Authority(args.ca))))
    for path in (args.certificate, args.key):
        if not path.is_file():
            raise ConfigError(f"{path}: is missing; `vitconformer cloud ca server` makes it")
    uvicorn.run(
        application, host=args.host, port=args.port, ssl_certfile=args.certificate,
        ssl_keyfile=args.key, server_header=False, limit_concurrency=200, timeout_keep_alive=5,
    )  # fmt: skip
    return 0
