"""The certificate authority, with OpenSSL's own verification where that is the question."""

import contextlib
import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from autotrain_cloud.ca import KINDS, Authority, read_request
from autotrain_cloud.ledger import Ledger
from edge_runtime.cli import main
from edge_runtime.errors import ConfigError, ContractError
from tests.broker import new_identity


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca")


def request_of(*names: str, key: Any = None) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def verified(authority: Authority, certificate: bytes, kind: str, *options: str) -> bool:
    """What openssl says."""
    path = authority.folder / "leaf.pem"
    path.write_bytes(certificate)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(authority.trusted(kind))]
    return subprocess.run([*command, *options, str(path)], capture_output=True).returncode == 0


def test_openssl_accepts_each_certificate_under_its_own_root_and_purpose_only(
    authority: Authority,
) -> None:
    made = {
        "servers": authority.server(["broker.example", "10.0.0.1"]).certificate,
        "devices": new_identity(authority, "kitchen").certificate,
        "services": new_identity(authority, "_ingest").certificate,
    }
    for kind, certificate in made.items():
        purpose, other = "sslserver", "sslclient"
        if kind != "servers":
            purpose, other = other, purpose
        for root in KINDS:
            assert verified(authority, certificate, root, "-purpose", purpose) == (root == kind)
        assert not verified(authority, certificate, kind, "-purpose", other)
    for name in ("-verify_hostname", "broker.example"), ("-verify_ip", "10.0.0.1"):
        assert verified(authority, made["servers"], "servers", *name)
    assert not verified(authority, made["servers"], "servers", "-verify_ip", "10.0.0.2")


def test_keys_are_readable_by_their_owner_only_and_are_never_replaced(authority: Authority) -> None:
    for path in [authority.folder / f"{kind}-1.key" for kind in KINDS]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="already"):
        Authority.create(authority.folder)


@pytest.mark.parametrize("name", ["_ingest", "a/b", "#", "+", "", "a" * 65, "a b", "ä"])
def test_a_name_that_must_not_be_in_a_topic_is_not_signed(authority: Authority, name: str) -> None:
    with pytest.raises((ContractError, ValueError)):
        authority.device(request_of(name), None)
    assert authority.ledger.entries() == []


def test_a_request_for_another_device_is_refused(authority: Authority) -> None:
    with pytest.raises(ContractError, match="'bath'"):
        authority.device(request_of("kitchen"), "bath")


def test_a_request_with_two_names_or_none_is_refused(authority: Authority) -> None:
    for names in ((), ("kitchen", "bath")):
        with pytest.raises(ContractError, match="common names"):
            authority.device(request_of(*names))


def test_other_kinds_of_key_are_refused(authority: Authority) -> None:
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        with pytest.raises(ContractError, match="P-256"):
            authority.device(request_of("kitchen", key=key))


def test_a_request_that_somebody_changed_is_refused(authority: Authority) -> None:
    pem = request_of("kitchen")
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(Encoding.DER))
    der[der.index(b"kitchen")] = ord("K")
    changed = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(ContractError, match="signature"):
        authority.device(changed)


@given(st.binary(max_size=300), st.integers(0, 400))
def test_bytes_of_any_kind_are_a_request_or_a_contract_error(noise: bytes, where: int) -> None:
    pem = bytearray(REQUEST)
    pem[where : where + len(noise)] = noise
    for data in (noise, bytes(pem)):
        with contextlib.suppress(ContractError):
            read_request(data)


REQUEST = request_of("kitchen")


def test_of_a_request_only_name_and_key_are_taken(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kitchen")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("broker.example")]), False)
        .sign(key, hashes.SHA256())
    )
    pem = authority.device(request.public_bytes(Encoding.PEM), "kitchen")
    extensions = x509.load_pem_x509_certificate(pem).extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with pytest.raises(x509.ExtensionNotFound):
        extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_revoking_a_name_lists_all_its_certificates_and_openssl_refuses_them(
    authority: Authority,
) -> None:
    first, second = (new_identity(authority, "kitchen").certificate for _ in range(2))
    other = new_identity(authority, "bath").certificate
    listed = ("-crl_check", "-CRLfile", str(authority.revocations("devices")))
    assert verified(authority, first, "devices", *listed)
    assert {entry.name for entry in authority.revoke("kitchen")} == {"kitchen"}
    assert not verified(authority, first, "devices", *listed)
    assert not verified(authority, second, "devices", *listed)
    assert verified(authority, other, "devices", *listed)
    with pytest.raises(ConfigError, match="no valid certificate"):
        authority.revoke("kitchen")


