"""What the routes of one application share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from sqlalchemy import Connection, text

from autotrain_cloud import api_tokens
from autotrain_cloud.api import reads
from autotrain_cloud.api.kept import Kept
from autotrain_cloud.api.metrics import Metrics
from autotrain_cloud.api.problems import absent
from autotrain_cloud.api.progress import Replays
from autotrain_cloud.api.queues import Queues
from autotrain_cloud.api.stream import Hub
from autotrain_cloud.api_tokens import Caller
from autotrain_cloud.gate.ledger import read_ledger
from autotrain_cloud.pipeline.controller import Controller
from autotrain_cloud.remembered import Remembered
from autotrain_cloud.service import journal
from autotrain_cloud.service.roll import Rolling
from autotrain_cloud.settings import ApiSettings
from autotrain_cloud.store import Store
from edge_runtime.errors import StorageError

OVERVIEW_S = 5.0  # that counts of everything may be old
CALLER_S = 5.0  # that a token is believed before it is looked up again
NEWEST = 10  # rollouts that are at hand when a server has started
MOST_CALLERS = 1000  # that are remembered

# Pages are short: starting workers or compiling a statement takes longer than most of them, and a
# plan that is right for one device or slice is not for another.
_FOR_PAGES = text(
    "SELECT set_config('statement_timeout', :most, true), set_config('jit', 'off', true),"
    " set_config('max_parallel_workers_per_gather', '0', true),"
    " set_config('plan_cache_mode', 'force_custom_plan', true)"
)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Services:
    """Store, settings, and the parts that may be absent. Threads share it."""

    def __init__(
        self,
        store: Store,
        settings: ApiSettings,
        *,
        controller: Controller | None = None,
        rolling: Rolling | None = None,
    ) -> None:
        self.store, self.settings = store, settings
        self._controller, self._rolling = controller, rolling
        self.hub = Hub(store, poll_s=settings.poll_s)
        self.replays = Replays()
        self.metrics = Metrics(self.look, lambda: self.hub.listeners)
        self._counted: tuple[float, Mapping[str, Any]] | None = None
        self._counting = threading.Lock()
        self._sizes = Kept(self._count, least_s=OVERVIEW_S, name="sizes")
        self.queues = Queues(self.read)
        self.ledger = Remembered(read_ledger, most=1)
        self._callers: dict[str, tuple[float, Caller]] = {}

    @property
    def controller(self) -> Controller:
        if self._controller is None:
            raise absent("no pipeline here: name its settings, `pipeline` under [api]")
        return self._controller

    @property
    def has_pipeline(self) -> bool:
        return self._controller is not None

    @property
    def rolling(self) -> Rolling:
        if self._rolling is None:
            raise absent("this server cannot change rollouts: `vitconformer cloud serve` can")
        return self._rolling

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One state of the store, for queries that end."""
        with self.store.read() as db:
            if db.dialect.name == "postgresql":
                db.execute(_FOR_PAGES, {"most": str(round(1000 * self.settings.query_s))})
            yield db

    def warm(self) -> None:
        """Makes what would take long when it is first asked for. Raises StorageError."""
        self.queues.warm()
        with self.read() as db:
            for row in reads.rollout_page(db, limit=NEWEST):
                self.replays.progress(db, row)

    def note(self, db: Connection, who: Caller, kind: str, subject: str, said: str) -> None:
        """A change, in the journal, in its own transaction: what was done and by whom."""
        journal.note(
            db, kind, subject, f"{who.name}: {said}", now_ms=now_ms(), facts={"who": who.name}
        )

    def noted(self, who: Caller, kind: str, subject: str, said: str) -> None:
        """The same for what was done outside of the database."""
        with self.store.begin() as db:
            self.note(db, who, kind, subject, said)

    def overview(self) -> Mapping[str, Any]:
        """Counts, some seconds old at most; those of large tables older the longer they take.
        Raises StorageError.
        """
        with self._counting:
            if self._counted is None or time.monotonic() - self._counted[0] > OVERVIEW_S:
                with self.read() as db:
                    found = reads.overview(db, now_ms=now_ms())
                self._counted = (time.monotonic(), found)
            return {**self._counted[1], **self._sizes.get()}

    def _count(self) -> Mapping[str, int]:
        with self.read() as db:
            return {**reads.sizes(db), "counted_ms": now_ms()}

    def look(self) -> Mapping[str, Any] | None:
        """For the metrics."""
        try:
            return self.overview()
        except StorageError:
            return None

    def caller(self, secret: str) -> Caller | None:
        """Whose token it is."""
        now = time.monotonic()
        known = self._callers.get(secret)
        if known is not None and now - known[0] < CALLER_S:
            return known[1]
        with self.read() as db:
            found = api_tokens.find(db, secret, now_ms=now_ms())
        if found is None:
            self._callers.pop(secret, None)
            return None
        if len(self._callers) >= MOST_CALLERS:
            self._callers.clear()
        self._callers[secret] = (now, found)
        return found


async def _services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


Here = Annotated[Services, Depends(_services)]


def existing(row: Any, what: str) -> Any:
    """The row. Raises 404 where there is none."""
    if row is None:
        raise HTTPException(404, what)
    return row
