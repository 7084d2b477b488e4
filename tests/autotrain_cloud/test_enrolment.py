"""Enrolment over real HTTPS, from token to certificate to the next one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Response

from autotrain_cloud.ca import Authority
from autotrain_cloud.enrolment import A_DAY, FAILURES, WITHIN_S, Enrolment, Failures, router
from edge_runtime.agent import enrolment as client
from edge_runtime.agent.enrolment import Refused, Renew, Token, Unreachable
from edge_runtime.agent.identity import Identity
from edge_runtime.cli import main
from edge_runtime.commands import enrol as verb
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.https import served


class World:
    """A server, and a clock that the tests may set."""

    def __init__(self, folder: Path) -> None:
        import time

        self.folder = folder
        self.now = time.time()
        self.monotonic = 0.0
        self.authority = Authority.create(folder / "ca")
        self.enrolment = Enrolment(self.authority, clock=lambda: self.now)
        self.application = FastAPI()
        self.application.include_router(router(self.enrolment, Failures(lambda: self.monotonic)))
        self.url = ""

    def identity(self, name: str = "kitchen") -> Identity:
        return Identity(self.folder / "devices" / name)

    def enrolled(self, name: str = "kitchen") -> Identity:
        identity = self.identity(name)
        client.enrol(self.url, self.enrolment.token(name), name, identity)
        return identity

    def issued(self) -> list[str]:
        return [each.name for each in self.authority.ledger.entries() if each.kind == "devices"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with served(world.application, world.authority, tmp_path) as url:
        world.url = url
        yield world


def test_a_token_becomes_a_certificate_and_that_the_next_one(world: World) -> None:
    identity = world.enrolled()
    first = identity.certificate()
    second = client.renew(world.url, identity)
    assert first is not None and first.device == second.device == "kitchen"
    assert identity.certificate() == second != first
    assert world.issued() == ["kitchen", "kitchen"]
    assert identity.trusted.read_bytes() == world.authority.trusted("servers").read_bytes()


def test_a_token_is_of_use_to_one_key_only(world: World) -> None:
    token = world.enrolment.token("kitchen")
    client.enrol(world.url, token, "kitchen", world.identity())
    with pytest.raises(Refused, match=r"401.*used already"):
        client.enrol(world.url, token, "kitchen", Identity(world.folder / "thief"))
    assert world.issued() == ["kitchen"]


def test_an_answer_that_was_lost_is_given_again(world: World) -> None:
    token, identity = world.enrolment.token("kitchen"), world.identity()
    asked = client.Enrol(token.secret, identity.request("kitchen"))
    trusted = world.authority.trusted("servers").read_bytes()
    lost = client.Server(world.url).post("enrol", asked.encode(), trusted)
    got = client.enrol(world.url, token, "kitchen", identity)
    assert client.Answer.decode(lost).certificate == got.pem
    assert world.issued() == ["kitchen"]


def test_expired_unknown_and_foreign_tokens_are_refused(world: World) -> None:
    good = world.enrolment.token("kitchen", valid_s=60)
    unknown = Token("A" * 43, good.fingerprint)
    with pytest.raises(Refused, match=r"401.*unknown"):
        client.enrol(world.url, unknown, "kitchen", world.identity())
    with pytest.raises(Refused, match=r"401.*another device"):
        client.enrol(world.url, good, "bath", world.identity("bath"))
    world.now += 61
    with pytest.raises(Refused, match=r"401.*expired"):
        client.enrol(world.url, good, "kitchen", world.identity())
    assert world.issued() == []


def test_a_prefix_admits_one_new_device_and_takes_over_none(world: World) -> None:
    world.enrolled("room-1")
    tokens = [world.enrolment.token("room-", prefix=True) for _ in range(2)]
    with pytest.raises(Refused, match=r"403.*is enrolled"):
        client.enrol(world.url, tokens[0], "room-1", Identity(world.folder / "thief"))
    with pytest.raises(Refused, match="another device"):
        client.enrol(world.url, tokens[0], "kitchen", world.identity())
    client.enrol(world.url, tokens[0], "room-2", world.identity("room-2"))
    with pytest.raises(Refused, match="used already"):
        client.enrol(world.url, tokens[0], "room-3", world.identity("room-3"))
    assert world.issued() == ["room-1", "room-2"]


def test_a_server_that_the_token_is_not_for_gets_no_secret(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    asked = []
    application = FastAPI()

    @application.post("/enrol")
    def enrol() -> None:
        asked.append("enrol")

    application.include_router(router(other.enrolment))
    token = world.enrolment.token("kitchen")
    with served(application, other.authority, tmp_path / "other") as url:
        with pytest.raises(Refused, match="not the server that the token is for"):
            client.enrol(url, token, "kitchen", world.identity())
        identity = world.enrolled()
        with pytest.raises(Refused, match="does not show that it is the server"):
            client.renew(url, identity)
    assert asked == []


def test_nobody_adds_a_root_to_those_that_a_token_vouches_for(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    application = FastAPI()

    @application.get("/ca.pem")
    def both() -> Response:
        roots = [each.authority.trusted("servers").read_bytes() for each in (world, other)]
        return Response(b"".join(roots))

    with (
        served(application, other.authority, tmp_path / "other") as url,
        pytest.raises(Refused, match="not the server that the token is for"),
    ):
        client.enrol(url, world.enrolment.token("kitchen"), "kitchen", world.identity())
    assert not world.identity().trusted.exists()


def test_devices_learn_of_the_next_root_when_they_renew(world: World, tmp_path: Path) -> None:
    early, late = world.enrolled("early"), world.enrolled("late")
    world.authority.rotate("servers")
    client.renew(world.url, early)
    world.authority.retire("servers")
    with served(world.application, world.authority, tmp_path) as url:  # signed by the new root
        client.renew(url, early)
        with pytest.raises(Refused, match="does not show that it is the server"):
            client.renew(url, late)
        client.enrol(url, world.enrolment.token("late"), "late", late)


def test_a_server_of_ours_cannot_be_another(world: World, tmp_path: Path) -> None:
    identity = world.enrolled()
    with (
        served(world.application, world.authority, tmp_path, name="broker.example") as url,
        pytest.raises(Refused, match="does not show"),
    ):
        client.renew(url, identity)
    assert world.issued() == ["kitchen"]


def test_a_renewal_needs_a_valid_certificate_of_ours_and_its_key(
    world: World, tmp_path: Path
) -> None:
    identity = world.enrolled()
    present = identity.certificate()
    assert present is not None
    request = identity.request("kitchen")

    def ask(request: bytes, certificate: bytes, signature: bytes) -> None:
        with pytest.raises(Refused) as caught:
            trusted = identity.trusted.read_bytes()
            body = Renew(request, certificate, signature).encode()
            client.Server(world.url).post("renew", body, trusted)
        reasons.append(str(caught.value))

    reasons: list[str] = []
    bath = world.enrolled("bath")
    foreign = Authority.create(tmp_path / "foreign")
    stranger = Identity(tmp_path / "stranger")
    theirs = foreign.device(stranger.request("kitchen"), "kitchen")
    stranger.install(theirs, "kitchen")
    ask(request, theirs, stranger.sign(Renew.signed(request)))
    ask(request, present.pem, bath.sign(Renew.signed(request)))
    ask(request, present.pem, identity.sign(request))
    ask(request, present.pem, identity.sign(Renew.signed(identity.request("bath"))))
    other = bath.request("bath")
    ask(other, present.pem, identity.sign(Renew.signed(other)))
    assert ["not issued here" in reasons[0], "not signed by" in reasons[1]] == [True, True]
    assert ["not signed by" in reason for reason in reasons[2:4]] == [True, True]
    assert "another device's" in reasons[4]
    world.now = present.expires
    with pytest.raises(Refused, match="expired; the device needs a new token"):
        client.renew(world.url, identity)
    assert world.issued() == ["kitchen", "bath"]


def test_a_revoked_device_gets_nothing_more(world: World) -> None:
    identity = world.enrolled()
    world.authority.revoke("kitchen")
    with pytest.raises(Refused, match=r"403.*revoked"):
        client.renew(world.url, identity)


def test_a_device_gets_few_certificates_a_day(world: World) -> None:
    identity = world.enrolled()
    for _ in range(A_DAY - 1):
        client.renew(world.url, identity)
    with pytest.raises(Unreachable, match=f"429.*{A_DAY} certificates"):
        client.renew(world.url, identity)
    world.now += 2 * 86400
    client.renew(world.url, identity)


def test_an_address_that_fails_often_must_wait(world: World) -> None:
    good = world.enrolment.token("kitchen")
    bad = Token("A" * 43, good.fingerprint)
    for _ in range(FAILURES):
        with pytest.raises(Refused):
            client.enrol(world.url, bad, "kitchen", world.identity())
    with pytest.raises(Unreachable, match="429"):
        client.enrol(world.url, good, "kitchen", world.identity())
    world.monotonic += WITHIN_S + 1
    client.enrol(world.url, good, "kitchen", world.identity())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[" * 10_000, 400),
        (b"{}", 400),
        (b'{"token": 1, "request": ""}', 400),
        (json.dumps({"token": "x", "request": "nonsense"}).encode(), 400),
        (json.dumps({"request": "", "certificate": "", "signature": "%"}).encode(), 400),
        (b" " * 20_000, 413),
    ],
)
def test_nonsense_is_a_status_and_no_traceback(world: World, body: bytes, status: int) -> None:
    for path in ("enrol", "renew"):
        with pytest.raises(Refused, match=f"answers {status}"):
            trusted = world.authority.trusted("servers").read_bytes()
            client.Server(world.url).post(path, body, trusted)


def test_an_authority_without_its_key_says_so_to_its_operator_only(world: World) -> None:
    token = world.enrolment.token("kitchen")
    key = world.authority.folder / "devices-1.key"
    key.rename(key.with_suffix(".away"))
    with pytest.raises(Unreachable, match=r"503: the authority cannot sign now$"):
        client.enrol(world.url, token, "kitchen", world.identity())
    key.with_suffix(".away").rename(key)
    client.enrol(world.url, token, "kitchen", world.identity())


def test_no_server_is_an_error_that_passes(world: World) -> None:
    with pytest.raises(Unreachable):
        client.enrol("https://127.0.0.1:1", world.enrolment.token("k"), "k", world.identity())
    with pytest.raises(ConfigError, match="https://"):
        client.enrol("http://127.0.0.1:1", world.enrolment.token("k"), "k", world.identity())


def test_the_public_files_are_those_of_the_authority(world: World) -> None:
    assert client.Server(world.url).trusted() == world.authority.trusted("servers").read_bytes()


def test_a_person_enrols_and_renews_with_the_verbs(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["cloud", "token", "kitchen", "--ca", str(world.authority.folder)]) == 0
    token = capsys.readouterr().out
    file = world.folder / "token"
    file.write_text(token)
    folder = world.folder / "identity"
    where = ["--identity", str(folder), "--url", world.url]
    assert enrol("kitchen", *where, "--token", str(file)) == 0
    assert capsys.readouterr().out == f"{folder / 'identity.pem'}\n"
    before = (folder / "identity.pem").read_bytes()
    assert enrol("--renew", *where) == 0
    assert "not yet" in capsys.readouterr().err
    assert (folder / "identity.pem").read_bytes() == before
    assert enrol("--renew", "--force", *where) == 0
    assert (folder / "identity.pem").read_bytes() != before
    monkeypatch.setenv("ENROL_TOKEN", token)
    with pytest.raises(Refused):
        enrol("kitchen", "--identity", str(world.folder / "thief"), "--url", world.url)
    with pytest.raises(ConfigError, match="token: has 3"):
        monkeypatch.setenv("ENROL_TOKEN", "abc")
        enrol("kitchen", *where)


def test_a_person_enrols_without_a_network(world: World) -> None:
    folder, ca = world.folder, str(world.authority.folder)
    where = ["--identity", str(folder / "identity")]
    csr, answer = folder / "kitchen.csr", folder / "kitchen.pem"
    assert enrol("kitchen", *where, "--request", str(csr)) == 0
    command = ["cloud", "ca", "--ca", ca, "sign", str(csr), "--device", "kitchen"]
    assert main([*command, "--out", str(answer)]) == 0
    with pytest.raises(ConfigError, match="--trusted"):
        enrol("kitchen", *where, "--install", str(answer))
    trusted = ["--trusted", str(world.authority.trusted("servers"))]
    with pytest.raises(ConfigError, match="'kitchen'"):
        enrol("bath", *where, "--install", str(answer), *trusted)
    assert enrol("kitchen", *where, "--install", str(answer), *trusted) == 0
    client.renew(world.url, Identity(folder / "identity"))


def enrol(*words: str) -> int:
    """`vitconformer agent enrol`, without the agent."""
    import argparse

    parser = argparse.ArgumentParser()
    verb.configure(parser)
    return verb.run(parser.parse_args(words))
