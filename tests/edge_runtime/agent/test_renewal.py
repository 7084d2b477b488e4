"""The agent's certificate is renewed in time, at the real enrolment server and broker."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from autotrain_cloud.ca import Authority
from autotrain_cloud.enrolment import Enrolment, router
from edge_runtime.agent.config import BrokerSettings
from edge_runtime.agent.identity import Certificate, Identity
from edge_runtime.agent.problems import Problems
from edge_runtime.agent.renewal import FIRST_PAUSE_S, LAST_PAUSE_S, Renewal
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.https import served
from tests.broker import MOSQUITTO, Broker
from tests.edge_runtime.agent.device import AgentProcess, wait_until

SHORT_DAYS = 60 / 86_400  # with what clocks may differ by, two thirds of it are over at once
NOBODY = "https://127.0.0.1:1"


class World:
    """A device, its renewal, and a clock for the pauses."""

    def __init__(self, authority: Authority, folder: Path, url: str, name: str = "cellar") -> None:
        self.authority, self.name, self.url = authority, name, url
        self.identity = Identity(folder / name)
        self.identity.trust(authority.trusted("servers").read_bytes())
        self.problems = Problems()
        self.renewed = 0
        self.monotonic = 0.0

    def certify(self, days: float) -> Certificate:
        made = self.authority.device(self.identity.request(self.name), days=days)
        return self.identity.install(made, self.name)

    def renewal(self, url: str | None = None, seed: int = 1) -> Renewal:
        return Renewal(
            url or self.url, self.identity, problems=self.problems, renewed=self.count,
            rng=random.Random(seed), clock=lambda: self.monotonic,
        )  # fmt: skip

    def count(self) -> None:
        self.renewed += 1


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    authority = Authority.create(tmp_path / "ca")
    application = FastAPI()
    application.include_router(router(Enrolment(authority)))
    with served(application, authority, tmp_path) as url:
        yield World(authority, tmp_path, url)


def look(renewal: Renewal, now: float | None = None) -> None:
    """And wait for what that begins."""
    renewal.look(time.time() if now is None else now)
    renewal.close(60)


def test_a_certificate_is_renewed_when_it_is_due_and_not_before(world: World) -> None:
    first = world.certify(days=90)
    renewal = world.renewal()
    look(renewal)
    assert (world.identity.certificate(), world.renewed) == (first, 0)
    short = world.certify(SHORT_DAYS)
    look(renewal)
    after = world.identity.certificate()
    assert after is not None and after.expires > short.expires + 80 * 86_400
    assert (world.renewed, world.problems.current()) == (1, {})
    assert renewal.status() == {"expires_s": after.expires, "failed_renewals": 0}
    look(renewal)
    assert (world.identity.certificate(), world.renewed) == (after, 1)


def test_a_fleet_does_not_renew_in_one_minute(world: World) -> None:
    present = world.certify(days=90)
    lasts = present.expires - present.begins
    due = present.begins + lasts * 2 / 3
    tried = []
    for seed in range(20):
        renewal = world.renewal(NOBODY, seed)
        look(renewal, due - 1)
        assert renewal.status()["failed_renewals"] == 0
        look(renewal, due + lasts * 0.025)
        tried.append(renewal.status()["failed_renewals"])
        look(renewal, due + lasts * 0.05 + 1)
        assert renewal.status()["failed_renewals"] == 1
    assert 5 <= sum(tried) <= 15


def test_a_server_that_is_away_is_asked_ever_less_and_the_problem_is_told(world: World) -> None:
    world.certify(SHORT_DAYS)
    renewal = world.renewal(NOBODY)
    for failures in range(12):
        look(renewal)
        assert renewal.status()["failed_renewals"] == failures + 1
        assert "cannot be reached" in world.problems.current()["certificate"]
        bound = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2**failures)
        world.monotonic += bound / 2 - 1
        look(renewal)
        assert renewal.status()["failed_renewals"] == failures + 1
        world.monotonic += bound / 2 + 1


def test_a_refusal_waits_for_a_person_and_a_new_identity_ends_the_problem(world: World) -> None:
    world.certify(SHORT_DAYS)
    world.authority.revoke(world.name)
    renewal = world.renewal()
    look(renewal)
    assert "revoked" in world.problems.current()["certificate"]
    world.monotonic += LAST_PAUSE_S / 2 - 1
    look(renewal)
    assert (renewal.status()["failed_renewals"], world.renewed) == (1, 0)
    world.certify(days=90)
    look(renewal)
    assert world.problems.current() == {}
    assert renewal.status()["failed_renewals"] == 0


def test_a_device_without_an_identity_is_told_to_enrol(world: World) -> None:
    look(world.renewal())
    assert "enrol the device" in world.problems.current()["certificate"]


@pytest.mark.parametrize(
    ("certificate", "key", "url", "words"),
    [
        ("identity.pem", "identity.pem", "http://enrol.example", "expected https"),
        ("identity.pem", "key.pem", "https://enrol.example", "identity.pem"),
        ("device.pem", "device.pem", "https://enrol.example", "identity.pem"),
    ],
)
def test_a_renewal_that_could_not_work_is_a_mistake_in_the_settings(
    certificate: str, key: str, url: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=f"broker: enrolment: .*{words}"):
        BrokerSettings(
            host="b", ca=Path("ca"), certificate=Path(certificate), key=Path(key), enrolment=url
        )


@pytest.mark.skipif(MOSQUITTO is None, reason="Debian: apt install mosquitto")
def test_a_running_agent_renews_and_connects_with_the_new_certificate(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    with Broker.start(tmp_path / "broker") as broker:
        application = FastAPI()
        application.include_router(router(Enrolment(broker.authority)))
        with served(application, broker.authority, tmp_path) as url:
            world = World(broker.authority, tmp_path, url)
            short = world.certify(SHORT_DAYS)
            agent = AgentProcess(
                tmp_path / "a", broker, certificate=(world.identity.path, world.identity.path),
                tables=f'enrolment = "{url}"\n[audio]\nrepeat = true',
            )  # fmt: skip
            with agent:
                agent.start(speed="1")
                wait_until(lambda: world.identity.certificate() != short)
                after = world.identity.certificate()
                assert after is not None
                renewed_ms = world.identity.path.stat().st_mtime * 1000

                def is_connected_anew() -> bool:
                    status = agent.status()
                    since = (status.get("uplink") or {}).get("since_ms")
                    return since is not None and since >= renewed_ms

                wait_until(is_connected_anew)
                assert agent.status()["certificate"]["expires_s"] == after.expires
                assert agent.close() == 0