def test_after_a_rotation_both_roots_are_trusted_and_revocation_reaches_both(
    authority: Authority,
) -> None:
    old, bad = (new_identity(authority, name).certificate for name in ("kitchen", "bath"))
    again = Authority(authority.folder)  # as in another process, which did not hear of it
    authority.rotate("devices")
    with pytest.raises(ConfigError, match="retire that first"):
        authority.rotate("devices")
    new = new_identity(again, "attic").certificate
    again.revoke("bath")
    listed = ("-crl_check", "-CRLfile", str(again.revocations("devices")))
    accepted = [verified(again, each, "devices", *listed) for each in (old, bad, new)]
    assert accepted == [True, False, True]
    again.retire("devices")
    assert [verified(again, each, "devices", *listed) for each in (old, new)] == [False, True]
    again.rotate("devices")
    assert verified(again, new, "devices", *listed)
    assert verified(again, new_identity(again, "cellar").certificate, "devices", *listed)


def test_a_line_of_the_ledger_that_a_power_cut_tore_is_cut_off(authority: Authority) -> None:
    new_identity(authority, "kitchen")
    path = authority.folder / "issued.jsonl"
    whole = path.read_bytes()
    for cut in (1, 20, len(whole) // 2):
        path.write_bytes(whole + whole[:cut])
        assert [entry.name for entry in Ledger(path).entries()] == ["kitchen"]
    new_identity(authority, "bath")
    assert [entry.name for entry in Ledger(path).entries()] == ["kitchen", "bath"]


def test_a_damaged_ledger_is_an_error_that_names_the_line(authority: Authority) -> None:
    new_identity(authority, "kitchen")
    path = authority.folder / "issued.jsonl"
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(ConfigError, match=r"issued\.jsonl: line 1"):
        authority.ledger.entries()


def test_the_verb_goes_from_request_to_certificate_to_revocation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca, csr, out = tmp_path / "ca", tmp_path / "kitchen.csr", tmp_path / "kitchen.pem"
    csr.write_bytes(REQUEST)
    verb = ["cloud", "ca", "--ca", str(ca)]
    assert main([*verb, "init"]) == 0
    assert main([*verb, "server", "localhost", "127.0.0.1", "--out", str(tmp_path / "s")]) == 0
    assert main([*verb, "service", "_ingest", "--out", str(tmp_path / "s")]) == 0
    assert main([*verb, "sign", str(csr), "--device", "kitchen", "--out", str(out)]) == 0
    assert verified(Authority(ca), out.read_bytes(), "devices")
    assert main([*verb, "revoke", "kitchen"]) == 0
    capsys.readouterr()
    assert main([*verb, "list", "--json"]) == 0
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [entry["name"] for entry in entries] == ["localhost", "_ingest", "kitchen"]
    assert [entry["revoked"] is None for entry in entries] == [True, True, False]
    assert main([*verb, "sign", str(csr), "--device", "bath", "--out", str(out)]) == 2
    assert "'kitchen'" in capsys.readouterr().err
    assert main([*verb, "rotate", "services"]) == 0
    assert (ca / "services.pem").read_text().count("BEGIN") == 2
    assert main([*verb, "retire", "services"]) == 0
    assert (ca / "services.pem").read_text().count("BEGIN") == 1
    assert main([*verb, "crl"]) == 0
    (ca / "devices-1.key").unlink()
    assert main([*verb, "sign", str(csr), "--device", "kitchen", "--out", str(out)]) == 2
    assert "devices-1.key: cannot be read" in capsys.readouterr().err
