"""A device through all its updates, with the power cut after every operation in every way."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.contract.bundle import MANIFEST_NAME, FileEntry, Manifest
from edge_runtime.errors import BackendError, BundleError, BundleTampered
from edge_runtime.ota import delta
from edge_runtime.ota.audit import BEGINNING, Audit, verify
from edge_runtime.ota.errors import SourceError
from edge_runtime.ota.fs import Fs, RealFs
from edge_runtime.ota.slots import DELTA, Deltas, Slots
from edge_runtime.ota.update import GOLDEN, Candidate, Event, Record, Refused, State
from tests.edge_runtime.ota.disk import WAYS, PowerCut, PoweredDisk

DELIVERED = 3
SPOILT = 6  # does not pass its self-test
SICK = 7  # passes, and fails on probation
LAST = 8
RELEASES = (4, 5, SPOILT, SICK, LAST)


@pytest.fixture(autouse=True)
def small_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads of a few kilobytes meet the syncs that those of megabytes meet."""
    monkeypatch.setattr("edge_runtime.ota.slots.SYNC_EVERY", 1000)


@functools.cache
def content(release: int) -> dict[str, bytes]:
    """The files of a release; the vocabulary is always the same."""
    model = np.random.default_rng(release).bytes(3000)
    return {"encoder.onnx": model, "tokens.txt": b"a b c", "lm.arpa": model[:900] * 2}


@functools.cache
def manifest(release: int) -> bytes:
    entries = {
        name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        for name, data in content(release).items()
    }
    made = Manifest(
        name="en", version=f"{release}.0", release_counter=release,
        created="2026-01-02T03:04:05Z", frontend="knf_nemo", sample_rate=16000,
        chunk_frames=(8,), default_chunk_ms=80, precisions={"float32": "encoder.onnx"},
        files=entries,
    )  # fmt: skip
    return made.to_json().encode()


@functools.cache
def deltas(release: int) -> tuple[Deltas, dict[str, bytes]]:
    """What was signed of deltas to a release, and their content by digest.

    Release 5 comes as one against release 4, and its language model packed.  That of the last one
    is against another base than it says, and the whole file has to be fetched after all.
    """
    ours, before = content(release), content(release - 1 if release != LAST else 5)
    made = {
        5: [
            ("encoder.onnx", before["encoder.onnx"], before["encoder.onnx"]),
            ("lm.arpa", b"", b""),
        ],
        LAST: [("encoder.onnx", before["encoder.onnx"], b"another")],
    }.get(release, [])
    signed: dict[str, dict[str, FileEntry]] = {}
    contents = {}
    for name, base, real in made:
        data = delta.make(real, ours[name])
        digest = hashlib.sha256(data).hexdigest()
        contents[digest] = data
        entry = FileEntry(sha256=digest, size=len(data))
        signed[hashlib.sha256(ours[name]).hexdigest()] = {hashlib.sha256(base).hexdigest(): entry}
    return signed, contents


def candidate(release: int) -> Candidate:
    digest = hashlib.sha256(manifest(release)).hexdigest()
    return Candidate(release, f"{release}.0", digest)


@dataclass
class Server:
    """Files over a line that gives a few bytes at a time, and counts them."""

    release: int
    sent: int = 0
    asked: list[str] = field(default_factory=list)
    block: int = 700

    def __call__(self, name: str, sha256: str, start: int) -> Iterator[bytes]:
        files = {MANIFEST_NAME: manifest(self.release), **content(self.release)}
        data = deltas(self.release)[1][sha256] if name == DELTA else files[name]
        self.asked.append(name)
        assert hashlib.sha256(data).hexdigest() == sha256
        data = data[start:]
        for at in range(0, len(data), self.block):
            self.sent += len(data[at : at + self.block])
            yield data[at : at + self.block]


def loader(fs: Fs):  # type: ignore[no-untyped-def]
    """Opens a slot as `Bundle.open` does: every file is what the manifest says, or BundleError."""

    def load(slot: str) -> int:
        if slot == GOLDEN:
            return DELIVERED
        try:
            found = Manifest.from_json(fs.read(f"{slot}/{MANIFEST_NAME}"))
            for name, entry in found.files.items():
                if fs.sha256(f"{slot}/{name}") != entry.sha256:
                    raise BundleTampered("differs", file=name)
        except FileNotFoundError as error:
            raise BundleError(f"{error} is missing") from error
        return found.release_counter

    return load


