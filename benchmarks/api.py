"""The HTTP interface on a large store: what every page costs, and whether memory stays.

PostgreSQL (Debian's, with its default settings) has the store of ten thousand devices of which
`api_store.py` tells: a million segments, seven hundred thousand labels, of which fifty thousand
wait for a person, and all the rest. `vitconformer cloud serve` serves it, on loopback, as it is
started in earnest, with a pipeline of 500 runs and a ledger. One client with one connection asks
for every list and every detail: first pages, pages at random depths, the largest allowed, every
filter alone with values that are frequent, rare, long past and never met, and several together. The
order is random in every round, and details are of another row each time.

CPU time of a request is user and system time of the server's process and of all of PostgreSQL's
processes that serve it, from the answer before to this answer: nothing that is done in between is
left out. It is read from the clocks of processes in nanoseconds, and for PostgreSQL's parallel
workers, which are gone by then, from what their parent has inherited, in hundredths of a second.
p50 and p99 of a row are over all requests of its path; `worst` is the case whose median is the
greatest.

`overview` answers from memory for some seconds; its row "counted anew" waits for so long before it
asks and another second after, and has all that the server did meanwhile.

Memory is the server's resident memory while so many more requests are made, of any kind at random:
after a quarter of them, and the growth from there to the end.

Events: so many listeners to the stream while events are written for some seconds; CPU time of
server and PostgreSQL, with that of the writing, per event and listener, and the time from writing
to receipt.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import api_cases, api_store, measure
from benchmarks.measure import Table

PATIENCE_S = 120
OVERVIEW_S = 5.0  # that an overview may be old; `api.services` has it
LISTENERS = 50
EVENTS_PER_S = 20


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=25, help="of all cases (default: 25)")
    parser.add_argument(
        "--requests", type=int, default=20_000, help="for the memory (default: 20,000)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of events (default: 20)")
    parser.add_argument(
        "--segments", type=int, default=1_000_000, help="in the store (default: a million)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    import dataclasses

    from tests.postgres import Postgres

    sizes = dataclasses.replace(api_store.Sizes(), segments=args.segments)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        Postgres.start(shared_buffers="128MB") as postgres,
    ):
        return measured(postgres, Path(name), sizes, args)


def measured(
    postgres: Any, folder: Path, sizes: api_store.Sizes, args: argparse.Namespace
) -> dict[str, Any]:
    from autotrain_cloud.settings import StoreSettings
    from autotrain_cloud.store import Store

    url, now_ms = postgres.new_store(), time.time_ns() // 1_000_000
    store = Store.open(StoreSettings(url=url, blobs=str(folder / "blobs")))
    try:
        started = time.monotonic()
        api_store.fill(store, folder, sizes, now_ms=now_ms)
        measure.say(f"filled in {time.monotonic() - started:.0f} s")
        with Serving.start(store, postgres.pid, url, folder) as serving:
            return ask_everything(serving, sizes, args, now_ms)
    finally:
        store.close()


def ask_everything(
    serving: Serving, sizes: api_store.Sizes, args: argparse.Namespace, now_ms: int
) -> dict[str, Any]:
    with serving.store.read() as db:
        cases = api_cases.cases(api_cases.Known.of(db, now_ms))
    rng = random.Random(4)
    for case in cases:  # not counted: what is made once
        serving.ask(case.next(rng), case.headers, case.statuses)
    found, every = _pages(serving, cases, rng, args.rounds)
    return {
        "devices": sizes.devices,
        "segments": sizes.segments,
        "rounds": args.rounds,
        "lists_and_details_ms": every,
        "pages": found,
        "counted_anew": _counted_anew(serving),
        "memory": _memory(serving, cases, rng, args.requests),
        "events": _events(serving, args.seconds),
    }


# -- the server -----------------------------------------------------------------------------------


@dataclass
class Serving:
    """`vitconformer cloud serve`, and what it and its database use."""

    store: Any
    process: subprocess.Popen[bytes]
    port: int
    token: str
    postgres: int  # the first process
    _kinds: dict[int, bool] = field(default_factory=dict)  # by pid: whether it serves the server
    _line: http.client.HTTPConnection | None = None

    @classmethod
    @contextmanager
    def start(cls, store: Any, postgres: int, url: str, folder: Path) -> Iterator[Serving]:
        from autotrain_cloud import api_tokens

        with store.begin() as db:
            now_ms = time.time_ns() // 1_000_000
            token = api_tokens.add(db, "bench", "viewer", now_ms=now_ms, valid_ms=86_400_000)
        store.engine.dispose()  # no backend of ours is left when it begins
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "pipeline.toml").write_text('folder = "pipeline"\nengine = "sqlite"\n')
        (folder / "cloud.toml").write_text(
            f'[store]\nurl = "{url}"\nblobs = "{folder}/blobs"\n[api]\nport = {port}\n'
            f'pipeline = "{folder}/pipeline.toml"\nledger = "{folder}/ledger.jsonl"\n'
        )
        command = [
            sys.executable, "-m", "edge_runtime", "cloud", "serve", "--config",
            str(folder / "cloud.toml"),
        ]  # fmt: skip
        with (folder / "serve.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=measure.ROOT, stdout=log, stderr=log)
        serving = cls(store, process, port, token, postgres)
        try:
            serving._wait(folder / "serve.log")
            yield serving
        finally:
            if serving._line is not None:
                serving._line.close()
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert self.process.poll() is None, log.read_text()
            try:
                self.ask("/readyz")
                return
            except OSError:
                assert time.monotonic() < deadline, log.read_text()
                self._line = None
                time.sleep(0.1)

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, statuses: Sequence[int] = (200,)
    ) -> bytes:
        """The answer's body. Raises OSError, AssertionError for another status."""
        if self._line is None:
            self._line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        more = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        try:
            self._line.request("GET", path, headers=more)
            response = self._line.getresponse()
        except http.client.RemoteDisconnected:  # it was idle for too long
            self._line.close()
            self._line.request("GET", path, headers=more)
            response = self._line.getresponse()
        body = response.read()
        assert response.status in statuses, f"{path}: {response.status} {body[:300]!r}"
        return body

    def cpu_s(self) -> float:
        """Used so far by the server and by PostgreSQL's processes that serve it."""
        used = cpu_s(self.process.pid)
        for pid in _children(self.postgres):
            if self._serves(pid):
                used += cpu_s(pid)
        stat = Path(f"/proc/{self.postgres}/stat").read_text().rpartition(")")[2].split()
        return used + (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")

    def _serves(self, pid: int) -> bool:
        """Not the checkpointer and its like. Our own backends are counted; they do nothing."""
        if pid not in self._kinds:
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                return False
            self._kinds[pid] = b"[local]" in line or b"parallel" in line
        return self._kinds[pid]

    def memory_mb(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        [rss] = (line for line in lines if line.startswith("VmRSS:"))
        return int(rss.split()[1]) / 1024


def cpu_s(pid: int) -> float:
    """User and system time of all threads of a process; 0 if it is gone."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)
    except OSError:
        return 0.0


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# -- pages ----------------------------------------------------------------------------------------


def _pages(
    serving: Serving, cases: Sequence[api_cases.Case], rng: random.Random, rounds: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """By path: of all of its cases, and each by itself. And of all lists and details together."""
    used: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    walls: dict[str, list[float]] = defaultdict(list)
    order = list(cases)
    before = serving.cpu_s()
    for number in range(rounds):
        rng.shuffle(order)
        for case in order:
            path = case.next(rng)
            start = time.perf_counter()
            serving.ask(path, case.headers, case.statuses)
            walls[case.route].append(time.perf_counter() - start)
            after = serving.cpu_s()
            used[case.route][case.name].append(after - before)
            before = after
        measure.say(f"round {number + 1} of {rounds}")
    found = {}
    for route in dict.fromkeys(case.route for case in cases):
        every = [value for values in used[route].values() for value in values]
        by_case = {
            name: _ms(measure.percentiles(values, 50, 99)) for name, values in used[route].items()
        }
        found[route] = {
            "kind": next(case.kind for case in cases if case.route == route),
            "requests": len(every),
            "cpu_ms": _ms(measure.percentiles(every, 50, 99)),
            "wall_ms": _ms(measure.percentiles(walls[route], 50, 99)),
            "worst": max(by_case, key=lambda name: by_case[name]["p50"]),
            "cases": by_case,
        }
    together = [
        value
        for case in cases
        if case.kind in ("list", "detail")
        for value in used[case.route][case.name]
    ]
    return found, _ms(measure.percentiles(together, 50, 99))


def _ms(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(1000 * value, 2) for name, value in seconds.items()}


def _counted_anew(serving: Serving, times: int = 6) -> dict[str, Any]:
    values = []
    for _ in range(times):
        time.sleep(OVERVIEW_S + 0.1)
        before = serving.cpu_s()
        serving.ask("/v1/overview")
        time.sleep(1.0)
        values.append(serving.cpu_s() - before)
    return {"times": times, "cpu_ms": _ms(measure.percentiles(values, 50, 99))}


def _memory(
    serving: Serving, cases: Sequence[api_cases.Case], rng: random.Random, requests: int
) -> dict[str, Any]:
    sizes = []
    before = serving.cpu_s()
    for number in range(requests):
        case = rng.choice(cases)
        serving.ask(case.next(rng), case.headers, case.statuses)
        if number % max(1, requests // 20) == 0:
            sizes.append(round(serving.memory_mb(), 1))
    sizes.append(round(serving.memory_mb(), 1))
    return {
        "requests": requests,
        "cpu_ms_mean": round(1000 * (serving.cpu_s() - before) / max(1, requests), 2),
        "resident_mb": sizes,
        "growth_mb": round(sizes[-1] - sizes[len(sizes) // 4], 1),
    }


# -- events ---------------------------------------------------------------------------------------


def _events(serving: Serving, seconds: float) -> dict[str, Any]:
    from autotrain_cloud.service import journal

    lines = [_listener(serving) for _ in range(LISTENERS)]
    waiting = selectors.DefaultSelector()
    for line in lines:
        waiting.register(line, selectors.EVENT_READ)
    time.sleep(2.0)
    _drain(waiting, time.monotonic() + 0.5, lambda data: None)
    latencies: list[float] = []
    written: dict[bytes, float] = {}

    def came(data: bytes) -> None:
        now = time.time()
        for part in data.split(b"bench-")[1:]:
            number = part.split(b'"')[0]
            if number in written:
                latencies.append(now - written[number])

    before = serving.cpu_s()
    count = round(seconds * EVENTS_PER_S)
    for number in range(count):
        name = f"{number:06}"
        written[name.encode()] = time.time()
        with serving.store.begin() as db:
            journal.note(db, "bench", f"bench-{name}", "x", now_ms=time.time_ns() // 1_000_000)
        _drain(waiting, time.monotonic() + 1 / EVENTS_PER_S, came)
    _drain(waiting, time.monotonic() + 4.0, came)
    used = serving.cpu_s() - before
    waiting.close()
    for line in lines:
        line.close()
    return {
        "listeners": LISTENERS, "events": count, "seconds": seconds,
        "received": len(latencies), "cpu_cores": round(used / (seconds + 4.0), 4),
        "cpu_us": round(1e6 * used / max(1, len(latencies)), 1),
        "latency_s": {k: round(v, 3) for k, v in measure.percentiles(latencies, 50, 99).items()},
    }  # fmt: skip


def _listener(serving: Serving) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", serving.port))
    line.sendall(
        b"GET /v1/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + serving.token.encode()
        + b"\r\n\r\n"
    )
    return line


def _drain(waiting: selectors.BaseSelector, until: float, came: Callable[[bytes], None]) -> None:
    while (left := until - time.monotonic()) > 0:
        for key, _ in waiting.select(left):
            came(key.fileobj.recv(1 << 20))  # type: ignore[union-attr]


# -- what is shown --------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> Table:
    rows = [["path", "requests", "CPU p50, ms", "CPU p99, ms", "wall p99, ms", "worst, its p50"]]
    for route, found in results["pages"].items():
        worst = found["cases"][found["worst"]]
        rows.append(
            [
                f"`{route}`", f"{found['requests']:,}", f"{found['cpu_ms']['p50']:.1f}",
                f"{found['cpu_ms']['p99']:.1f}", f"{found['wall_ms']['p99']:.1f}",
                f"{found['worst']}, {worst['p50']:.1f}",
            ]
        )  # fmt: skip
    anew = results["counted_anew"]
    rows.append(
        [
            "`/v1/overview`, counted anew", f"{anew['times']}", f"{anew['cpu_ms']['p50']:.1f}",
            f"{anew['cpu_ms']['p99']:.1f}", "", "",
        ]
    )  # fmt: skip
    memory, events = results["memory"], results["events"]
    rows.append(
        [
            "memory of the server", f"{memory['requests']:,}", "", "", "",
            f"{memory['resident_mb'][-1]:.0f} MB at the end, {memory['growth_mb']:+.1f} MB",
        ]
    )  # fmt: skip
    rows.append(
        [
            f"`/v1/events/stream`, {events['listeners']} listeners", f"{events['received']:,}", "",
            "", "", f"{events['cpu_us']:.0f} µs of CPU for each, received after "
            f"{events['latency_s']['p50']:.2f} / {events['latency_s']['p99']:.2f} s",
        ]
    )  # fmt: skip
    return rows


def slowest(results: Mapping[str, Any]) -> tuple[str, float]:
    """The list or detail page, by path and case, whose p99 is greatest; and that, in ms."""
    found = {
        f"{route}, {name}": values["p99"]
        for route, page in results["pages"].items()
        if page["kind"] in ("list", "detail")
        for name, values in page["cases"].items()
    }
    worst = max(found, key=lambda name: found[name])
    return worst, found[worst]


def headline(results: dict[str, Any]) -> str:
    name, p99 = slowest(results)
    return f"slowest: {name}: p99 {p99:.0f} ms of CPU; {results['memory']['growth_mb']:+.1f} MB"


if __name__ == "__main__":
    sys.exit(measure.main(sys.modules[__name__]))
