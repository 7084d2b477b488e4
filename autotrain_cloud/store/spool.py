"""Where audio lies, and its end.

    pack written ──> row in `blobs` ── doom ──> row in `holes` ── bury ──> nothing

A segment's audio is in a pack, on the disk, before its rows are committed. What nothing refers to
any more becomes a hole of its pack; a pack with holes is written anew without them, and then
deleted. Every arrow can be cut off by a crash and is taken up again. A pack that no row knows,
because its transaction was never committed, is found by `sweep`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select, text, update

from autotrain_cloud.store import Store
from autotrain_cloud.store.blobs import Bytes, new_pack, written_ms
from autotrain_cloud.store.schema import blobs, holes, segments
from autotrain_cloud.store.sql import insert_many, insert_values

LEAVE_MS = 3_600_000  # a pack that nobody knows may still be about to be committed
_LOCK = 7_305_004  # of PostgreSQL: one process buries at a time
_WRITER = ThreadPoolExecutor(1, "pack")


class Writing(NamedTuple):
    """Audio on its way to the disk, while the transaction that refers to it goes on."""

    pack: str
    done: Future[str]  # to be waited for before the commit; fails with a StorageError


def keep(
    db: Connection, store: Store, audio: Mapping[str, Bytes], *, now_ms: int
) -> Writing | None:
    """Begins to make audio by its digest durable, what is not there already, if anything is not.

    The pack is for nothing if this transaction is not committed.
    """
    pack = new_pack()
    new = dict(audio)
    if _insert(db, pack, new, now_ms) < len(new):
        ours = delete(blobs).where(blobs.c.pack == pack).returning(blobs.c.digest)
        found = set(db.scalars(ours))
        new = {digest: data for digest, data in audio.items() if digest in found}
        _insert(db, pack, new, now_ms)
    if not new:
        return None
    return Writing(pack, _WRITER.submit(store.blobs.write, list(new.values()), pack))


def _insert(db: Connection, pack: str, audio: Mapping[str, Bytes], now_ms: int) -> int:
    """Rows of a pack with these pieces, but for digests that are there; -> how many."""
    starts = accumulate(map(len, audio.values()), initial=0)
    rows = [
        (digest, len(data), now_ms, pack, start)
        for (digest, data), start in zip(audio.items(), starts, strict=False)
    ]
    rows.sort()  # in one order, or two workers wait for each other
    return insert_values(db, blobs, ("digest", "size", "created_ms", "pack", "start"), rows)


def abandon(store: Store, pack: str) -> None:
    """Deletes the pack of a transaction that failed, where it is certain that it did.

    PostgreSQL may have committed what it could not confirm; there the pack is left to `sweep`.
    """
    if store.engine.dialect.name == "sqlite":
        with store.begin() as db:
            if db.scalar(select(blobs.c.digest).where(blobs.c.pack == pack).limit(1)) is None:
                store.blobs.delete(pack)


def doom(db: Connection, digests: Iterable[str]) -> int:
    """Forgets those of these blobs that no segment refers to any more; -> how many."""
    doomed = 0
    for some in _slices(set(digests)):
        used = select(segments.c.audio).where(segments.c.audio.in_(some))
        unused = blobs.c.digest.in_(some) & blobs.c.digest.not_in(used)
        gone = db.execute(delete(blobs).where(unused).returning(*blobs.c)).mappings().all()
        insert_many(db, holes, [_hole(row) for row in gone])
        doomed += len(gone)
    return doomed


def bury(store: Store) -> int:
    """Rids the packs of what was doomed; -> how many pieces. Raises StorageError."""
    count = 0
    while True:
        with store.begin() as db:
            _one_at_a_time(db)
            pack = db.scalar(select(holes.c.pack).limit(1))
            if pack is None:
                return count
            _move(db, store, pack)
        store.blobs.delete(pack)
        with store.begin() as db:
            count += db.execute(delete(holes).where(holes.c.pack == pack)).rowcount


def sweep(store: Store, *, since_ms: int = 0) -> int:
    """Deletes packs that no row knows, from the day of `since_ms` on; -> how many."""
    before_ms = time.time_ns() // 1_000_000 - LEAVE_MS
    count = 0
    for some in _slices(store.blobs.packs(since_ms)):
        with store.read() as db:
            known = set(db.scalars(select(blobs.c.pack).where(blobs.c.pack.in_(some))))
            known |= set(db.scalars(select(holes.c.pack).where(holes.c.pack.in_(some))))
        for pack in some:
            if pack not in known and written_ms(pack) < before_ms:
                store.blobs.delete(pack)
                count += 1
    bury(store)
    return count


def _move(db: Connection, store: Store, pack: str) -> None:
    """What is still wanted of a pack to a new one."""
    wanted = select(blobs).where(blobs.c.pack == pack).order_by(blobs.c.start)
    if db.dialect.name == "postgresql":
        wanted = wanted.with_for_update()
    rows: Sequence[Any] = db.execute(wanted).all()
    if not rows:
        return
    new = store.blobs.write(
        [store.blobs.read(pack, row.start, row.size, row.digest) for row in rows]
    )
    start = 0
    for row in rows:
        moved = update(blobs).where(blobs.c.digest == row.digest)
        db.execute(moved.values(pack=new, start=start))
        start += row.size


def _one_at_a_time(db: Connection) -> None:
    if db.dialect.name == "postgresql":
        db.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))


def _hole(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("pack", "start", "size")}


def _slices(items: Iterable[str], size: int = 500) -> Iterable[list[str]]:
    some: list[str] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
