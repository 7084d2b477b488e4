"""`vitconformer cloud learn`: watches the fleet, retrains when it must, and rolls out what came."""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from autotrain_cloud.commands.config import add_config_option, now_ms, open_store, read_config

if TYPE_CHECKING:
    from autotrain_cloud.pipeline.controller import Controller
    from autotrain_cloud.service.roll import Republish

HELP = "watch the fleet, retrain when it hears worse, roll out what the gate lets through"

MIRROR_S = 10.0  # between two looks for what MLflow lacks


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument(
        "--pipeline", type=Path, default=Path("pipeline.toml"), metavar="FILE",
        help="settings of the pipeline (default: pipeline.toml)",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=float, default=2.0, metavar="S", help="between two steps (default: 2)"
    )


def run(args: argparse.Namespace) -> int:
    """Until SIGINT or SIGTERM."""
    from autotrain_cloud.pipeline.controller import Controller
    from autotrain_cloud.service.forget import Forgetting
    from autotrain_cloud.service.learn import Learn
    from autotrain_cloud.service.roll import Rolling
    from autotrain_cloud.service.rounds import Rounds
    from autotrain_cloud.service.watch import Watch

    settings = read_config(args)
    controller = Controller.open(args.pipeline)
    store = open_store(args)
    stop = _stopped_by_signals()
    try:
        watch = Watch(store, settings.monitor)
        rolling = Rolling(
            store, _republisher(controller), look_ms=round(settings.rollout.look_minutes * 60_000)
        )
        learn = Learn(store, controller, rolling, settings.rollout)
        parts = {
            "watch": watch.step,
            "runs": learn.follow_runs,
            "erasures": Forgetting(store, controller).step,  # after what runs made is kept
            "alarms": learn.answer_alarms,  # after what runs became: a rollout may have begun
            "rollouts": rolling.step,
        }
        rounds = Rounds(parts, say=_say)
        _mirror(controller, stop)
        with controller.at_work():
            while not stop.wait(args.every):
                rounds.go(now_ms())
    finally:
        store.close()
        controller.close()
    return 0


def _mirror(controller: Controller, stop: threading.Event) -> None:
    """Shows the ledger elsewhere, beside all else: nothing waits for it, a kill harms nothing."""
    from autotrain_cloud.gate.mirror import Mirror
    from autotrain_cloud.service.rounds import Rounds

    settings = controller.settings.settings
    if settings.ledger is None or not settings.mirror:
        return
    mirror = Mirror(settings.ledger, settings.mirror)
    rounds = Rounds({"mirror": lambda _: mirror.send()}, say=_say)

    def send() -> None:
        while not stop.wait(MIRROR_S):
            rounds.go(now_ms())

    threading.Thread(target=send, name="mirror", daemon=True).start()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _republisher(controller: Controller) -> Republish:
    from autotrain_cloud.release import KeyRing, Repository
    from autotrain_cloud.service.learn import republisher
    from edge_runtime.bundle import Bundle
    from edge_runtime.errors import ConfigError

    settings = controller.settings.settings

    def publish(bundle: Bundle) -> None:
        if settings.repository is None or settings.keys is None:
            raise ConfigError("settings.repository, settings.keys: are needed to go back")
        Repository(settings.repository, KeyRing.load(settings.keys)).publish_once(bundle)

    return republisher(publish, controller.settings.folder / "republished", settings.ledger)


def _stopped_by_signals() -> threading.Event:
    import signal

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
