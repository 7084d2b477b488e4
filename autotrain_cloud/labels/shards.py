"""Many shards at once: in processes of this machine, or on the nodes of a Ray cluster.

    for path in label_shards(shards, Path("labels"), settings, jobs=4, place="ray"):
        ...

A shard is labelled by one process, in its own order, into a file of its own whose name says what is
in it.  So how many there are and where they run changes nothing of any file, and whatever was cut
off goes on with the shards that are missing.  No audio and no label passes through the caller.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from autotrain_cloud.labels.label import Labeler, LabelSettings, label_shard
from autotrain_cloud.teacher import chosen
from edge_runtime.errors import ConfigError

log = logging.getLogger(__name__)

PLACES = ("local", "ray")
RETRIES = 3  # of a shard whose node or process died; what a teacher raises is not tried again
QUIET_S = 60.0  # without a shard begun, before it is said


def label_shards(
    shards: Sequence[Path],
    out: Path,
    settings: LabelSettings,
    *,
    jobs: int = 1,
    place: str = "local",
) -> Iterator[Path]:
    """All shards, by `jobs` processes with teachers of their own; paths as they get done.

    `place`: "local", or "ray" for the cluster that this process is part of.
    Raises ConfigError, StorageError as `label_shard` does, and ConfigError without a cluster.
    """
    # Once for all: `auto` must not be one teacher here and another there.
    second = settings.second and chosen(settings.second)
    settings = replace(settings, teacher=chosen(settings.teacher), second=second)
    if place == "ray":
        yield from _by_ray(shards, out, settings, jobs)
        return
    if place != "local":
        raise ConfigError(f"place {place!r}: expected {' or '.join(PLACES)}")
    if jobs <= 1 or len(shards) <= 1:
        labeler = Labeler.open(settings)
        for shard in shards:
            yield label_shard(shard, out, labeler)
        return
    # "spawn": torch and the engines have threads, which do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(shards))) as pool:
        yield from pool.imap_unordered(_in_worker, [(shard, out, settings) for shard in shards])


def _by_ray(
    shards: Sequence[Path], out: Path, settings: LabelSettings, jobs: int
) -> Iterator[Path]:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "shards on a Ray cluster: ray is not installed here: pip install 'vitconformer[ray]'"
        ) from error
    address = os.environ.get("RAY_ADDRESS") or "auto"
    try:
        _knock(address)
        ray.init(
            address=address,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"shards on a Ray cluster: this machine is in none ({str(error).splitlines()[0]}); run "
            "this as a Ray job or on a node, with the cluster's token in RAY_AUTH_TOKEN"
        ) from error
    try:
        gpus = 1 if settings.teacher.device.startswith("cuda") else 0
        if gpus and not ray.cluster_resources().get("GPU"):
            # Not what this process sees: the nodes are others.
            raise ConfigError(
                f"teacher.device is {settings.teacher.device!r}, and no node of the Ray cluster "
                "has a GPU; take 'cpu', or start a node with one"
            )
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_in_worker)
        # Nodes have working folders of their own.
        waiting = [(shard.absolute(), out.absolute(), settings) for shard in shards][::-1]
        running: list[object] = []
        quiet = True
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(task.remote(waiting.pop()))
            done, running = ray.wait(running, timeout=QUIET_S)
            if not done and quiet:
                log.warning(
                    "no shard is done yet: %s CPUs and %s GPUs of the cluster are free",
                    *(ray.available_resources().get(name, 0) for name in ("CPU", "GPU")),
                )
            quiet = quiet and not done
            for one in done:
                try:
                    found: Path = ray.get(one)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                yield out / found.name
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: ray itself would try for many minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


_opened: tuple[LabelSettings, Labeler] | None = None


def _in_worker(work: tuple[Path, Path, LabelSettings]) -> Path:
    """One shard, with the teachers that this process opened for the shard before."""
    global _opened
    shard, out, settings = work
    if _opened is None or _opened[0] != settings:
        _opened = settings, Labeler.open(settings)
    return label_shard(shard, out, _opened[1])
