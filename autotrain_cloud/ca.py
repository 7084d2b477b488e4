"""The fleet's certificate authority: three keys, each for one purpose, and files.

::

    CA/servers.pem   signs the broker and the enrolment server; devices and services trust it alone
    CA/devices.pem   signs devices; the broker's listener for devices trusts it alone
    CA/services.pem  signs what runs in the cloud; the broker's other listener trusts it alone
    CA/*-1.key       their private keys, readable by their owner
    CA/*.crl.pem     what of devices and services was revoked
    CA/issued.jsonl  every certificate ever signed

They are three roots and no chain, because a broker trusts a root whole: this way no device's
certificate opens the services' listener, and the key that lies on the enrolment server cannot make
a broker. servers-1.key is what devices trust for years. It is needed once a year, so it can be kept
elsewhere.

A root is followed by the next, devices-1 by devices-2. The new one signs; both are in the files
above, the new one first, until the old one is retired.

Keys are ECDSA P-256, certificates follow RFC 5280. A name is a device's as the contract has it; a
service's begins with an underscore, which no device's can.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from autotrain_cloud.ledger import Entry, Ledger
from edge_runtime.contract.topics import check_device
from edge_runtime.errors import ConfigError, ContractError
from edge_runtime.files import sync_directory, write_atomically

Kind = Literal["servers", "devices", "services"]
KINDS: tuple[Kind, ...] = ("servers", "devices", "services")
AUTHORITY_DAYS, SERVER_DAYS, SERVICE_DAYS, DEVICE_DAYS = 3650, 365, 365, 90
LIST_DAYS = 90  # a broker whose revocation list is older refuses everybody
SKEW = timedelta(hours=1)  # that the clock of whoever checks may be behind

_SERVICE = re.compile(r"_[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """The authority in a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError if there is none."""
        self.folder = folder
        self.ledger = Ledger(folder / "issued.jsonl")
        for kind in KINDS:
            self._roots(kind)

    @classmethod
    def create(cls, folder: Path, fleet: str = "fleet") -> Authority:
        """New keys. Raises ConfigError if there are some."""
        if any(folder.glob("*.key")) or any(folder.glob("*.pem")):
            raise ConfigError(f"{folder}: there is an authority already; move it away")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for kind in KINDS:
            _new_root(folder, kind, f"{fleet} {kind}", 1, [])
        made = cls(folder)
        made.write_lists()
        return made

    def rotate(self, kind: Kind) -> None:
        """From now on, another key signs; what the one before signed is still trusted.

        Raises ConfigError if there is one before that already.
        """
        present, *older = self._roots(kind)
        if older:
            raise ConfigError(f"{self.trusted(kind)}: has an older root; retire that first")
        name, _, number = _name(present).rpartition(" ")
        _new_root(self.folder, kind, name, int(number) + 1, [present])
        self.write_lists()

    def retire(self, kind: Kind) -> None:
        """What earlier keys signed is no longer trusted."""
        present = self._roots(kind)[0]
        write_atomically(self.trusted(kind), present.public_bytes(Encoding.PEM))
        self.write_lists()

    def trusted(self, kind: Kind) -> Path:
        """The file with which to check what this key signed."""
        return self.folder / f"{kind}.pem"

    def revocations(self, kind: Kind) -> Path:
        return self.folder / f"{kind}.crl.pem"

    def server(self, names: Sequence[str], days: float = SERVER_DAYS) -> Identity:
        """For a server under these host names and addresses. Raises ConfigError for none."""
        if not names:
            raise ConfigError("a server's certificate needs a name or address")
        subject = [_address(name) for name in names]
        return self._with_key("servers", names[0], days, x509.SubjectAlternativeName(subject))

    def service(self, name: str, days: float = SERVICE_DAYS) -> Identity:
        """For a part of the cloud, `_ingest`: the broker's access rules know it by this name."""
        if not _SERVICE.fullmatch(name):
            raise ConfigError(
                f"{name!r} is no name of a service (expected '_', then lower-case letters, digits"
                " and '-')"
            )
        return self._with_key("services", name, days)

    def device(self, request: bytes, name: str | None = None, days: float = DEVICE_DAYS) -> bytes:
        """A certificate, PEM, for what a device asks for (PKCS #10, PEM).

        Of the request it takes the key and the name; nothing else a device may ask for. Raises
        ContractError for a request that is none, is not signed by its own key, has a key other than
        ECDSA P-256, or names another device than `name`.
        """
        asked = read_request(request)
        if name is not None and asked.name != name:
            raise ContractError(f"is {asked.name!r}", field="device", expected=repr(name))
        certificate = self._sign("devices", asked.name, asked.key, days)
        return certificate.public_bytes(Encoding.PEM)

    def revoke(self, which: str) -> list[Entry]:
        """All certificates of a name, or one by its serial number; lists are written anew.

        Raises ConfigError if there is none that could still be used.
        """
        now = _now()
        found = [
            each
            for each in self.ledger.entries()
            if which in (each.name, each.serial)
            and each.revoked is None
            and each.expires > now.timestamp()
        ]
        if not found:
            raise ConfigError(
                f"{which!r}: no valid certificate has this name or serial number; "
                "`vitconformer cloud ca list` shows them"
            )
        for each in found:
            self.ledger.revoked(each.serial, int(now.timestamp()))
        self.write_lists()
        return found

    def write_lists(self) -> None:
        """The revocation lists, signed anew; to be done before they are LIST_DAYS old."""
        now = _now()
        entries = self.ledger.entries()
        for kind in KINDS[1:]:
            revoked = [
                x509.RevokedCertificateBuilder()
                .serial_number(int(each.serial, 16))
                .revocation_date(datetime.fromtimestamp(each.revoked, timezone.utc))
                .build()
                for each in entries
                if each.kind == kind and each.revoked is not None and each.expires > now.timestamp()
            ]
            content = b""
            for root in self._roots(kind):
                key = self._key(kind, root)
                builder = (
                    x509.CertificateRevocationListBuilder(revoked_certificates=revoked)
                    .issuer_name(root.subject)
                    .last_update(now - SKEW)
                    .next_update(now + timedelta(days=LIST_DAYS))
                    .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
                    .add_extension(
                        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False
                    )
                )
                content += builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
            write_atomically(self.revocations(kind), content)

    def _with_key(
        self, kind: Kind, name: str, days: float, *more: x509.SubjectAlternativeName
    ) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(kind, name, key.public_key(), days, *more)
        return Identity(certificate.public_bytes(Encoding.PEM), _pem(key))

    def _sign(
        self,
        kind: Kind,
        name: str,
        key: ec.EllipticCurvePublicKey,
        days: float,
        *more: x509.SubjectAlternativeName,
    ) -> x509.Certificate:
        use = (
            ExtendedKeyUsageOID.SERVER_AUTH
            if kind == "servers"
            else ExtendedKeyUsageOID.CLIENT_AUTH
        )
        root = self._roots(kind)[0]
        signer = self._key(kind, root)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            _begin(subject, root.subject, key, signer.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        )
        for extension in more:
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(signer, hashes.SHA256())
        self.ledger.issued(
            Entry(
                serial=f"{certificate.serial_number:x}",
                kind=kind,
                name=name,
                issued=int(_now().timestamp()),
                expires=int(certificate.not_valid_after_utc.timestamp()),
                sha256=certificate.fingerprint(hashes.SHA256()).hex(),
            )
        )
        return certificate

    def _roots(self, kind: Kind) -> list[x509.Certificate]:
        """The one that signs first. Read anew: another process may have exchanged them."""
        path = self.trusted(kind)
        try:
            return x509.load_pem_x509_certificates(path.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read: {error.strerror}; `vitconformer cloud ca init` makes one"
            ) from error
        except ValueError as error:
            raise ConfigError(f"{path}: is no certificate: {error}") from error

    def _key(self, kind: Kind, root: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        path = self.folder / f"{kind}-{_name(root).rpartition(' ')[2]}.key"
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read: {error.strerror}; it is needed to sign {kind}"
            ) from error
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}: is no private key: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != root.public_key():
            raise ConfigError(f"{path}: is not the key of {self.trusted(kind)}")
        return key


