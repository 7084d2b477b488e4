"""Where the bundles are, and the steps of an update that touch the disk.

::

    record.0  record.1      what is remembered (`edge_runtime.ota.record`)
    incoming/               the candidate while it arrives; a file that is not whole has a dot
                            first, a delta a dash; `-` alone: no deltas for this one any more
    A/  B/                  bundles; which one runs is in the record, so a switch is one rename
    (golden)                the bundle the device was delivered with, elsewhere and read-only

    slots = Slots(RealFs(root), delivered=3, load=open_and_check)
    bundle = slots.start()                  # whatever happened before: a bundle that loads
    slots.offer(candidate)                  # from signed metadata
    slots.download(fetch, deltas)           # resumes where it was cut
    slots.stage()
    slots.test(self_test)                   # raises nothing: what fails is remembered
    bundle = slots.start()                  # the new one, on probation
    slots.commit()                          # or slots.fail("why")

Every step can be repeated after a crash, and `record.state` says which one is next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from edge_runtime.contract.bundle import MANIFEST_NAME, MAX_MANIFEST_BYTES, FileEntry, Manifest
from edge_runtime.errors import BundleError, BundleTampered, EdgeError
from edge_runtime.ota import delta
from edge_runtime.ota.errors import SourceError
from edge_runtime.ota.fs import Fs
from edge_runtime.ota.record import RecordStore
from edge_runtime.ota.update import (
    Broken,
    Candidate,
    Downloaded,
    Event,
    Failed,
    Gone,
    Healthy,
    Offered,
    Passed,
    Record,
    Refused,
    Staged,
    Started,
    State,
    Stopped,
    Undone,
    after,
)

INCOMING = "incoming"
DELTA = "delta"  # what a delta is asked for as; it has no other name than its digest
_WHOLE = f"{INCOMING}/-"  # a delta of this release was no good: only whole files from now on
SYNC_EVERY = 1 << 20  # bytes of a download that a power cut may cost

Fetch = Callable[[str, str, int], Iterator[bytes]]  # (file, its SHA-256, from byte) -> the rest
Deltas = Mapping[str, Mapping[str, FileEntry]]  # SHA-256 of a file -> that of a base -> the delta
Observer = Callable[[Record, Event, Record], None]  # before, what happened, after
T = TypeVar("T")


class Slots(Generic[T]):
    """The bundles of one device. One process at a time: whoever makes one holds the lock."""

    def __init__(
        self,
        fs: Fs,
        *,
        delivered: int,
        load: Callable[[str], T],
        observe: Observer = lambda before, event, after: None,
    ) -> None:
        """`delivered`: the release of the golden bundle.  `load(slot)` opens a slot's bundle with
        all that makes it usable, and raises EdgeError if it is not.  `observe` is told of every
        change once it is durable.

        Raises ConfigError if the record is damaged.
        """
        self._fs = fs
        self._load = load
        self._observe = observe
        self._store = RecordStore(fs)
        self.record = self._store.load(delivered)

    def start(self) -> T:
        """At the start of the process, and to change to a bundle that has passed its test.

        Returns the running bundle; one that does not load is replaced by the one before it, and by
        the golden one in the end.  Raises the last error if not even that loads.
        """
        self._apply(Started())
        self._tidy()
        while True:
            slot = self.record.running
            try:
                return self._load(slot)
            except EdgeError as error:
                try:
                    self._apply(Broken(slot, str(error)))
                except Refused:
                    raise error from None

    def offer(self, candidate: Candidate, attempt: str = "") -> None:
        """Takes up a release. Raises Refused for one that is old, has failed, or comes too soon."""
        self._apply(Offered(candidate, attempt))
        self._fs.remove(INCOMING)

    def download(
        self,
        fetch: Fetch,
        deltas: Deltas | None = None,
        refused: Callable[[str], None] = lambda why: None,
    ) -> None:
        """Fetches what is not here yet. Whatever `fetch` raises goes on to the caller, who may try
        again later, or `give_up`.

        A delta that does not lead to the file it is for is told to `refused`; from then on whole
        files are fetched.

        Raises BundleTampered for bytes that are not those promised (they are gone again), and
        BundleError for a manifest that cannot be used.
        """
        fs, candidate = self._fs, self._candidate(State.DOWNLOADING)
        fs.mkdir(INCOMING)
        fs.sync(".")
        # How long a manifest is nobody has said; that it is not endless we know.
        self._fetch(fetch, MANIFEST_NAME, candidate.manifest_sha256, MAX_MANIFEST_BYTES)
        path = f"{INCOMING}/{MANIFEST_NAME}"
        manifest = Manifest.from_json(fs.read(path), file=path)
        if manifest.release_counter != candidate.release:
            raise BundleError(
                f"is {manifest.release_counter}",
                file=path,
                field="release_counter",
                expected=str(candidate.release),
                remedy="publish the release again",
            )
        for name, entry in manifest.files.items():
            against = (deltas or {}).get(entry.sha256, {})
            if against and fs.size(_WHOLE) < 0:
                try:
                    self._patch(fetch, name, entry, against)
                except (BundleTampered, SourceError) as error:
                    if isinstance(error, SourceError) and not error.for_good:
                        raise
                    fs.write(_WHOLE, b"")
                    fs.sync(INCOMING)
                    refused(f"{name}: delta: {error}")
            self._fetch(fetch, name, entry.sha256, entry.size)
        for name in fs.list(INCOMING):
            if name not in manifest.files and name != MANIFEST_NAME:
                fs.remove(f"{INCOMING}/{name}")
        fs.sync(INCOMING)
        self._apply(Downloaded())

    def give_up(self, reason: str = "it was withdrawn") -> None:
        """The release is no longer to be had: forget it, without holding it against it."""
        self._apply(Gone(reason))
        self._tidy()

    def stage(self) -> None:
        """What arrived becomes the content of the free slot, in one rename."""
        fs = self._fs
        self._candidate(State.STAGING)
        slot = self.record.free
        if fs.list(INCOMING):  # else a crash came after the rename
            fs.remove(slot)
            fs.rename(INCOMING, slot)
        fs.sync(".")
        self._apply(Staged())

    def test(self, self_test: Callable[[T], object]) -> bool:
        """Loads the free slot and tries it; True if the next `start` will run it."""
        self._candidate(State.TESTING)
        try:
            self_test(self._load(self.record.free))
        except EdgeError as error:
            self.fail(str(error))
            return False
        self._apply(Passed())
        return True

    def commit(self) -> None:
        """The release on probation has proved itself: only now has the update succeeded."""
        self._apply(Healthy())
        self._tidy()

    def fail(self, reason: str) -> None:
        """The candidate does not work here; on probation the bundle before it runs again."""
        self._apply(Failed(reason))
        self._tidy()

    def undo(self, reason: str) -> None:
        """Goes back from a committed release; the next `start` runs the one before it.

        Raises Refused if there is none.
        """
        self._apply(Undone(reason))

    def stop(self) -> None:
        """The process ends as it should."""
        self._apply(Stopped())

    # -- inside ------------------------------------------------------------------------------------

    def _apply(self, event: Event) -> None:
        before = self.record
        record = after(before, event)
        if record != before:
            self._store.save(record)
            self.record = record
            self._observe(before, event, record)

    def _candidate(self, state: State) -> Candidate:
        candidate = self.record.candidate
        if self.record.state is not state or candidate is None:
            raise Refused(f"{state.value} while {self.record.state.value}")
        return candidate

    def _tidy(self) -> None:
        """Removes what no step needs any more."""
        record = self.record
        if record.state in (State.IDLE, State.PROBATION):
            self._fs.remove(INCOMING)

    def _is(self, path: str, sha256: str) -> bool:
        return self._fs.size(path) >= 0 and self._fs.sha256(path) == sha256

    def _fetch(self, fetch: Fetch, name: str, sha256: str, limit: int) -> None:
        """Makes `name` whole in `incoming/`: at most `limit` bytes, with that digest."""
        fs = self._fs
        whole, part = f"{INCOMING}/{name}", f"{INCOMING}/.{name}"
        if self._is(whole, sha256):
            return
        # Most files of a release are often those of the one before it.
        ours = [f"{slot}/{name}" for slot in self.record.holds]
        same = next(
            (path for path in ours if fs.size(path) == limit and self._is(path, sha256)), None
        )
        if same is not None:
            fs.write(part, fs.read(same))
        elif not self._is(part, sha256):
            self._append(fetch, name, part, sha256, limit)
        self._expect(part, name, sha256)
        fs.sync(part)
        fs.rename(part, whole)

    def _patch(
        self, fetch: Fetch, name: str, entry: FileEntry, against: Mapping[str, FileEntry]
    ) -> None:
        """Makes `name` out of the smallest delta against a file that is here, if there is one.

        Raises BundleTampered if that is not possible.
        """
        fs = self._fs
        whole, part, patch = (f"{INCOMING}/{mark}{name}" for mark in ("", ".", "-"))
        if self._is(whole, entry.sha256) or (fs.size(part) > 0 and fs.size(patch) < 0):
            return  # it is here, or already on its way as a whole
        ours = [f"{slot}/{name}" for slot in self.record.holds]
        bases = {fs.sha256(path): path for path in ours if fs.size(path) >= 0}
        if entry.sha256 in bases:
            return
        known = [sha256 for sha256 in against if sha256 in bases or sha256 == delta.NOTHING]
        if not known:
            return
        base = min(known, key=lambda sha256: against[sha256].size)
        wanted = against[base]
        try:
            if not self._is(patch, wanted.sha256):
                self._append(fetch, DELTA, patch, wanted.sha256, wanted.size)
            self._expect(patch, DELTA, wanted.sha256)
            old = fs.read(bases[base]) if base in bases else b""
            new = delta.apply(old, fs.read(patch), limit=entry.size)
            if hashlib.sha256(new).hexdigest() != entry.sha256:
                raise BundleTampered("makes another file than was signed", file=DELTA)
        except BundleTampered:
            fs.remove(patch)
            raise
        fs.write(part, new)
        fs.sync(part)
        fs.rename(part, whole)
        fs.remove(patch)

    def _append(self, fetch: Fetch, name: str, part: str, sha256: str, limit: int) -> None:
        fs = self._fs
        if fs.size(part) >= limit:  # and still not what it should be
            fs.remove(part)
        size, unsynced = max(fs.size(part), 0), 0
        for block in fetch(name, sha256, size):
            size += len(block)
            if size > limit:
                fs.remove(part)
                raise BundleTampered("does not end", file=name, expected=f"{limit} bytes at most")
            fs.append(part, block)
            unsynced += len(block)
            if unsynced >= SYNC_EVERY:
                fs.sync(part)
                unsynced = 0
        if not size:
            fs.write(part, b"")

    def _expect(self, part: str, name: str, sha256: str) -> None:
        if not self._is(part, sha256):
            self._fs.remove(part)  # a power cut may have spoilt what was there: from the start then
            raise BundleTampered(
                "is not the file that was promised", file=name, expected=f"SHA-256 {sha256[:12]}…"
            )
