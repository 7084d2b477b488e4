"""What a server makes while it starts, so that nobody waits for it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest

from autotrain_cloud.api import server
from autotrain_cloud.api.app import create_app
from autotrain_cloud.settings import ApiSettings
from autotrain_cloud.store import Store
from benchmarks.api_store import rolled_out
from tests.autotrain_cloud.api.fleet import begin
from tests.autotrain_cloud.fleet import NOW


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_queue_and_rollouts_are_at_hand_and_the_collector_leaves_them_alone(small: Store) -> None:
    rollout, _ = rolled_out(1, ["kitchen-00001"], NOW, ends=True)
    begin(small, rollout)
    services = create_app(small, ApiSettings()).state.services
    services.warm()
    [queue] = services.queues._made.values()
    assert len(queue.items) == 3
    assert list(services.replays._under_way) == [rollout.plan.id]


def test_the_collector_leaves_alone_what_is_there_even_without_a_store(
    small: Store, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(small, ApiSettings())
    with small.begin() as db:
        db.exec_driver_sql("DROP TABLE verdicts")
    before = gc.get_freeze_count()
    with caplog.at_level(logging.WARNING):
        server.warm(app)
    assert "no such table" in caplog.text
    assert gc.get_freeze_count() > before + 10_000
    gc.collect()
    young = len(gc.get_objects())
    assert young < 10_000  # that a collection has to look at
