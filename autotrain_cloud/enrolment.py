"""The enrolment server: who may have which certificate (edge_runtime.agent.enrolment).

    application.include_router(router(Enrolment(authority)))

It lies on the open network, so what it reads is bounded, whoever fails often is sent away for a
while, and a device that has a certificate gets few more a day.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from autotrain_cloud.ca import Authority, read_request
from autotrain_cloud.ledger import Entry
from autotrain_cloud.tokens import TokenRefused, Tokens
from edge_runtime.agent.enrolment import MAX_BYTES, Answer, Enrol, Renew, Token
from edge_runtime.agent.identity import fingerprint
from edge_runtime.errors import ContractError, EdgeError

log = logging.getLogger(__name__)

BODY_S = 20.0  # in which a body must be there
A_DAY = 5  # certificates that a device may have in one: a key for each try, and then some
FAILURES, WITHIN_S = 10, 600.0  # of one address; more must wait
ADDRESSES = 10_000  # that are remembered


class Denied(Exception):
    """Not this one."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status  # of HTTP
        self.detail = detail


class Failures:
    """How often each address failed of late; forgets the oldest where there are many."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, addresses: int = 10_000
    ) -> None:
        self._clock, self._most = clock, addresses
        self._times: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def too_many(self, address: str) -> bool:
        with self._lock:
            since = self._clock() - WITHIN_S
            return sum(when > since for when in self._times.get(address, ())) >= FAILURES

    def count(self, address: str) -> None:
        with self._lock:
            times = self._times.pop(address, [])
            self._times[address] = [*times[-FAILURES + 1 :], self._clock()]
            if len(self._times) > ADDRESSES:
                self._times.popitem(last=False)


class Enrolment:
    """Decides; `clock` gives seconds since 1970."""

    def __init__(self, authority: Authority, clock: Callable[[], float] = time.time) -> None:
        self.authority = authority
        self._tokens = Tokens(authority.folder / "tokens.db")
        self._clock = clock

    def token(self, name: str, *, valid_s: float = 86400, prefix: bool = False) -> Token:
        """For the device of this name, or one whose name begins so. Raises ConfigError."""
        secret = self._tokens.make(name, self._clock(), valid_s=valid_s, prefix=prefix)
        return Token(secret, fingerprint(self.authority.trusted("servers").read_bytes()))

    def enrol(self, asked: Enrol) -> Answer:
        """Raises Denied, ContractError."""
        request = read_request(asked.request)

        def sign(named: bool) -> bytes:
            if not named and self._valid(request.name):
                # Else whoever has any token could take over any device.
                raise Denied(403, "a device of this name is enrolled; its token must name it")
            return self.authority.device(asked.request, request.name)

        key = request.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        try:
            made = self._tokens.use(asked.secret, request.name, key, self._clock(), sign)
        except TokenRefused as error:
            raise Denied(401, str(error)) from error
        return self._answer(made)

    def renew(self, asked: Renew) -> Answer:
        """Raises Denied, ContractError."""
        request = read_request(asked.request)
        try:
            present = x509.load_pem_x509_certificate(asked.certificate)
            digest = present.fingerprint(hashes.SHA256()).hex()
            key = present.public_key()
        except Exception as error:  # hostile ASN.1 has many ways to be wrong
            raise ContractError(f"cannot be read: {error}", field="certificate") from error
        # Nothing that the certificate says is believed: it is one of ours, byte for byte, or not.
        entry = next((each for each in self._devices() if each.sha256 == digest), None)
        if entry is None or not isinstance(key, ec.EllipticCurvePublicKey):
            raise Denied(403, "the certificate was not issued here")
        try:
            key.verify(asked.signature, Renew.signed(asked.request), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise Denied(403, "the request is not signed by the certificate's key") from None
        now = self._clock()
        if entry.revoked is not None:
            raise Denied(403, "the certificate was revoked")
        if now >= entry.expires:
            raise Denied(403, "the certificate has expired; the device needs a new token")
        if request.name != entry.name:
            raise Denied(403, "the certificate is another device's")
        recent = sum(
            each.name == entry.name and each.issued > now - 86400 for each in self._devices()
        )
        if recent >= A_DAY:
            raise Denied(429, f"{recent} certificates within a day are enough")
        return self._answer(self.authority.device(asked.request, entry.name))

    def _answer(self, certificate: bytes) -> Answer:
        return Answer(certificate, self.authority.trusted("servers").read_bytes())

    def _devices(self) -> list[Entry]:
        return [each for each in self.authority.ledger.entries() if each.kind == "devices"]

    def _valid(self, name: str) -> bool:
        now = self._clock()
        return any(
            each.name == name and each.revoked is None and each.expires > now
            for each in self._devices()
        )


def router(enrolment: Enrolment, failures: Failures | None = None) -> APIRouter:
    """The server's paths, for an application of FastAPI."""
    failed = failures or Failures()
    routes = APIRouter()

    async def answer(request: Request, decide: Callable[[bytes], Answer]) -> Response:
        address = request.client.host if request.client else ""
        if failed.too_many(address):
            return _problem(429, "too many failures from this address; wait ten minutes")
        try:
            body = await asyncio.wait_for(_body(request), BODY_S)
            made = await run_in_threadpool(decide, body)
            return Response(made.encode(), media_type="application/json")
        except (Denied, ContractError, asyncio.TimeoutError) as error:
            failed.count(address)
            log.warning("%s %s: %s", address, request.url.path, error)
            if isinstance(error, Denied):
                return _problem(error.status, error.detail)
            return _problem(400, str(error))
        except EdgeError as error:  # the authority's disk or keys: not for strangers to read
            log.error("cannot sign: %s", error)
            return _problem(503, "the authority cannot sign now")

    @routes.post("/enrol")
    async def enrol(request: Request) -> Response:
        return await answer(request, lambda body: enrolment.enrol(Enrol.decode(body)))

    @routes.post("/renew")
    async def renew(request: Request) -> Response:
        return await answer(request, lambda body: enrolment.renew(Renew.decode(body)))

    @routes.get("/ca.pem")
    def ca() -> Response:
        return _file(enrolment.authority.trusted("servers").read_bytes())

    @routes.get("/crl.pem")
    def crl() -> Response:
        return _file(enrolment.authority.revocations("devices").read_bytes())

    return routes


async def _body(request: Request) -> bytes:
    body = b""
    async for block in request.stream():
        body += block
        if len(body) > MAX_BYTES:
            raise Denied(413, f"at most {MAX_BYTES} bytes")
    return body


def _problem(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail[:200]}, status)


def _file(content: bytes) -> Response:
    return Response(content, media_type="application/x-pem-file")
