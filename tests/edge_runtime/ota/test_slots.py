"""A device through all its updates, with the power cut after every operation in every way."""

from __future__ import annotations

import contextlib
import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.contract.bundle import MANIFEST_NAME, FileEntry, Manifest
from edge_runtime.errors import BackendError, BundleError, BundleTampered
from edge_runtime.ota.fs import Fs, RealFs
from edge_runtime.ota.slots import Slots
from edge_runtime.ota.update import GOLDEN, Candidate, Refused, State
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


def content(release: int) -> dict[str, bytes]:
    """The files of a release; the vocabulary is always the same."""
    model = np.random.default_rng(release).bytes(3000)
    return {"encoder.onnx": model, "tokens.txt": b"a b c", "lm.arpa": model[:900] * 2}


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


def candidate(release: int) -> Candidate:
    digest = hashlib.sha256(manifest(release)).hexdigest()
    return Candidate(release, f"{release}.0", digest)


@dataclass
class Server:
    """Files over a line that gives a few bytes at a time, and counts them."""

    release: int
    sent: int = 0
    block: int = 700

    def __call__(self, name: str, sha256: str, start: int) -> Iterator[bytes]:
        data = {MANIFEST_NAME: manifest(self.release), **content(self.release)}[name]
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
        self.slots = Slots(fs, delivered=DELIVERED, load=loader(fs))

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
                slots.download(Server(record.candidate.release))
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
    slots = Device(disk).live().slots
    assert slots.record.release == slots.record.floor == LAST
    assert [(f.release, f.reason) for f in slots.record.failed] == [
        (SPOILT, "says something else on the golden clip"),
        (SICK, "many words of low confidence"),
    ]
    assert slots.record.holds[slots.record.fallback] == 5
    assert disk.list(".") == ["A", "B", "record.0", "record.1"]


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
        assert record.release == record.floor == LAST, cut
        assert {failure.release for failure in record.failed} == {SPOILT, SICK}, cut


@pytest.mark.parametrize("every", [1, 100, 700, 1500])
def test_a_line_cut_every_few_bytes_costs_no_byte_twice(every: int) -> None:
    class Cut(Exception):
        pass

    server = Server(4, block=min(every, 300))

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
    slots.offer(candidate(4))
    cuts = 0
    while slots.record.state is State.DOWNLOADING:
        try:
            slots.download(fetch)
        except Cut:
            cuts += 1
    size = len(manifest(4)) + sum(map(len, content(4).values()))
    assert cuts or every > size
    assert server.sent == size


def test_files_that_the_running_bundle_has_are_not_fetched_again() -> None:
    device = Device(PoweredDisk())
    slots = device.slots
    slots.start()
    for release in (4, 5):
        slots.offer(candidate(release))
        asked = []

        def fetch(name: str, sha256: str, start: int, at: int = release) -> Iterator[bytes]:
            asked.append(name)  # noqa: B023
            return Server(at)(name, sha256, start)

        slots.download(fetch)
        slots.stage()
        assert slots.test(self_test)
        assert slots.start() == release
        slots.commit()
    assert asked == ["manifest.json", "encoder.onnx", "lm.arpa"]


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
