"""Who a device is: a key that never leaves it, and a certificate with its name.

::

    DIR/identity.pem    key and certificate, one file, so that they always belong together
    DIR/pending.key     the key of a request that was not answered yet
    DIR/servers.pem     what the broker and the enrolment server are checked with

For an MQTT client, identity.pem is both the certificate's file and the key's. A new certificate
comes with a new key, which is made before it is asked for: whatever is cut off when, the device has
the old identity or the new one, and asks again with the key that it already asked with.

Where there is a TPM, keep the folder on a volume that it unlocks.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.contract.topics import check_device
from edge_runtime.errors import ConfigError, ContractError, StorageError
from edge_runtime.files import sync_directory, write_atomically

try:  # without the extra, this can be imported, and says what is missing when it is used
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )
    from cryptography.x509.oid import NameOID
except ImportError:
    _IS_THERE = False
else:
    _IS_THERE = True

RENEW_AFTER = 2 / 3  # of a certificate's time; the rest is for a network that is down


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a certificate says. Times are seconds since 1970."""

    device: str
    begins: int
    expires: int
    pem: bytes

    def renewal_due(self, now: float) -> bool:
        return now >= self.begins + RENEW_AFTER * (self.expires - self.begins)

    def expired(self, now: float) -> bool:
        return now >= self.expires


class Identity:
    """The identity in a folder, if there is one."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError where the cryptography package is missing."""
        if not _IS_THERE:
            raise ConfigError(
                "a device's identity needs cryptography: pip install 'vitconformer[agent]'"
            )
        self.folder = folder
        self.path = folder / "identity.pem"
        self.trusted = folder / "servers.pem"
        self._pending = folder / "pending.key"

    def certificate(self) -> Certificate | None:
        """None before enrolment. Raises ConfigError for a file that is no identity."""
        content = _read(self.path)
        if content is None:
            return None
        try:
            key, found = _load_key(content), read_certificate(content)
        except ContractError as error:
            raise ConfigError(f"{self.path}: {error}; enrol the device again") from error
        if not _belongs(found, key):
            raise ConfigError(f"{self.path}: key and certificate differ; enrol the device again")
        return found

    def request(self, device: str) -> bytes:
        """A certificate request (PKCS #10, PEM), of the same key until it is answered.

        Raises ContractError for a name that no device may have, StorageError if the key cannot be
        kept.
        """
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_device(device))])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        request = builder.sign(self._pending_key(), hashes.SHA256())
        return request.public_bytes(Encoding.PEM)

    def install(self, pem: bytes, device: str) -> Certificate:
        """Makes a certificate the device's. Raises ContractError for one that is not its own."""
        found = read_certificate(pem)
        if found.device != device:
            raise ContractError(f"is for {found.device!r}", field="certificate", expected=device)
        content = _read(self._pending)
        key = content and _load_key(content)
        if not content or not key or not _belongs(found, key):
            raise ContractError(
                "is not for the key that was asked with", field="certificate",
                expected="the answer to this device's last request",
            )  # fmt: skip
        self._write(self.path, content + found.pem)
        self._pending.unlink()
        return found

    def trust(self, pem: bytes) -> None:
        """From now on, this checks servers."""
        content = b"".join(each.public_bytes(Encoding.PEM) for each in _certificates(pem))
        if content != _read(self.trusted, secret=False):
            self._write(self.trusted, content, mode=0o644)

    def sign(self, data: bytes) -> bytes:
        """With the key of the certificate (ECDSA, SHA-256, DER). Raises ConfigError for none."""
        content = _read(self.path)
        if content is None:
            raise ConfigError(f"{self.path}: there is none; enrol the device first")
        return _load_key(content).sign(data, ec.ECDSA(hashes.SHA256()))

    def _pending_key(self) -> ec.EllipticCurvePrivateKey:
        content = _read(self._pending)
        if content is not None:
            try:
                return _load_key(content)
            except ContractError as error:
                raise ConfigError(f"{self._pending}: {error}; delete it") from error
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._write(self._pending, pem)
        return key

    def _write(self, path: Path, content: bytes, mode: int = 0o600) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(path, content, mode=mode)
            sync_directory(self.folder)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def read_certificate(pem: bytes) -> Certificate:
    """A device's, the first certificate in `pem`. Raises ContractError if it is none.

    It says what it says: whether it is signed by whom, the other side of a connection finds out.
    """
    found = _certificates(pem)[0]
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Certificate(
        device=check_device(names[0].value if len(names) == 1 else None),
        begins=int(found.not_valid_before_utc.timestamp()),
        expires=int(found.not_valid_after_utc.timestamp()),
        pem=found.public_bytes(Encoding.PEM),
    )


def fingerprint(pem: bytes) -> str:
    """SHA-256 of all certificates in it, DER, hexadecimal: of one, what openssl calls so.

    Raises ContractError if there is none.
    """
    found = _certificates(pem)
    return hashlib.sha256(b"".join(each.public_bytes(Encoding.DER) for each in found)).hexdigest()


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(pem)
        for each in found:  # what is read lazily, now
            _ = each.subject, each.not_valid_after_utc
    except Exception as error:  # hostile ASN.1 has many ways to be wrong
        raise ContractError(f"cannot be read: {error}", field="certificate") from error
    return found


def _belongs(certificate: Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    signed = x509.load_pem_x509_certificate(certificate.pem).public_key()
    return signed == key.public_key()


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except Exception as error:  # not PEM, a kind that nobody knows, a password
        raise ContractError(f"cannot be read: {error}", field="private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ContractError("is of another kind", field="private key", expected="ECDSA")
    return key


def _read(path: Path, *, secret: bool = True) -> bytes | None:
    try:
        content = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    if secret and mode & 0o077:
        raise ConfigError(f"{path}: others may read this key (mode {mode:o}): chmod 600 it")
    return content
