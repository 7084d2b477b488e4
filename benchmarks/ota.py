"""Updates that are killed, cut off and counted.

* `kills`: a device with the real updater, repository, server and disk takes one release after the
  other, and is killed (SIGKILL) at a random moment of it, again and again. After every kill the
  bundle that would run is opened, every digest compared, by somebody else: `without a model` counts
  the devices where that failed, `floor fell` those that forgot a release they had committed.
* `line`: the line is cut after every k bytes of a file. `ratio` is what the server sent of the
  release, over the size of what it consists of.
* `matrix`: how many power cuts the tests make, in operations and ways to forget
  (tests/edge_runtime/ota/test_slots.py, which fails if one leaves a device without a model).

Bundles are random bytes of a few kilobytes: what is measured here does not depend on what is in
them, and the killed process is to be hit between its steps, not while it computes digests.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a program the folder above is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure
from edge_runtime.bundle import Bundle
from edge_runtime.ota.fs import RealFs
from edge_runtime.ota.record import RecordStore
from edge_runtime.ota.update import GOLDEN
from tests.autotrain_cloud.server import Server
from tests.edge_runtime.ota.device import GOOD, Place

RELEASES = (4, 5, 6)
SICK = 5  # fails on probation
ILL = dataclasses.replace(GOOD, confidence=0.2)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        killed = kills(Path(folder) / "kills", args.kills, random.Random(args.seed))
        return {"kills": killed, "line": line(Path(folder) / "line"), "matrix": matrix()}


# -- kills -----------------------------------------------------------------------------------------


def kills(folder: Path, count: int, rng: random.Random) -> dict[str, Any]:
    places, servers = [], []
    for release in RELEASES:  # a repository for each, as the device finds it later
        place = Place(folder / str(release)) if not places else copied(places[-1], release)
        places.append(place)
        place.publish(release)
    for place in places:
        servers.append(serve(place))
    try:
        start = time.monotonic()
        life(places)
        whole_s = time.monotonic() - start
        measure.say(f"an update takes {whole_s / len(RELEASES):.2f} s; {count} kills ...")
        found = dict.fromkeys(("kills", "devices", "without a model", "floor fell", "finished"), 0)
        states: dict[str, int] = {}
        state = places[0].folder / "device"
        floor = 0
        while found["kills"] < count:
            if not floor:
                shutil.rmtree(state, ignore_errors=True)
                found["devices"] += 1
                floor = 3
            child = os.fork()
            if not child:
                life(places)
                os._exit(0)
            time.sleep(rng.uniform(0, 0.6 * whole_s))
            os.kill(child, signal.SIGKILL)
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
                found["finished"] += 1
                floor = 0
                continue
            found["kills"] += 1
            # By somebody else, who changes nothing: `start` would mend what is broken.
            fs = RealFs(state, {GOLDEN: places[0].golden.path})
            record = RecordStore(fs).load(3)
            states[record.state.value] = states.get(record.state.value, 0) + 1
            try:
                opened = Bundle.open(fs.path(record.running)).manifest.release_counter
                found["without a model"] += opened != record.release
            except Exception as error:
                measure.say(f"{record}: {error}")
                found["without a model"] += 1
            found["floor fell"] += record.floor < floor
            floor = max(floor, record.floor)
            if found["kills"] % 50 == 0:
                measure.say(f"{found['kills']} kills")
        return {**found, "state when killed": states, "update_s": whole_s / len(RELEASES)}
    finally:
        for server in servers:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
        for place in places:
            place.server.__exit__()


def copied(place: Place, release: int) -> Place:
    """The same repository, to be given a further release; the same device."""
    folder = place.folder.parent / str(release)
    for name in ("repo", "keys"):
        shutil.copytree(place.folder / name, folder / name)
    found: Place = object.__new__(Place)
    found.__dict__.update(place.__dict__, repo=folder / "repo", keys=folder / "keys")
    found.server = Server(folder / "repo")
    return found


def serve(place: Place) -> int:
    """Moves the server into a process of its own; -> its number. Forks copy no threads."""
    place.server.__exit__()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        server = Server(place.repo)
        os.write(write, server.url.encode())
        signal.pause()
    os.close(write)
    place.server.url = os.read(read, 1000).decode()
    os.close(read)
    return child


def life(places: list[Place]) -> None:
    """Every release in turn, from wherever the device is."""
    for place, release in zip(places, RELEASES, strict=True):
        place.clock = 0.0
        with place.device(retries=0) as updater:
            updater.start(background=False)
            updater.observe(GOOD)
            for _ in range(3):
                updater.check("kills")
                updater.changed()
                place.clock += 600.0
                updater.observe(ILL if release == SICK else GOOD)
                if updater.status()["state"] == "idle":
                    break


# -- the line --------------------------------------------------------------------------------------


def line(folder: Path) -> list[dict[str, Any]]:
    found = []
    for every in (0, 100_000, 30_000, 10_000):
        place = Place(folder / str(every))
        with place.server as server:
            made = place.publish(4, bundle={"model": random.Random(4).randbytes(1_000_000)})
            size = sum(entry.size for entry in made.manifest.files.values())
            size += (made.path / "manifest.json").stat().st_size
            sent = cuts = 0

            def cut(path: str, every: int = every) -> None:
                nonlocal cuts
                server.cut_after = every if "targets/" in path else 0
                cuts += "encoder" in path

            server.on_request = cut
            with place.device(retries=1000, deltas=False) as updater:
                updater.start(background=False)
                updater._trust.newest(updater.family)
                before = server.sent
                assert updater.check().kind == "switched"
                sent = server.sent - before
        found.append({"cut every": every, "connections": cuts, "size": size, "sent": sent})
    return [{**row, "ratio": row["sent"] / row["size"]} for row in found]


# -- the matrix ------------------------------------------------------------------------------------


def matrix() -> dict[str, int]:
    from edge_runtime.ota import slots
    from tests.edge_runtime.ota.disk import WAYS, PoweredDisk
    from tests.edge_runtime.ota.test_slots import Device

    before, slots.SYNC_EVERY = slots.SYNC_EVERY, 1000
    try:
        disk = PoweredDisk()
        Device(disk).live()
    finally:
        slots.SYNC_EVERY = before
    return {"operations": disk.done, "ways": len(WAYS), "cuts": disk.done * len(WAYS)}


def table(results: dict[str, Any]) -> measure.Table:
    found, cuts = results["kills"], results["matrix"]
    worst = max(row["ratio"] for row in results["line"])
    return [
        ["what", "number"],
        ["kills during updates", str(found["kills"])],
        ["devices without a working model", str(found["without a model"])],
        ["devices that forgot a committed release", str(found["floor fell"])],
        ["bytes sent over size, line cut every 10 kB, worst", f"{worst:.3f}"],
        ["power cuts of the tests", str(cuts["cuts"])],
    ]


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
