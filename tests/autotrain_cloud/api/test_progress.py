"""A rollout as it is shown is what its log makes it, however much of it was known before."""

from __future__ import annotations

import gc
import random

from sqlalchemy import delete, insert, select, update

from autotrain_cloud.api import reads
from autotrain_cloud.api.progress import Replays
from autotrain_cloud.rollout.controller import Rollout
from autotrain_cloud.rollout.log import Entry
from autotrain_cloud.store import Store
from autotrain_cloud.store.schema import rollout_log
from benchmarks.api_store import rolled_out
from tests.autotrain_cloud.api.fleet import begin
from tests.autotrain_cloud.fleet import NOW

DEVICES = [f"kitchen-{number:05}" for number in range(60)]


def add(store: Store, id: str, entries: list[Entry]) -> None:
    rows = [{"rollout": id, "number": one.number, "entry": one.to_json()} for one in entries]
    with store.begin() as db:
        db.execute(insert(rollout_log), rows)


def shown(store: Store, replays: Replays, id: str) -> tuple[object, list[tuple[object, ...]]]:
    """Its progress, and all of its devices, in pages."""
    with store.read() as db:
        row = reads.rollout(db, id)
        assert row is not None
        found: list[tuple[object, ...]] = []
        while True:
            after = str(found[-1][0]) if found else ""
            page = replays.devices(db, row, status=None, after=after, limit=7)
            found += [tuple(one.values()) for one in page]
            if not page:
                return replays.progress(db, row), found


def test_what_is_followed_is_what_is_read_at_once(store: Store) -> None:
    rollout, entries = rolled_out(1, DEVICES, NOW, ends=True)
    id, followed, rng = rollout.plan.id, Replays(), random.Random(1)
    begin(store, rollout)
    done = 0
    while done < len(entries):
        some = entries[done : done + rng.randrange(1, 30)]
        add(store, id, some)
        done += len(some)
        made = Rollout.replay(rollout.plan, entries[:done])
        progress, devices = shown(store, followed, id)
        assert (progress, devices) == shown(store, Replays(), id)
        assert devices == [
            (name, one.counter, one.status, one.since_ms)
            for name, one in sorted(made.devices.progress.items())
        ]
    assert len(devices) == len(DEVICES)
    with store.begin() as db:  # it is over: nobody reads its log again
        db.execute(delete(rollout_log).where(rollout_log.c.rollout == id))
    assert shown(store, followed, id) == (progress, devices)


def test_devices_are_found_by_status(store: Store) -> None:
    rollout, entries = rolled_out(2, DEVICES, NOW, ends=False)
    begin(store, rollout)
    add(store, rollout.plan.id, entries)
    replays, every = Replays(), shown(store, Replays(), rollout.plan.id)[1]
    with store.read() as db:
        row = reads.rollout(db, rollout.plan.id)
        assert row is not None
        for status in {one[2] for one in every} | {"nothing"}:
            found = replays.devices(db, row, status=str(status), after="", limit=500)
            wanted = [one for one in every if one[2] == status]
            assert [tuple(one.values()) for one in found] == wanted
            assert found[1:3] == replays.devices(
                db, row, status=str(status), after=found[0]["device"] if found else "", limit=2
            )


def test_the_garbage_collector_has_nothing_to_do_with_what_is_shown(store: Store) -> None:
    """A fleet's devices, of every rollout that is at hand, would be looked through again and again:
    that took longer than any page.
    """
    rollout, entries = rolled_out(3, DEVICES, NOW, ends=True)
    begin(store, rollout)
    add(store, rollout.plan.id, entries)
    replays = Replays()
    shown(store, replays, rollout.plan.id)
    gc.collect()
    [one] = replays._over.values()
    assert len(one.devices) == len(DEVICES)
    assert not any(gc.is_tracked(device) for device in one.devices)


def test_a_log_is_read_as_it_was_written(store: Store) -> None:
    """Texts of any kind, between which JSON of the database may put what it likes."""
    rollout, entries = rolled_out(4, DEVICES, NOW, ends=True)
    begin(store, rollout)
    add(store, rollout.plan.id, entries)
    said = {"reason": 'a "word", [half\\ and\n\u2028 ü \U0001f600', "deep": [{"x": 1.5e-9}, None]}
    with store.begin() as db:
        its = rollout_log.c.rollout == rollout.plan.id
        db.execute(update(rollout_log).where(its, rollout_log.c.number == 3).values(entry=said))
    with store.read() as db:
        rows = db.scalars(select(rollout_log.c.entry).where(its).order_by(rollout_log.c.number))
        whole = rows.all()
        assert whole[3] == said
        for number in (-1, 2, len(whole) - 2, len(whole)):
            found = reads.rollout_log_after(db, rollout.plan.id, number)
            assert found == whole[number + 1 :]
