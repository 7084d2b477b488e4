"""The ingest against a subscriber that does nothing: how many segments a second each takes.

A broker with the project's configuration (TLS 1.3 with certificates on both sides, QoS 1) has so
many segments of 20 kB waiting, each with its own id, audio and twelve words, from two devices whose
publishers are paho clients. Then one of these takes them: a bare paho client with the same
subscription and the same Receive Maximum, whose callback counts; or `vitconformer cloud ingest`,
which decodes and checks each, commits it (on the disk before the receipt), publishes the receipt
and acknowledges. Both are started, subscribed and stopped (SIGSTOP) while the broker's queue is
filled, so the publishers do not count. The clock runs until the last segment is counted, or in the
store; there are enough segments for beginning and end not to matter.

CPU time is that of the subscriber's processes per segment, PostgreSQL's among them. Nothing is left
for later: where the audio is when a receipt is written, it stays.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.measure import Table

SIZE = 20_000  # bytes of audio
WORDS = 12
RECEIVE_MAXIMUM = 1000  # the settings' default, and what the broker allows
DEVICES = ("bench-1", "bench-2")
PATIENCE_S = 300


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--segments", type=int, default=8000, help="of a run (default: 8000)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument(
        "--no-postgresql", action="store_true", help="where Debian's postgresql is not installed"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tests.postgres import Postgres

    with ExitStack() as stack:
        postgres = None if args.no_postgresql else stack.enter_context(Postgres.start())
        return _compare(postgres, args)


def _compare(postgres: Any, args: argparse.Namespace) -> dict[str, Any]:
    count = args.segments
    systems = {
        "bare": lambda: _with_broker(lambda broker: _bare(broker, count)),
        "sqlite": lambda: _with_broker(lambda broker: _ingest(broker, None, count)),
    }
    if postgres is not None:
        systems["postgresql"] = lambda: _with_broker(
            lambda broker: _ingest(broker, postgres, count)
        )
    found = measure.alternate(systems, args.repeats)
    results: dict[str, Any] = {"segments": count}
    for name, runs in found.items():
        rates = [each["per_second"] for each in runs]
        bare = [each["per_second"] for each in found["bare"]]
        results[name] = {
            "per_second": statistics.median(rates),
            "per_second_of_runs": rates,
            "cpu_us": statistics.median(each["cpu_us"] for each in runs),
            "broker_cpu_us": statistics.median(each["broker_cpu_us"] for each in runs),
            "of_bare": measure.median_ratio(rates, bare),
        }
    return results


def _with_broker(run: Callable[[Any], dict[str, float]]) -> dict[str, float]:
    """A new one for each run: it would keep everything for the sessions of those before."""
    from tests.broker import Broker

    with tempfile.TemporaryDirectory(prefix="bench-") as name, Broker.start(Path(name)) as broker:
        return run(broker)


# The two that are compared.


def _bare(broker: Any, count: int) -> dict[str, float]:
    certificate, key = broker.identity("_ingest")
    group = f"g{time.monotonic_ns()}"
    command = [
        sys.executable, "-c", "from benchmarks.ingest import bare; bare()",
        broker.host, str(broker.service_port), str(broker.ca), str(certificate), str(key), group,
        str(count),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=measure.ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        return _timed(broker, count, [process.pid], [process.pid], process.stdout.readline)
    finally:
        process.wait()


def bare() -> None:
    """The bare subscriber's process: says `ready`, then `done`."""
    import ssl

    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    host, port, ca, certificate, key, group, count = sys.argv[1:]
    from edge_runtime.contract.topics import CHANNELS

    left = int(count)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=group, protocol=mqtt.MQTTv5)
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    client.tls_set_context(context)

    def received(*_: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            print("done", flush=True)
            client.disconnect()

    client.on_connect = lambda *_: client.subscribe(CHANNELS["segment"].shared(group), 1)
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.on_message = received
    terms = Properties(PacketTypes.CONNECT)
    terms.SessionExpiryInterval = 3600
    terms.ReceiveMaximum = RECEIVE_MAXIMUM
    client.connect(host, int(port), clean_start=False, properties=terms)
    client.loop_forever()


def _ingest(broker: Any, postgres: Any, count: int) -> dict[str, float]:
    from autotrain_cloud.settings import StoreSettings
    from autotrain_cloud.store import Store, segments
    from tests.autotrain_cloud.processes import IngestProcess

    with _folder() as folder:
        url = postgres.new_store() if postgres else f"sqlite:///{folder}/store.db"
        settings = StoreSettings(url=url, blobs=str(folder / "blobs"))
        store = Store.open(settings)
        try:
            with IngestProcess(
                broker, settings, folder, receive_maximum=RECEIVE_MAXIMUM
            ) as process:
                process.wait()
                time.sleep(1)
                assert process.process is not None
                ours = [process.process.pid, process.worker_pid()]
                pids = ours + ([postgres.pid] if postgres else [])

                def wait() -> None:
                    while True:
                        with store.read() as db:
                            if segments.count(db) >= count:
                                return
                        time.sleep(0.005)

                return _timed(broker, count, ours, pids, wait)
        finally:
            store.close()


def _timed(
    broker: Any, count: int, stopped: list[int], pids: list[int], wait: Any
) -> dict[str, float]:
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        _fill(broker, count)
    finally:
        used, broker_used = _cpu_s(pids), _cpu_s([broker.pid])
        start = time.perf_counter()
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    wait()
    seconds = time.perf_counter() - start
    return {
        "per_second": count / seconds,
        "cpu_us": (_cpu_s(pids) - used) / count * 1e6,
        "broker_cpu_us": (_cpu_s([broker.pid]) - broker_used) / count * 1e6,
    }


def _cpu_s(pids: list[int]) -> float:
    """User and system seconds of processes and of their children, those that have ended too."""
    ticks = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except FileNotFoundError:
            continue
        ticks += sum(int(each) for each in stat[11:15])
        if "postgres" in Path(f"/proc/{pid}/comm").read_text():
            ticks += int(_cpu_s([int(child) for child in children]) * os.sysconf("SC_CLK_TCK"))
    return ticks / os.sysconf("SC_CLK_TCK")


# What they take.


def _fill(broker: Any, count: int) -> None:
    share = count // len(DEVICES)
    counts = [count - share * (len(DEVICES) - 1)] + [share] * (len(DEVICES) - 1)
    processes = []
    for device, each in zip(DEVICES, counts, strict=True):
        certificate, key = broker.identity(device)
        command = [
            sys.executable, "-c", "from benchmarks.ingest import publish; publish()", device,
            broker.host, str(broker.port), str(broker.ca), str(certificate), str(key), str(each),
        ]  # fmt: skip
        processes.append(subprocess.Popen(command, cwd=measure.ROOT))
    for process in processes:
        assert process.wait(PATIENCE_S) == 0


def publish() -> None:
    """A publisher's process: ends when the broker has acknowledged everything."""
    import ssl

    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    from edge_runtime.contract.topics import topic_of

    device, host, port, ca, certificate, key, count = sys.argv[1:]
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=device, protocol=mqtt.MQTTv5)
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    client.tls_set_context(context)
    client.max_inflight_messages_set(20)
    client.connect(host, int(port))
    client.loop_start()
    topic = topic_of("segment", device)
    under_way: list[mqtt.MQTTMessageInfo] = []
    for payload in payloads(int(count), os.urandom(8).hex()):
        under_way.append(client.publish(topic, payload, 1))
        if len(under_way) == 20:
            under_way.pop(0).wait_for_publish(PATIENCE_S)
    for info in under_way:
        info.wait_for_publish(PATIENCE_S)
    client.disconnect()
    client.loop_stop()


