"""The agent's small parts: state, consent, control socket, ring of sound, problems, systemd."""

from __future__ import annotations

import json
import logging
import socket
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.agent import control, systemd
from edge_runtime.agent.config import TelemetrySettings
from edge_runtime.agent.consent import Consents, read_consent
from edge_runtime.agent.control import Control, ask
from edge_runtime.agent.problems import Problems
from edge_runtime.agent.prometheus import Exporter
from edge_runtime.agent.ring import AudioRing
from edge_runtime.agent.state import load_budget, next_session
from edge_runtime.agent.telemetry import Window
from edge_runtime.contract.messages import Consent
from edge_runtime.errors import ConfigError, StorageError


def test_sessions_rise_whatever_happens_to_the_file(tmp_path: Path) -> None:
    assert [next_session(tmp_path) for _ in range(3)] == [1, 2, 3]
    (tmp_path / "session").write_bytes(b"\0\0\0")
    begin = int(time.time())
    assert next_session(tmp_path) >= begin
    assert next_session(tmp_path) > begin


def test_a_budget_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    budget = load_budget(tmp_path)
    assert budget is not None
    assert budget.day == ""
    for text in ("", "[]", '{"day": "2026-01-01", "segments": "many"}', '{"other": 1}'):
        (tmp_path / "budget.json").write_text(text)
        assert load_budget(tmp_path) is None


def said(version: int, *, id: str = "cloud", granted: bool = True) -> Consent:
    return Consent(id=id, version=version, granted=granted, from_ms=0)


def test_the_newest_word_of_the_cloud_counts_also_after_a_restart(tmp_path: Path) -> None:
    consents = Consents(tmp_path, None)
    assert consents.current is None
    assert consents.hear(said(2))
    assert not consents.hear(said(1, granted=False))
    assert not consents.hear(said(2))
    assert Consents(tmp_path, None).current == said(2)
    assert consents.hear(said(3, granted=False))
    assert Consents(tmp_path, None).current == said(3, granted=False)
    (tmp_path / "consent.cbor").write_bytes(b"\xff")
    assert Consents(tmp_path, None).current is None


def test_a_consent_on_the_device_decides_and_the_cloud_can_only_end_it(tmp_path: Path) -> None:
    file = tmp_path / "consent.toml"
    consents = Consents(tmp_path, file)
    consents.hear(said(1))
    consents.refresh()
    assert consents.current is None
    file.write_text('id = "desk"\nfrom = 2026-01-01T00:00:00Z\nretention_days = 5\n')
    consents.refresh()
    assert consents.current is not None
    assert (consents.current.id, consents.current.retention_days) == ("desk", 5)
    assert consents.current.from_ms == 1_767_225_600_000
    consents.hear(said(2, granted=False))
    assert consents.current.granted
    consents.hear(said(3, id="desk", granted=False))
    assert not consents.current.granted
    file.unlink()
    consents.refresh()
    assert consents.current is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "id: is missing"),
        ('id = "a b"', "id: "),
        ('id = "a"\nfrom = 2026-01-01', "from: 2026-01-01 (expected a time"),
        ('id = "a"\npurpose = "x"', "did you mean 'purposes'?"),
        ('id = "a"\nretention_days = 0', "retention_days"),
    ],
)
def test_a_mistake_in_a_consent_is_no_consent(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "consent.toml"
    file.write_text('id = "good"')
    consents = Consents(tmp_path, file)
    consents.refresh()
    assert consents.current is not None
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        consents.refresh()
    assert str(caught.value).startswith(str(file))
    assert expected in str(caught.value)
    assert consents.current is None
    with pytest.raises(ConfigError):
        read_consent(file)


def test_the_control_socket_answers_and_survives_nonsense(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)  # a path too long for a Unix socket's name
    folder.mkdir()
    assert ask(folder, {"do": "status"}) is None

    def fails(request: object) -> dict[str, int]:
        raise StorageError("no disk")

    answers = {
        "status": lambda request: {"echo": request["n"]},
        "fail": fails,
        "bug": lambda _: 1 / 0,
    }
    made = Control(folder, answers)  # type: ignore[arg-type]
    try:
        assert ask(folder, {"do": "status", "n": 7}) == {"echo": 7}
        with pytest.raises(StorageError, match="the agent refused: no disk"):
            ask(folder, {"do": "fail"})
        with pytest.raises(StorageError, match="division by zero"):
            ask(folder, {"do": "bug"})
        for line in (b"\xff\n", b"[]\n", b'{"do": []}\n', b'{"do": "nothing"}\n', b"\n"):
            with (
                socket.socket(socket.AF_UNIX) as connection,
                control._address(folder / control.NAME) as address,
            ):
                connection.connect(address)
                connection.sendall(line)
                answer = json.loads(connection.makefile().readline())
            assert answer["ok"] is False
            assert "bug, fail, status" in answer["error"]
        assert (folder / control.NAME).stat().st_mode & 0o777 == 0o600
        assert ask(folder, {"do": "status", "n": 8}) == {"echo": 8}
    finally:
        made.close()
    assert ask(folder, {"do": "status"}) is None
    (folder / control.NAME).touch()  # what a killed agent leaves behind, near enough
    Control(folder, {}).close()


@given(st.lists(st.integers(0, 50), max_size=30), st.floats(0, 40), st.floats(0, 40))
def test_the_ring_gives_back_what_it_holds_of_what_is_asked_for(
    sizes: list[int], start_s: float, end_s: float
) -> None:
    ring, whole = AudioRing(10.0, 10), np.zeros(0, np.float32)
    for size in sizes:
        block = np.arange(len(whole), len(whole) + size, dtype=np.float32)
        whole = np.concatenate([whole, block])
        ring.push(block)
    pieces, first_s = ring.cut(start_s, end_s)
    found = np.concatenate([np.zeros(0, np.float32), *pieces])
    first = round(first_s * 10)
    assert np.array_equal(found, whole[first : first + len(found)])
    held = whole[-100:]
    wanted = whole[round(start_s * 10) : round(end_s * 10)]
    assert set(wanted) & set(held) <= set(found) <= set(wanted)
    assert ring.end_s == len(whole) / 10


def test_the_same_problem_is_one_line_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    problems = Problems()
    for _ in range(5):
        with problems.watching("disk"):
            raise StorageError("is\nfull")
    assert list(problems.current()) == ["disk"]
    assert problems.current()["disk"].startswith("is full (since ")
    with problems.watching("disk"):
        pass
    assert problems.current() == {}
    assert [record.message for record in caplog.records] == ["disk: is full", "disk: works again"]


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        systemd.notify("READY=1", "STATUS=fine")
        assert manager.recv(100) == b"READY=1\nSTATUS=fine"
    systemd.notify("WATCHDOG=1")  # the manager is gone
    monkeypatch.setenv("WATCHDOG_USEC", "120000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert systemd.watchdog_s() == 60
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd.watchdog_s() is None


def test_metrics_can_be_fetched() -> None:
    total = Window(start_ms=0, utterances=3)
    total.confidence.add(0.42)
    total.selected["unsure"] += 2
    settings = TelemetrySettings(prometheus=True, prometheus_port=0)
    exporter = Exporter(settings, lambda: total, lambda: {"memory_bytes": 5.0})
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        exporter.close()
    for line in (
        "vitconformer_utterances_total 3.0",
        'vitconformer_confidence_bucket{le="0.45"} 1.0',
        'vitconformer_confidence_bucket{le="0.4"} 0.0',
        'vitconformer_selected_total{reason="unsure"} 2.0',
        "vitconformer_memory_bytes 5.0",
    ):
        assert line in text.splitlines()
