"""The interface as its own process: streams of events, ranges, and an end that comes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from autotrain_cloud.api.stream import settled
from autotrain_cloud.service import journal
from autotrain_cloud.store import Store
from tests.autotrain_cloud.api.fleet import add_token, segment_id
from tests.autotrain_cloud.processes import wait_until


class Serving:
    """`vitconformer cloud serve`, really."""

    def __init__(self, store: Store, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = folder / "cloud.toml"
        config.write_text(
            f'[store]\nurl = "sqlite:///{folder}/store.db"\nblobs = "{folder}/blobs"\n'
            f"[api]\nport = {port}\npoll_s = 0.1\nheartbeat_s = 0.3\nstreams = 2\n"
        )
        self.log = folder / "serve.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime", "cloud", "serve", "--config", str(config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        token = add_token(store, "vera", "viewer")
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False,
            headers={"Authorization": f"Bearer {token}"},
        )  # fmt: skip
        wait_until(self._is_up)

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def serving(small: Store, tmp_path: Path) -> Iterator[Serving]:
    found = Serving(small, tmp_path)
    yield found
    found.client.close()
    if found.process.poll() is None:
        found.stop()


def note(store: Store, text: str) -> None:
    with store.begin() as db:
        journal.note(db, "test", "x", text, now_ms=time.time_ns() // 1_000_000)


def numbers(lines: Iterator[str], count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        line = next(lines)
        if line.startswith("data: "):
            found.append(json.loads(line[6:])["number"])
    return found


def test_events_arrive_live_go_on_where_they_ended_and_end_with_the_server(
    small: Store, serving: Serving
) -> None:
    path = "/v1/events/stream"
    with serving.client.stream("GET", path) as one:
        assert one.headers["content-type"].startswith("text/event-stream")
        lines = one.iter_lines()
        assert next(lines).startswith("retry:")
        wait_until(lambda: next(lines) == ": here")  # a heartbeat, and nothing old
        for text in ("first", "second"):
            note(small, text)
        first, second = numbers(lines, 2)
        assert second == first + 1
    with serving.client.stream("GET", path, headers={"Last-Event-ID": str(first)}) as again:
        assert numbers(again.iter_lines(), 1) == [second]
    with (
        serving.client.stream("GET", path, params={"since": 0}) as two,
        serving.client.stream("GET", path) as three,
    ):
        whole = two.iter_lines()  # closes the line when it goes
        assert numbers(whole, second)[-1] == second
        last = three.iter_lines()
        assert next(last).startswith("retry:")  # it counts by now
        refused = serving.client.get(path)
        assert refused.status_code == 503 and "too many streams" in refused.json()["detail"]
        assert refused.headers["retry-after"]
        assert serving.stop() == 0
        assert not [line for line in last if line.startswith("data")]


def test_ranges_and_logs_of_a_real_server(serving: Serving) -> None:
    response = serving.client.get(
        f"/v1/segments/{segment_id(0)}/audio",
        headers={"Range": "bytes=10-19", "X-Request-ID": "mine-1"},
    )
    assert response.status_code == 206 and len(response.content) == 10
    assert response.headers["x-request-id"] == "mine-1"
    assert serving.stop() == 0
    lines = [json.loads(line) for line in serving.log.read_text().splitlines() if line[0] == "{"]
    mine = next(line for line in lines if line.get("request") == "mine-1")
    assert mine["who"] == "vera" and mine["status"] == 206 and mine["bytes"] == 10
    assert mine["route"] == "/v1/segments/{id}/audio"
    assert "vct_" not in serving.log.read_text()


class Row:
    """Of the journal."""

    def __init__(self, number: int, at_ms: int) -> None:
        self.number, self.at_ms = number, at_ms


def test_an_event_after_a_fresh_gap_waits_for_the_one_before() -> None:
    rows = [Row(6, 900), Row(8, 1000)]
    assert settled(rows, 5, 1500) == rows[:1]
    assert settled(rows, 5, 9000) == rows  # what was to be 7 never came
    assert settled([Row(6, 900), Row(7, 950)], 5, 1000)[-1].number == 7