def payloads(count: int, seed: str) -> Iterator[bytes]:
    """Encoded segments, no two alike."""
    from dataclasses import replace

    from edge_runtime.contract.codec import encode
    from edge_runtime.contract.records import new_id
    from tests.autotrain_cloud.fleet import segment

    rng = random.Random(seed)
    template = segment(1, size=SIZE, words=WORDS)
    for number in range(count):
        audio = rng.randbytes(SIZE)
        id = new_id(time.time_ns() // 1_000_000, os.urandom(10))
        digest = hashlib.sha256(audio).digest()
        yield encode(replace(template, id=id, sequence=number, audio=audio, audio_sha256=digest))


@contextmanager
def _folder() -> Iterator[Path]:
    (measure.ROOT / "data").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=measure.ROOT / "data") as name:
        yield Path(name)


def table(results: dict[str, Any]) -> Table:
    rows = [["", "segments / s", "of the bare subscriber", "CPU µs / segment", "broker, CPU µs"]]
    names = {"bare": "bare paho subscriber", "sqlite": "ingest, SQLite"}
    names["postgresql"] = "ingest, PostgreSQL"
    for key, name in names.items():
        if key in results:
            found = results[key]
            rows.append(
                [
                    name,
                    f"{found['per_second']:.0f}",
                    f"{found['of_bare']:.0%}",
                    f"{found['cpu_us']:.0f}",
                    f"{found['broker_cpu_us']:.0f}",
                ]
            )
    return rows


def headline(results: dict[str, Any]) -> str:
    shares = {key: results[key]["of_bare"] for key in ("sqlite", "postgresql") if key in results}
    return ", ".join(f"{key} {share:.0%} of bare" for key, share in shares.items())


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
