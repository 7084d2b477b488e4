"""The device's next certificate, in time and by itself.

Whoever keeps house calls `look` now and then; asking the enrolment server happens on a thread of
its own. A fleet that was enrolled on one day does not renew in one minute: when a certificate is
due, a random share of its time is let pass first. What fails is tried again after a random time
whose bound doubles, and stands among the problems until it has worked.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from edge_runtime.agent import enrolment
from edge_runtime.agent.identity import Certificate, Identity
from edge_runtime.agent.problems import Problems
from edge_runtime.errors import EdgeError

log = logging.getLogger("edge_runtime.agent")

SPREAD = 0.05  # of a certificate's time, over which a fleet's renewals are spread
FIRST_PAUSE_S, LAST_PAUSE_S = 60.0, 21_600.0  # bounds of the time to the next attempt
PROBLEM = "certificate"


class Renewal:
    """See the module. `renewed` is called on the renewal's thread, with a certificate in place."""

    def __init__(
        self,
        url: str,
        identity: Identity,
        *,
        problems: Problems,
        renewed: Callable[[], None],
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._identity = identity
        self._problems = problems
        self._renewed = renewed
        self._rng = rng
        self._clock = clock
        self._spread = rng.uniform(0, SPREAD)
        self._failures = 0
        self._next_s = 0.0  # by `clock`
        self._expires: int | None = None
        self._thread: threading.Thread | None = None

    def look(self, now: float) -> None:
        """Begins a renewal if one is due at this Unix time, and does not wait for it."""
        if self._thread is not None and self._thread.is_alive():
            return
        try:
            present = self._identity.certificate()
        except EdgeError as error:
            self._problems.report(PROBLEM, error)
            return
        if present is None:
            self._problems.report(PROBLEM, f"{self._identity.path}: is missing; enrol the device")
            return
        self._expires = present.expires
        if not self._due(present, now):
            self._failures, self._next_s = 0, 0.0
            self._problems.clear(PROBLEM)
        elif self._clock() >= self._next_s:
            self._thread = threading.Thread(target=self._renew, name="renewal", daemon=True)
            self._thread.start()

    def close(self, timeout_s: float = 1.0) -> None:
        """A request on its way may be left to itself: its files are whole at any time."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def status(self) -> dict[str, Any]:
        """For people, and JSON."""
        return {"expires_s": self._expires, "failed_renewals": self._failures}

    def _due(self, present: Certificate, now: float) -> bool:
        return present.renewal_due(now - self._spread * (present.expires - present.begins))

    def _renew(self) -> None:
        try:
            found = enrolment.renew(self._url, self._identity)
        except Exception as error:  # a server may answer anything
            log.debug("renewal failed", exc_info=True)
            bound = min(LAST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures, 20))
            if isinstance(error, enrolment.Refused):
                bound = LAST_PAUSE_S  # a person must act
            self._failures += 1
            self._next_s = self._clock() + bound * self._rng.uniform(0.5, 1)
            known = isinstance(error, EdgeError | OSError)
            self._problems.report(PROBLEM, f"not renewed: {error if known else repr(error)}")
            return
        self._failures, self._next_s = 0, 0.0
        self._expires = found.expires
        self._problems.clear(PROBLEM)
        until = time.strftime("%Y-%m-%d", time.gmtime(found.expires))
        log.info("certificate: renewed, valid until %s", until)
        self._renewed()
