"""A device through all its updates, with the power cut after every operation in every way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.contract.bundle import MANIFEST_NAME, FileEntry, Manifest
from edge_runtime.errors import BackendError, BundleError, BundleTampered
from edge_runtime.ota.fs import Fs, RealFs
from edge_runtime.ota.slots import INCOMING, Slots
from edge_runtime.ota.update import GOLDEN, Candidate, Refused, State
from tests.edge_runtime.ota.disk import WAYS, PowerCut, PoweredDisk

DELIVERED = 3
SPOILT = 6  # does not pass its self-test
SICK = 7  # passes, and fails on probation
LAST = 8
RELEASES = (4, 5, SPOILT, SICK, LAST)


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

    def __call__(self, name: str, start: int) -> Iterator[bytes]:
        data = {MANIFEST_NAME: manifest(self.release), **content(self.release)}[name][start:]
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
            try:
                slots.download(Server(record.candidate.release))
            except BundleTampered:
                pass  # a power cut has spoilt what was there; the next try starts anew
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
