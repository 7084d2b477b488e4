"""How a device comes by its certificate, and by the next one: two requests over HTTPS.

POST /enrol    a one-time token and a certificate request  -> certificate
POST /renew    a certificate request, and the present certificate's word for it  -> certificate
GET  /ca.pem   what to check servers with

Bodies are JSON. A token is `SECRET.FINGERPRINT`: the fingerprint is that of ca.pem, so a device
that has a token needs nothing else to know its server. Answers bring ca.pem along, so that devices
learn of the next root while they trust the present one. A token is used up by the first key that it
is used with; the same request may be repeated, so an answer that was lost is not a device that was
lost. What a renewal signs includes the new key, so it is of no use to anybody else.

Whether a server may be asked again is the status of its answer: 4xx is for good.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import ssl
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from edge_runtime.agent.identity import Certificate, Identity, fingerprint
from edge_runtime.contract.fields import shown
from edge_runtime.errors import ConfigError, ContractError, EdgeError

MAX_BYTES = 16_384  # of a body
TIMEOUT_S = 20.0
_TOKEN = re.compile(r"([A-Za-z0-9_-]{43})\.([0-9a-f]{64})", re.ASCII)


class Unreachable(EdgeError):
    """The enrolment server does not answer, or cannot now: try again later."""


class Refused(ConfigError):
    """The enrolment server will not do it; a person must act."""


@dataclass(frozen=True, slots=True)
class Token:
    """What an operator hands to a device."""

    secret: str
    fingerprint: str  # of ca.pem, see identity.fingerprint

    @classmethod
    def parse(cls, text: str) -> Token:
        """Raises ContractError; the message does not repeat the secret."""
        match = _TOKEN.fullmatch(text.strip())
        if match is None:
            raise ContractError(
                f"has {len(text)} characters", field="token", expected="SECRET.FINGERPRINT"
            )
        return cls(*match.groups())

    def __str__(self) -> str:
        return f"{self.secret}.{self.fingerprint}"


@dataclass(frozen=True, slots=True)
class Enrol:
    """A request for the first certificate."""

    secret: str  # of the token
    request: bytes  # PKCS #10, PEM

    def encode(self) -> bytes:
        return json.dumps({"token": self.secret, "request": self.request.decode()}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Enrol:
        """Raises ContractError."""
        fields = _object(data, ("token", "request"))
        return cls(fields["token"], fields["request"].encode())


@dataclass(frozen=True, slots=True)
class Renew:
    """A request for the next certificate."""

    request: bytes  # PKCS #10, PEM
    certificate: bytes  # the present one, PEM
    signature: bytes  # of `signed(request)` by its key

    def encode(self) -> bytes:
        fields = {
            "request": self.request.decode(),
            "certificate": self.certificate.decode(),
            "signature": base64.b64encode(self.signature).decode(),
        }
        return json.dumps(fields).encode()

    @classmethod
    def decode(cls, data: bytes) -> Renew:
        """Raises ContractError."""
        fields = _object(data, ("request", "certificate", "signature"))
        try:
            signature = base64.b64decode(fields["signature"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise ContractError(str(error), field="signature", expected="base64") from error
        return cls(fields["request"].encode(), fields["certificate"].encode(), signature)

    @staticmethod
    def signed(request: bytes) -> bytes:
        """What the signature is of; nothing else that a device signs begins like this."""
        return b"vitconformer renewal 1\n" + request


@dataclass(frozen=True, slots=True)
class Answer:
    """The server's."""

    certificate: bytes  # PEM
    trusted: bytes  # PEM: what to check servers with from now on

    def encode(self) -> bytes:
        fields = {"certificate": self.certificate.decode(), "trusted": self.trusted.decode()}
        return json.dumps(fields).encode()

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        """Raises ContractError."""
        fields = _object(data, ("certificate", "trusted"))
        return cls(fields["certificate"].encode(), fields["trusted"].encode())


def enrol(url: str, token: Token, device: str, identity: Identity) -> Certificate:
    """The device's first certificate. May be repeated after any error.

    Raises Unreachable, Refused, ContractError for a server that answers nonsense.
    """
    server = Server(url)
    trusted = server.trusted()
    if fingerprint(trusted) != token.fingerprint:
        raise Refused(f"{url}: is not the server that the token is for")
    identity.trust(trusted)
    asked = Enrol(token.secret, identity.request(device))
    answer = Answer.decode(server.post("enrol", asked.encode(), trusted))
    return _accept(answer, device, identity)


def renew(url: str, identity: Identity) -> Certificate:
    """The device's next certificate. Raises as `enrol` does; ConfigError before enrolment."""
    present = identity.certificate()
    if present is None or not identity.trusted.exists():
        raise ConfigError(f"{identity.folder}: has no certificate to renew; enrol the device")
    request = identity.request(present.device)
    asked = Renew(request, present.pem, identity.sign(Renew.signed(request)))
    trusted = identity.trusted.read_bytes()
    answer = Answer.decode(Server(url).post("renew", asked.encode(), trusted))
    return _accept(answer, present.device, identity)


def _accept(answer: Answer, device: str, identity: Identity) -> Certificate:
    identity.trust(answer.trusted)
    return identity.install(answer.certificate, device)


class Server:
    """An enrolment server, from outside."""

    def __init__(self, url: str) -> None:
        if not url.startswith("https://"):
            raise ConfigError(f"{url}: the enrolment server (expected https://...)")
        self._url = url.rstrip("/")

    def trusted(self) -> bytes:
        """What it says to check it with: worth nothing until compared with a fingerprint."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return self._ask("GET", "ca.pem", None, context)

    def post(self, path: str, body: bytes, trusted: bytes) -> bytes:
        """The answer of a server that `trusted` has signed."""
        context = ssl.create_default_context(cadata=trusted.decode())
        return self._ask("POST", path, body, context)

    def _ask(self, method: str, path: str, body: bytes | None, tls: ssl.SSLContext) -> bytes:
        url = f"{self._url}/{path}"
        where = urlsplit(url)
        try:
            line = HTTPSConnection(where.hostname or "", where.port, timeout=TIMEOUT_S, context=tls)
            with closing(line):
                line.request(method, where.path, body, {"Content-Type": "application/json"})
                answer = line.getresponse()
                data = answer.read(MAX_BYTES + 1)
        except ssl.SSLCertVerificationError as error:
            raise Refused(f"{url}: does not show that it is the server: {error}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise Unreachable(f"{url}: cannot be reached: {error}") from error
        if len(data) > MAX_BYTES:
            raise ContractError("is too long", field="answer", expected=f"{MAX_BYTES} bytes")
        if answer.status == 200:
            return data
        problem = f"{url}: answers {answer.status}: {_detail(data)}"
        if 400 <= answer.status < 500 and answer.status != 429:
            raise Refused(problem)
        raise Unreachable(problem)


def _detail(data: bytes) -> str:
    try:
        return _object(data, ("detail",))["detail"][:200]
    except ContractError:
        return "no reason given"


def _object(data: bytes, names: tuple[str, ...]) -> dict[str, str]:
    """A JSON object with these texts; others are ignored."""
    if len(data) > MAX_BYTES:
        raise ContractError(f"has {len(data)} bytes", expected=f"at most {MAX_BYTES}")
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"cannot be decoded: {error}", expected="JSON") from error
    if not isinstance(found, dict):
        raise ContractError(f"is {shown(found)}", expected="a JSON object")
    for name in names:
        value = found.get(name)
        if not isinstance(value, str) or not value.isascii():
            raise ContractError("is missing or no text", field=name, expected="ASCII text")
    return {name: found[name] for name in names}
