"""The agent as a process: real sound, a real broker, a real ingest, and all of them taken away."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from autotrain_cloud.settings import StoreSettings
from autotrain_cloud.store import Store, consents, erasure, schema
from autotrain_cloud.store import segments as stored
from edge_runtime.agent.decisions import explain
from tests.autotrain_cloud.processes import IngestProcess
from tests.broker import MOSQUITTO, Broker, free_ports
from tests.edge_runtime.agent.device import AgentProcess, wait_until
from tests.edge_runtime.command_line import ROOT, error_line, vitconformer

needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="Debian: apt install mosquitto")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fleet")


@pytest.fixture(scope="module")
def broker(folder: Path) -> Iterator[Broker]:
    (folder / "broker").mkdir()
    with Broker.start(folder / "broker") as running:
        yield running


@pytest.fixture(scope="module")
def store_settings(folder: Path) -> StoreSettings:
    return StoreSettings(url=f"sqlite:///{folder}/store.db", blobs=str(folder / "blobs"))


@pytest.fixture(scope="module")
def store(store_settings: StoreSettings) -> Iterator[Store]:
    opened = Store.open(store_settings)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def ingest(
    broker: Broker, store_settings: StoreSettings, store: Store, folder: Path
) -> Iterator[IngestProcess]:
    with IngestProcess(broker, store_settings, folder) as running:
        yield running


def in_store(store: Store, device: str) -> list[str]:
    with store.read() as db:
        return sorted(row.id for row in stored.find(db, limit=10_000) if row.device == device)


def count(store: Store, table: str, device: str) -> int:
    with store.read() as db:
        rows = schema.metadata.tables[table]
        query = select(func.count()).select_from(rows).where(rows.c.device == device)
        return db.scalar(query) or 0


def fates(agent: AgentProcess) -> dict[str, str]:
    with closing(sqlite3.connect(agent.state / "outbox.db")) as database:
        waiting = database.execute("SELECT id, state FROM segments").fetchall()
        gone = database.execute("SELECT id, fate FROM fates").fetchall()
    return dict([*waiting, *gone])


def kept_by(agent: AgentProcess) -> set[str]:
    return {each.id for each in explain(agent.state, last=10_000) if each.facts["outcome"]}


@needs_broker
def test_what_is_kept_arrives_and_is_deleted_after_its_receipt(
    broker: Broker, ingest: IngestProcess, store: Store, tmp_path: Path
) -> None:
    agent = AgentProcess(tmp_path / "a", broker, name="kitchen-1")
    out = agent.run("--json")
    finals = [each for each in map(json.loads, out.splitlines()) if each["type"] == "final"]
    assert len(finals) == 12
    kept = sorted(each.id for each in explain(agent.state, last=100) if each.facts["upload"])
    assert len(kept) == 12
    assert in_store(store, "kitchen-1") == kept
    assert fates(agent) == dict.fromkeys(kept, "delivered")
    assert count(store, "telemetry", "kitchen-1") == 1
    with store.read() as db:
        [row] = db.execute(select(schema.devices).where(schema.devices.c.name == "kitchen-1"))
        texts = {each.text for each in stored.find(db, limit=100) if each.device == "kitchen-1"}
    assert row.state == "stopped"
    assert texts == {final["text"] for final in finals}
    plain = vitconformer("transcribe", "--quiet", *sorted((ROOT / "samples").glob("*.flac")))
    assert texts == set(filter(None, plain.stdout.splitlines()))


@needs_broker
def test_without_consent_nothing_is_kept_and_telemetry_still_says_how_it_does(
    broker: Broker, ingest: IngestProcess, store: Store, tmp_path: Path
) -> None:
    agent = AgentProcess(tmp_path / "a", broker, name="silent-1", consent=None)
    agent.run()
    assert in_store(store, "silent-1") == []
    assert fates(agent) == {}
    assert count(store, "telemetry", "silent-1") == 1
    [last] = explain(agent.state, last=1)
    assert "consent: there is none" in last.line


@needs_broker
@pytest.mark.slow
def test_killed_at_any_moment_nothing_kept_is_lost_or_stored_twice(
    broker: Broker, ingest: IngestProcess, store: Store, tmp_path: Path
) -> None:
    agent = AgentProcess(tmp_path / "a", broker, name="attic-1", tables="[audio]\nrepeat = true")
    rng = random.Random(3)
    for before in range(0, 20, 4):
        agent.start()
        wait_until(lambda before=before: agent.state.exists() and len(kept_by(agent)) > before)
        time.sleep(rng.uniform(0, 2))
        agent.kill()
    kept = kept_by(agent)
    agent.config.write_text(agent.config.read_text().replace("repeat = true", ""))
    agent.run()
    assert len(kept) > 16
    found = fates(agent)
    assert set(found.values()) == {"delivered"}
    assert kept <= set(found)
    assert in_store(store, "attic-1") == sorted(found)


@needs_broker
def test_consent_and_erasure_come_from_the_cloud(
    broker: Broker, ingest: IngestProcess, store: Store, tmp_path: Path
) -> None:
    agent = AgentProcess(
        tmp_path / "a", broker, name="hall-1", consent=None, tables="[audio]\nrepeat = true"
    )
    now = time.time_ns() // 1_000_000
    with store.begin() as db:
        consents.grant(db, "hall-1", "c-7", now_ms=now - 3_600_000)
    with agent:
        agent.start(speed="10")
        wait_until(lambda: len(in_store(store, "hall-1")) > 2)
        assert agent.status()["consent"] == {"id": "c-7", "version": 1, "granted": True}
        ids = in_store(store, "hall-1")[:2]
        erasure.erase(store, segments=ids, now_ms=now)
        wait_until(lambda: [fates(agent).get(id) for id in ids] == ["erased", "erased"])
        with store.begin() as db:
            consents.withdraw(db, "hall-1", now_ms=now)
        wait_until(lambda: not agent.status()["consent"]["granted"])
        assert agent.close() == 0
    assert "queued" not in fates(agent).values()
    assert json.loads(agent.ask("explain", "--json", "--last", "1").stdout)["upload"] is False
    later = json.loads(agent.ask("status", "--json").stdout)
    assert later["running"] is False
    assert later["consent"]["granted"] is False


@needs_broker
def test_a_broker_that_forgets_everything_costs_nothing(
    store_settings: StoreSettings, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "broker").mkdir()
    agent_folder = tmp_path / "a"
    with (
        Broker.start(tmp_path / "broker", "max_inflight_messages 10\n") as broker,
        IngestProcess(broker, store_settings, tmp_path, worker='"ingest-2"') as ingest,
        AgentProcess(agent_folder, broker, name="loft-1", tables="[audio]\nrepeat = true") as agent,
    ):
        agent.start(speed="20")
        for seen in (2, 8):
            wait_until(lambda seen=seen: len(in_store(store, "loft-1")) > seen)
            broker.kill()
            broker.restart(forget=True)
        wait_until(lambda: agent.status()["uplink"]["state"] == "up")
        wait_until(lambda: len(in_store(store, "loft-1")) > 12)
        assert agent.close() == 0
        assert ingest.close() == 0
    assert set(fates(agent).values()) == {"delivered"}
    assert in_store(store, "loft-1") == sorted(fates(agent))


@needs_broker
def test_whatever_is_wrong_with_the_broker_is_one_line_and_recognising_goes_on(
    broker: Broker, tmp_path: Path
) -> None:
    [closed] = free_ports(1)
    expired = broker.identity("old-1", days=-1.0)
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "nobody there": ({"port": closed, "name": "kitchen-2"}, "Connection refused"),
        "expired": ({"certificate": expired}, "expired on"),
    }
    for name, (options, expected) in cases.items():
        agent = AgentProcess(tmp_path / name, broker, **options)
        with agent:
            agent.start("--show")
            wait_until(lambda agent=agent, expected=expected: expected in agent.log)
            assert agent.process is not None
            out, _ = agent.process.communicate(timeout=300)
            assert agent.process.returncode == 0
        assert len(out.splitlines()) == 12
        assert agent.log.count(expected) == 1
        assert "Traceback" not in agent.log
        assert list(fates(agent).values()) == ["queued"] * 12


def test_questions_are_answered_while_it_runs_and_after(tmp_path: Path) -> None:
    agent = AgentProcess(
        tmp_path / "a", tables="[audio]\nrepeat = true", sampling="random_share = 1.0"
    )
    with agent:
        agent.start(speed="20")
        wait_until(lambda: agent.state.exists() and "queued" in fates_or_none(agent).values())
        status = agent.status()
        assert (status["running"], status["uplink"]) == (True, None)
        assert status["model"]["name"] == "en-demo"
        assert "en-demo" in agent.ask("status").stdout
        [id] = list(fates(agent))[:1]
        done = agent.ask("explain", id)
        assert id in done.stdout
        assert "dice" in done.stdout
        assert agent.ask("erase", "--segments", id).stdout == "erased 1 segments\n"
        assert agent.ask("erase", "--all").returncode == 0
        assert fates(agent)[id] == "erased"
        assert oct((agent.state / "control.sock").stat().st_mode & 0o777) == "0o600"
        second = agent.ask("run", "--files", str(ROOT / "samples"))
        assert second.returncode == 2
        assert "another process has this outbox open" in second.stderr
        assert agent.close() == 0
    assert agent.ask("erase", "--all").returncode == 0
    resting = agent.ask("status", "--json")
    assert resting.returncode == 1
    assert json.loads(resting.stdout)["outbox"]["queued"] == 0
    assert error_line(agent.ask("explain", "ffff")).endswith("no decision about 'ffff'")


def test_decisions_that_were_not_written_down_yet_are_explained_too(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path / "a", consent=None, tables="[audio]\nrepeat = true")
    with agent:
        agent.start(speed="20")
        for _ in range(3):
            wait_until(lambda: agent.status().get("utterances", 0) > 1)
            heard = agent.status()["utterances"]
            explained = agent.ask("explain", "--json", "--last", "10000").stdout.splitlines()
            assert len(explained) >= heard - 1  # the last one may not be decided yet
        assert agent.close() == 0


def fates_or_none(agent: AgentProcess) -> dict[str, str]:
    try:
        return fates(agent)
    except sqlite3.Error:
        return {}


def test_a_consent_that_ends_takes_what_was_recorded_under_it_along(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path / "a")
    agent.run(files="samples/flite-slt.flac")
    assert list(fates(agent).values()) == ["queued"]
    agent.consent.write_text('id = "c-1')  # a slip of the pen
    agent.run(files="samples/flite-slt.flac")
    assert list(fates(agent).values()) == ["queued"]
    agent.consent.unlink()
    agent.run(files="samples/flite-slt.flac")
    assert list(fates(agent).values()) == ["erased"]


def test_a_terminated_agent_finishes_the_utterance(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path / "a")
    with agent:
        agent.start("--json", files="samples/flite-slt.flac", speed="1")
        assert agent.process is not None
        assert agent.process.stdout is not None
        first = agent.process.stdout.readline()  # the first word: the sentence has three seconds
        agent.process.send_signal(signal.SIGTERM)
        out, _ = agent.process.communicate(timeout=300)
        assert agent.process.returncode == 0
    events = [json.loads(line) for line in [first, *out.splitlines()]]
    assert events[-1]["type"] == "final"
    assert events[-1]["text"]
    assert list(fates(agent).values()) == ["queued"]


def test_a_damaged_bundle_is_a_line_in_the_status_and_the_agent_waits_for_another(
    tmp_path: Path,
) -> None:
    agent = AgentProcess(tmp_path / "a", tables="[audio]\nrepeat = true")
    bundle = tmp_path / "bundle"
    shutil.copytree(ROOT / "bundles" / "en-demo", bundle)
    sound = (bundle / "encoder.onnx").read_bytes()
    (bundle / "encoder.onnx").write_bytes(sound[:-1])
    text = agent.config.read_text().replace(f"{ROOT}/bundles/en-demo", str(bundle))
    agent.config.write_text(text)
    with agent:
        agent.start(speed="10")
        wait_until(
            lambda: "encoder.onnx" in agent.status().get("problems", {}).get("recogniser", "")
        )
        assert agent.status()["model"] is None
        (bundle / "encoder.onnx").write_bytes(sound)
        wait_until(lambda: agent.status()["utterances"])
        assert "recogniser" not in agent.status()["problems"]
        assert agent.close() == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[device]\n", "device: state: is missing (expected a path in quotes)"),
        ("[device]\nstate = 3\n", "device: state: 3 (expected a path in quotes)"),
        ("[devise]\n", "unknown field 'devise'; did you mean 'device'?"),
        ("[device\n", "not TOML"),
        (
            '[device]\nstate="s"\n[recognizer]\nbundle="b"\n[sampling]\nrandom_share=2.0\n',
            "sampling: random_share: 0 to 1, not 2",
        ),
        (
            '[device]\nstate="s"\n[recognizer]\nbundle="b"\n[broker]\nhost="x"\nkey="k"\n',
            "certificate and key: give both or none",
        ),
    ],
)
def test_a_mistake_in_the_settings_is_one_line_with_file_and_key(
    text: str, expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    done = vitconformer("agent", "run", "--config", file)
    assert done.returncode == 2
    line = error_line(done)
    assert line.startswith(str(file))
    assert expected in line