def _new_root(
    folder: Path, kind: Kind, name: str, number: int, older: list[x509.Certificate]
) -> None:
    """The key first: whatever is cut off when, the certificate in the file has its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {number}")])
    root = (
        _begin(subject, subject, key.public_key(), key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_atomically(folder / f"{kind}-{number}.key", _pem(key), mode=0o600)
    sync_directory(folder)
    content = b"".join(each.public_bytes(Encoding.PEM) for each in (root, *older))
    write_atomically(folder / f"{kind}.pem", content)
    sync_directory(folder)


def _name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


@dataclass(frozen=True, slots=True)
class Request:
    """What a device asks to have signed; it has proved that it has the key."""

    name: str
    key: ec.EllipticCurvePublicKey


def read_request(pem: bytes) -> Request:
    """Raises ContractError; see `Authority.device`."""
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        signed = request.is_signature_valid
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except Exception as error:  # hostile ASN.1 has many ways to be wrong
        raise ContractError(
            f"cannot be read: {error}", message="certificate request", expected="PKCS #10, PEM"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ContractError("is of another kind", field="key", expected="ECDSA P-256")
    if not signed:
        raise ContractError("is not by the key in it", field="signature")
    if len(names) != 1:
        raise ContractError(f"are {len(names)}", field="common names", expected="one")
    return Request(check_device(names[0].value), key)


def _begin(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    days: float,
) -> x509.CertificateBuilder:
    now = _now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + timedelta(days=days)) - SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _address(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise ConfigError(f"{name!r}: is no host name or address: {error}") from error


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _now() -> datetime:
    return datetime.now(timezone.utc)