def self_test(release: int) -> None:
    if release == SPOILT:
        raise BackendError("says something else on the golden clip")


class Device:
    """A device that wants `RELEASES`, from one start to the next."""

    def __init__(self, fs: Fs) -> None:
        self.audit = Audit(fs)
        self.slots = Slots(fs, delivered=DELIVERED, load=loader(fs), observe=self.note)
        self.refused: list[str] = []  # deltas

    def note(self, before: Record, event: Event, after: Record) -> None:
        self.audit.write(type(event).__name__, release=after.release)

    def live(self) -> Device:
        """Until there is nothing more to want."""
        slots = self.slots
        assert slots.start() == slots.record.release
        while self.step():
            pass
        return self

    def step(self) -> bool:
        slots, record = self.slots, self.slots.record
        if record.state is State.IDLE:
            return any(self.offered(release) for release in RELEASES)
        assert record.candidate is not None
        if record.state is State.DOWNLOADING:
            # A power cut may have spoilt what was there; then the next try starts anew.
            with contextlib.suppress(BundleTampered):
                release = record.candidate.release
                slots.download(Server(release), deltas(release)[0], self.refused.append)
        elif record.state is State.STAGING:
            slots.stage()
        elif record.state is State.TESTING:
            if slots.test(self_test):
                assert slots.start() == slots.record.release
        elif record.release == SICK:
            slots.fail("many words of low confidence")
            slots.start()
        else:
            slots.commit()
        return True

    def offered(self, release: int) -> bool:
        try:
            self.slots.offer(candidate(release))
        except Refused:
            return False
        return True


def test_updates_run_one_after_the_other_and_what_failed_is_remembered() -> None:
    disk = PoweredDisk()
    device = Device(disk).live()
    slots = device.slots
    assert slots.record.release == slots.record.floor == LAST
    assert len(device.refused) == 1 and "another base" in device.refused[0]
    assert [(f.release, f.reason) for f in slots.record.failed] == [
        (SPOILT, "says something else on the golden clip"),
        (SICK, "many words of low confidence"),
    ]
    assert slots.record.holds[slots.record.fallback] == 5
    assert disk.list(".") == ["A", "B", "audit", "record.0", "record.1"]


@pytest.mark.slow
@pytest.mark.parametrize(("names", "data"), WAYS)
def test_after_a_power_cut_at_any_operation_a_trusted_model_runs_and_the_updates_go_on(
    names: str, data: str
) -> None:
    whole = PoweredDisk()
    Device(whole).live()
    assert whole.done > 150
    page = Path(__file__).parents[3] / "docs" / "updates.md"
    assert f"That is {whole.done * len(WAYS)} cuts." in page.read_text(encoding="utf-8")
    for cut in range(whole.done):
        disk = PoweredDisk(cut_at=cut)
        device = Device(disk)
        with pytest.raises(PowerCut):
            device.live()
        durable = device.slots.record  # what the device had been told was durable
        head = device.audit.head

        disk = disk.after_cut(names, data)
        found = Device(disk)
        running = found.slots.start()
        record = found.slots.record
        assert record.floor >= durable.floor, cut
        assert set(record.failed) >= set(durable.failed), cut
        # The bundle that ran, or one step further: staged and switched to, or rolled back from.
        assert running in {durable.release, durable.holds[durable.fallback]} | (
            {durable.candidate.release} if durable.candidate else set()
        ), cut
        if durable.state is State.IDLE:
            assert running == durable.release, cut

        record = found.live().slots.record
        log = verify(disk)
        assert not log.problems, cut
        assert head in {BEGINNING, log.head, *(entry["previous"] for entry in log.entries)}, cut
        assert record.release == record.floor == LAST, cut
        assert {failure.release for failure in record.failed} == {SPOILT, SICK}, cut


