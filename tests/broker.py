"""A real mosquitto with the project's own configuration, on loopback, for tests and benchmarks.

with Broker.start(tmp_path) as broker:
    certificate, key = broker.identity("kitchen-1")      # a device: at broker.port
    certificate, key = broker.identity("_ingest")        # a service: at broker.service_port
    context = broker.tls("kitchen-1")                    # the same as an ssl.SSLContext
    broker.kill()                                        # -9
    broker.restart(forget=True)                          # same ports, nothing kept
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from autotrain_cloud.ca import KINDS, Authority, Identity

DEPLOY = Path(__file__).parents[1] / "deploy" / "mosquitto"
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
INSTALLED, STATE = "/etc/mosquitto/fleet", "/var/lib/mosquitto/"


class Broker:
    """Made by `start`. `host` is an address; clients check it against the certificate."""

    host = "127.0.0.1"

    def __init__(self, folder: Path, authority: Authority, more: str) -> None:
        self.folder = folder
        self.authority = authority
        self.port, self.service_port, self.plain_port = free_ports(3)
        self._process: subprocess.Popen[bytes] | None = None
        self._install(more)

    @classmethod
    def start(cls, folder: Path, more: str = "") -> Broker:
        """`more` are lines of configuration; `{plain_port}` in them is a port for their use."""
        authority = Authority.create(folder / "authority")
        broker = cls(folder, authority, more)
        broker.restart()
        return broker

    @property
    def ca(self) -> Path:
        """What clients check the broker with."""
        return self.authority.trusted("servers")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text("utf-8", errors="replace")

    def identity(self, name: str, *, days: float | None = None) -> tuple[Path, Path]:
        """-> files with certificate and key; the same ones when asked again."""
        certificate = self.folder / "identities" / f"{name}.pem"
        key = certificate.with_suffix(".key")
        if not certificate.exists() or days is not None:
            made = new_identity(self.authority, name, days=days)
            certificate.parent.mkdir(exist_ok=True)
            certificate.write_bytes(made.certificate)
            key.touch(mode=0o600)
            key.write_bytes(made.key)
        return certificate, key

    def tls(self, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(*self.identity(name))
        return context

    def kill(self) -> None:
        """As a power cut does: nothing is saved."""
        self._end(signal.SIGKILL)

    def restart(self, *, forget: bool = False) -> None:
        """At the same ports, with what was saved, or with nothing."""
        self._end(signal.SIGTERM)
        if forget:
            for path in (self.folder / "state").iterdir():
                path.unlink()
        assert MOSQUITTO, "Debian: apt install mosquitto"
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait()

    def reload(self) -> None:
        """Read certificates, revocation lists and access rules anew."""
        self._copy_trust()
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        time.sleep(0.3)  # it says nothing when it has done so

    def close(self) -> None:
        self._end(signal.SIGTERM)

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _install(self, more: str) -> None:
        """The files of deploy/mosquitto with other paths and ports, as its README says."""
        fleet, state = self.folder / "fleet", self.folder / "state"
        fleet.mkdir()
        state.mkdir()
        server = self.authority.server(["localhost", self.host])
        (fleet / "server.pem").write_bytes(server.certificate)
        (fleet / "server.key").write_bytes(server.key)
        self._copy_trust()
        for path in DEPLOY.glob("*.acl"):
            shutil.copy(path, fleet)
        text = (DEPLOY / "mosquitto.conf").read_text("utf-8")
        for old, new in (
            (INSTALLED, str(fleet)),
            (STATE, f"{state}/"),
            ("listener 8883\n", f"listener {self.port} {self.host}\n"),
            ("listener 8884\n", f"listener {self.service_port} {self.host}\n"),
        ):
            assert old in text, f"deploy/mosquitto/mosquitto.conf: expected {old!r}"
            text = text.replace(old, new)
        if os.getuid() == 0:
            text += "\nuser root\n"  # else it becomes a user who cannot read here
        text += more.format(plain_port=self.plain_port)
        (self.folder / "mosquitto.conf").write_text(text, "utf-8")

    def _copy_trust(self) -> None:
        for kind in KINDS[1:]:
            shutil.copy(self.authority.trusted(kind), self.folder / "fleet")
            shutil.copy(self.authority.revocations(kind), self.folder / "fleet")

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        for port in (self.port, self.service_port):
            while True:
                try:
                    socket.create_connection((self.host, port), timeout=1).close()
                    break
                except OSError:
                    assert self._process is not None
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        self._end(signal.SIGKILL)
                        raise AssertionError(f"mosquitto did not start: {self.log}") from None
                    time.sleep(0.02)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)
            self._process = None


def new_identity(authority: Authority, name: str, *, days: float | None = None) -> Identity:
    """A service's where the name begins with an underscore, else a device's."""
    times = {} if days is None else {"days": days}
    if name.startswith("_"):
        return authority.service(name, **times)
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .sign(key, hashes.SHA256())
    )
    certificate = authority.device(request.public_bytes(Encoding.PEM), name, **times)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(certificate, pem)


def free_ports(count: int) -> list[int]:
    """That nobody listens at now.

    Below those that the system gives to outgoing connections (32768 and up), one of which could
    else have taken a port while its broker was away.
    """
    found: set[int] = set()
    while len(found) < count:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)
