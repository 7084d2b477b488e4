"""What the actions of `vitconformer cloud` share: where their settings and their store are."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotrain_cloud.service.forget import Forgotten
    from autotrain_cloud.settings import CloudSettings
    from autotrain_cloud.store import Store


def add_config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="cloud.toml (default: its default settings)"
    )


def read_config(args: argparse.Namespace) -> CloudSettings:
    """Raises ConfigError."""
    from autotrain_cloud.settings import CloudSettings, read_cloud_settings

    return read_cloud_settings(args.config) if args.config else CloudSettings()


def open_store(args: argparse.Namespace) -> Store:
    """Raises ConfigError, StorageError."""
    from autotrain_cloud.store import Store

    return Store.open(read_config(args).store)


def forget(
    args: argparse.Namespace, store: Store, pipeline: Path | None = None
) -> Forgotten | None:
    """What the store has no more goes from the pipeline's folder too; None without a pipeline.

    `pipeline`: its settings, instead of those that [api] names. Raises ConfigError, StorageError.
    """
    from autotrain_cloud.pipeline.controller import Controller
    from autotrain_cloud.service.forget import forget as do

    place = pipeline or read_config(args).api.pipeline
    if place is None:
        return None
    controller = Controller.open(place)
    try:
        return do(store, controller, now_ms=now_ms())
    finally:
        controller.close()


def now_ms() -> int:
    return time.time_ns() // 1_000_000
