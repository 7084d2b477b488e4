"""Audio from its arrival in the database to its place in the folder or object store, and its end.

    arrived: row with data ── settle ──> row without data, object ── doom ──> row doomed ──> nothing

Every arrow can be cut off by a crash and is taken up again: an object without a row comes about
only if audio is erased in the moment in which it moves, and `sweep` finds it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import Connection, delete, select, update

from autotrain_cloud.store import Store
from autotrain_cloud.store.schema import blobs, segments
from autotrain_cloud.store.sql import insert_many


def settle(store: Store, limit: int = 64) -> int:
    """Moves up to `limit` blobs out of the database, the oldest first; -> how many.

    Raises StorageError; whatever has not moved stays in the database.
    """
    oldest = select(blobs.c.digest, blobs.c.data).where(blobs.c.data.is_not(None))
    with store.read() as db:
        rows = db.execute(oldest.order_by(blobs.c.created_ms).limit(limit)).all()
    for row in rows:
        store.blobs.write(bytes(row.data))
    digests = [row.digest for row in rows]
    if digests:
        with store.begin() as db:
            db.execute(update(blobs).where(blobs.c.digest.in_(digests)).values(data=None))
            known = _known(db, digests)
            for digest in set(digests) - known:  # erased meanwhile
                store.blobs.delete(digest)
    return len(digests)


def doom(db: Connection, digests: Iterable[str]) -> int:
    """Marks those of these blobs that no segment refers to any more; -> how many."""
    doomed = 0
    for some in _slices(set(digests)):
        used = select(segments.c.audio).where(segments.c.audio.in_(some))
        unused = blobs.c.digest.in_(some) & blobs.c.digest.not_in(used)
        doomed += db.execute(update(blobs).where(unused).values(doomed=True, data=None)).rowcount
    return doomed


def bury(store: Store) -> int:
    """Deletes the doomed blobs, objects first; -> how many. Raises StorageError."""
    count = 0
    while True:
        with store.begin() as db:
            rows = select(blobs.c.digest).where(blobs.c.doomed).limit(100)
            if db.dialect.name == "postgresql":
                rows = rows.with_for_update(skip_locked=True)
            digests = list(db.scalars(rows))
            for digest in digests:
                store.blobs.delete(digest)
            db.execute(delete(blobs).where(blobs.c.digest.in_(digests)))
        count += len(digests)
        if not digests:
            return count


def sweep(store: Store) -> int:
    """Deletes objects that no row knows; -> how many. Looks at every object: rarely, and slowly.

    Each gets a doomed row first, and goes as those do: so a segment that brings the same audio
    meanwhile waits, or saves it.
    """
    count = 0
    for some in _slices(store.blobs.digests()):
        with store.begin() as db:
            unknown = sorted(set(some) - _known(db, some))
            rows = [
                {"digest": each, "size": 0, "created_ms": 0, "doomed": True, "data": None}
                for each in unknown
            ]
            insert_many(db, blobs, rows)
            count += len(rows)
    bury(store)
    return count


def _known(db: Connection, digests: Collection[str]) -> set[str]:
    return set(db.scalars(select(blobs.c.digest).where(blobs.c.digest.in_(digests))))


def _slices(items: Iterable[str], size: int = 500) -> Iterable[list[str]]:
    some: list[str] = []
    for item in items:
        some.append(item)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