@pytest.mark.parametrize("release", [4, 5])
@pytest.mark.parametrize("every", [1, 100, 700, 1500])
def test_a_line_cut_every_few_bytes_costs_no_byte_twice(every: int, release: int) -> None:
    class Cut(Exception):
        pass

    server = Server(release, block=min(every, 300))

    def fetch(name: str, sha256: str, start: int) -> Iterator[bytes]:
        left = every
        for block in server(name, sha256, start):
            if left <= 0:
                server.sent -= len(block)  # it was not sent
                raise Cut
            left -= len(block)
            yield block

    slots = Device(PoweredDisk()).slots
    slots.start()
    sizes = {MANIFEST_NAME: len(manifest(release)), **{k: len(v) for k, v in content(4).items()}}
    if release == 5:  # of which two files come as deltas, and one is here
        take(slots, 4)
        del sizes["tokens.txt"], sizes["encoder.onnx"], sizes["lm.arpa"]
        sizes |= {digest: len(data) for digest, data in deltas(5)[1].items()}
    slots.offer(candidate(release))
    cuts = 0
    while slots.record.state is State.DOWNLOADING:
        try:
            slots.download(fetch, deltas(release)[0])
        except Cut:
            cuts += 1
    size = sum(sizes.values())
    assert cuts or every > size
    assert server.sent == size


def take(slots: Slots[int], release: int, with_deltas: bool = True) -> Server:
    """A whole update; -> the server, which knows what it was asked for."""
    server = Server(release)
    slots.offer(candidate(release))
    slots.download(server, deltas(release)[0] if with_deltas else None)
    slots.stage()
    assert slots.test(self_test)
    assert slots.start() == release
    slots.commit()
    return server


@pytest.mark.parametrize("with_deltas", [True, False])
def test_files_that_the_running_bundle_has_are_not_fetched_again(with_deltas: bool) -> None:
    slots = Device(PoweredDisk()).slots
    slots.start()
    take(slots, 4)
    asked = take(slots, 5, with_deltas).asked
    assert asked == [
        "manifest.json",
        *(("delta",) * 2 if with_deltas else ("encoder.onnx", "lm.arpa")),
    ]


def test_a_delta_that_fails_is_asked_for_once_and_a_missing_one_not_at_all() -> None:
    for there in (True, False):
        slots = Device(PoweredDisk()).slots
        slots.start()
        if there:
            take(slots, 5)
        slots.offer(candidate(LAST))
        refused: list[str] = []
        server = Server(LAST)

        def cut(name: str, sha256: str, start: int) -> Iterator[bytes]:
            if name == "lm.arpa" and server.asked.count("lm.arpa") < 2:  # noqa: B023
                server.asked.append(name)  # noqa: B023
                raise SourceError("the line was cut")
            return server(name, sha256, start)  # noqa: B023

        while slots.record.state is State.DOWNLOADING:
            with contextlib.suppress(SourceError):
                slots.download(cut, deltas(LAST)[0], refused.append)
        assert server.asked.count("delta") == len(refused) == (1 if there else 0)
        assert server.asked.count("encoder.onnx") == 1


def test_a_delta_that_the_repository_has_not_is_no_reason_to_wait() -> None:
    slots = Device(PoweredDisk()).slots
    slots.start()
    take(slots, 4)
    slots.offer(candidate(5))

    def fetch(name: str, sha256: str, start: int) -> Iterator[bytes]:
        if name == DELTA:
            raise SourceError("answers 404", status=404)
        return Server(5)(name, sha256, start)

    slots.download(fetch, deltas(5)[0])
    assert slots.record.state is State.STAGING


@pytest.mark.parametrize("event", ["give_up", "undo"])
def test_what_is_given_up_or_undone_leaves_what_ran(event: str) -> None:
    disk = PoweredDisk()
    slots = Device(disk).slots
    slots.start()
    take(slots, 4)
    if event == "undo":
        slots.undo("says nonsense")
        assert slots.start() == DELIVERED and slots.record.floor == 4
        with pytest.raises(Refused, match="has failed here: says nonsense"):
            slots.offer(candidate(4))
        with pytest.raises(Refused, match="no bundle to go back to"):
            slots.undo("again")
    else:
        slots.offer(candidate(5))
        slots.download(Server(5))
        slots.stage()
        slots.give_up()
        assert slots.start() == 4 and not slots.record.failed
    assert Device(disk).live().slots.record.release == LAST


