"""A device's key and certificate, on disk."""

import os
import ssl
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrain_cloud.ca import Authority
from edge_runtime.agent import identity as module
from edge_runtime.agent.enrolment import Answer, Enrol, Renew, Token
from edge_runtime.agent.identity import Certificate, Identity, read_certificate
from edge_runtime.errors import ConfigError, ContractError


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity(tmp_path / "identity")


def enrolled(authority: Authority, identity: Identity, days: float = 90) -> Certificate:
    certificate = authority.device(identity.request("kitchen"), "kitchen", days)
    return identity.install(certificate, "kitchen")


def test_the_key_is_made_on_the_device_and_is_its_owners_alone(
    authority: Authority, identity: Identity
) -> None:
    assert identity.certificate() is None
    request = identity.request("kitchen")
    assert b"PRIVATE" not in request
    enrolled(authority, identity)
    assert [path.name for path in identity.folder.iterdir()] == ["identity.pem"]
    assert stat.S_IMODE(identity.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(identity.folder.stat().st_mode) == 0o700
    ssl.create_default_context().load_cert_chain(identity.path)


def test_a_request_is_repeated_with_the_same_key_until_it_is_answered(
    authority: Authority, identity: Identity
) -> None:
    first = authority.device(identity.request("kitchen"), "kitchen")
    second = authority.device(Identity(identity.folder).request("kitchen"), "kitchen")
    identity.install(first, "kitchen")
    with pytest.raises(ContractError, match="asked with"):
        identity.install(second, "kitchen")  # the question was answered
    third = authority.device(identity.request("kitchen"), "kitchen")
    before = identity.path.read_bytes()
    identity.install(third, "kitchen")
    assert identity.path.read_bytes().split(b"CERT")[0] != before.split(b"CERT")[0]


def test_a_certificate_for_another_key_or_name_is_not_installed(
    authority: Authority, identity: Identity, tmp_path: Path
) -> None:
    before = enrolled(authority, identity)
    other = Identity(tmp_path / "other")
    identity.request("kitchen")
    for pem in (
        authority.device(other.request("kitchen"), "kitchen"),
        authority.device(identity.request("bath"), "bath"),
        b"",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ):
        with pytest.raises(ContractError):
            identity.install(pem, "kitchen")
    assert identity.certificate() == before


def test_a_crash_at_any_write_leaves_the_old_identity_or_the_new(
    authority: Authority, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    enrolled(authority, identity)
    old = identity.certificate()
    answer = authority.device(identity.request("kitchen"), "kitchen")
    new = read_certificate(answer)

    class PowerCut(BaseException):
        pass

    left = 0

    def cut_off(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerCut
            return original(*args, **more)

        return call

    for cut in range(20):
        identity.request("kitchen")  # nothing happens where there is a pending key
        left = cut
        with monkeypatch.context() as patch:
            for name in ("open", "fsync", "replace", "unlink"):
                patch.setattr(os, name, cut_off(getattr(os, name)))
            try:
                identity.install(answer, "kitchen")
                break
            except PowerCut:
                pass
        assert Identity(identity.folder).certificate() in (old, new)
    else:
        pytest.fail("never finished")
    assert cut >= 4
    assert identity.certificate() == new


def test_a_certificate_is_renewed_after_two_thirds_of_its_time(
    authority: Authority, identity: Identity
) -> None:
    found = enrolled(authority, identity)
    third = (found.expires - found.begins) / 3
    assert not found.renewal_due(found.begins + 2 * third - 60)
    assert found.renewal_due(found.begins + 2 * third + 60)
    assert not found.expired(found.expires - 1)
    assert found.expired(found.expires)


def test_a_damaged_identity_is_an_error_that_names_the_file(
    authority: Authority, identity: Identity, tmp_path: Path
) -> None:
    enrolled(authority, identity)
    content = identity.path.read_bytes()
    other = Identity(tmp_path / "other")
    enrolled(authority, other)
    key, certificate = content.split(b"-----BEGIN CERT")
    foreign = other.path.read_bytes().split(b"-----BEGIN CERT")[1]
    for damaged in (
        content[:100],
        b"",
        key,
        b"-----BEGIN CERT" + certificate,
        key + b"-----BEGIN CERT" + foreign,
    ):
        identity.path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"identity\.pem: .*enrol"):
            identity.certificate()
    identity.path.write_bytes(content)
    identity.path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        identity.certificate()


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_a_message_or_a_contract_error(data: bytes) -> None:
    for decode in (Enrol.decode, Renew.decode, Answer.decode, module.read_certificate):
        for noise in (data, b'{"request": "' + data + b'"}'):
            try:
                decode(noise)
            except ContractError:
                continue


@given(st.text(max_size=200))
def test_text_of_any_kind_is_a_token_or_a_contract_error(text: str) -> None:
    with pytest.raises(ContractError) as caught:
        Token.parse(text)
    assert len(text) < 8 or text not in str(caught.value)