@pytest.mark.parametrize("name", ["manifest.json", "encoder.onnx"])
def test_bytes_that_were_not_promised_are_refused_and_the_running_bundle_stays(name: str) -> None:
    def forged(asked: str, sha256: str, start: int) -> Iterator[bytes]:
        data = b"".join(Server(4)(asked, sha256, start))
        return iter([bytes(len(data)) if asked == name else data])

    def endless(asked: str, sha256: str, start: int) -> Iterator[bytes]:
        while True:
            yield bytes(1 << 16)

    disk = PoweredDisk()
    slots = Device(disk).slots
    slots.start()
    slots.offer(candidate(4))
    for fetch in (forged, endless):
        with pytest.raises(BundleTampered, match=r"(\.json|\.onnx): "):
            slots.download(fetch)
        assert slots.record.state is State.DOWNLOADING
        assert slots.start() == DELIVERED
    # Whoever sends wrong bytes cannot make the device turn its back on the release.
    slots.download(Server(4))
    assert slots.record.state is State.STAGING


def test_a_manifest_of_another_release_than_was_signed_is_refused() -> None:
    other = Candidate(9, "9.0", hashlib.sha256(manifest(4)).hexdigest())
    slots = Device(PoweredDisk()).slots
    slots.start()
    slots.offer(other)
    with pytest.raises(BundleError, match=r"release_counter: is 4 \(expected 9\)"):
        slots.download(Server(4))
    slots.give_up()
    assert slots.record.state is State.IDLE and not slots.record.failed


@pytest.mark.parametrize("broken", ["A", "B"])
def test_a_slot_that_rots_is_left_for_the_one_before_it(broken: str) -> None:
    disk = PoweredDisk()
    slots = Device(disk).live().slots
    running, fallback = slots.record.running, slots.record.fallback
    assert {running, fallback} == {"A", "B"}
    disk.write(f"{broken}/encoder.onnx", b"rust")
    found = Device(disk).slots
    assert found.start() == (5 if broken == running else LAST)
    assert found.record.floor == LAST
    # What is offered again is taken again: nothing was wrong with the release.
    if broken == running:
        assert Device(disk).live().slots.record.release == LAST


def test_with_both_slots_gone_the_golden_bundle_runs_and_without_it_the_error_is_told() -> None:
    disk = PoweredDisk()
    Device(disk).live()
    for slot in ("A", "B"):
        disk.remove(f"{slot}/tokens.txt")
    assert Device(disk).slots.start() == DELIVERED

    def nothing(slot: str) -> int:
        raise BundleError("is missing", file=slot)

    with pytest.raises(BundleError, match="golden: is missing"):
        Slots(disk, delivered=DELIVERED, load=nothing).start()


def test_what_ends_the_process_again_and_again_has_failed() -> None:
    disk = PoweredDisk()
    slots = Device(disk).slots
    slots.start()
    slots.offer(candidate(4))
    slots.download(Server(4))
    slots.stage()
    assert slots.test(self_test)
    starts = [Device(disk).slots.start() for _ in range(5)]
    assert starts == [4, 4, 4, DELIVERED, DELIVERED]
    (failure,) = Device(disk).slots.record.failed
    assert failure.release == 4 and "3 times" in failure.reason


CHILD = """
import sys
from pathlib import Path
from edge_runtime.ota.fs import RealFs
from tests.edge_runtime.ota.test_slots import Device
device = Device(RealFs(Path(sys.argv[1])))
device.live()
"""


@pytest.mark.slow
def test_a_process_that_is_killed_at_random_times_never_leaves_a_device_without_a_model(
    tmp_path: Path,
) -> None:
    rng = random.Random(0)
    kills = 0
    for run in range(40):
        root = tmp_path / str(run)
        floor = DELIVERED
        for _ in range(3):
            child = subprocess.Popen([sys.executable, "-c", CHILD, str(root)])
            deadline = time.monotonic() + 10
            while not (root / "record.1").exists() and time.monotonic() < deadline:
                time.sleep(0.001)  # imports are not what is to be interrupted
            time.sleep(rng.uniform(0, 0.05))
            child.send_signal(signal.SIGKILL)
            kills += child.wait() == -signal.SIGKILL
            # Looked at without a start, which would count, and mend what is broken.
            record = Slots(RealFs(root), delivered=DELIVERED, load=loader(RealFs(root))).record
            assert loader(RealFs(root))(record.running) == record.release
            assert record.floor >= floor
            floor = record.floor
        record = Device(RealFs(root)).live().slots.record
        assert record.release == record.floor == LAST
    assert kills > 30
