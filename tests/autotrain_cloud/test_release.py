"""The repository from both ends: published here, and believed or not by a device."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Targets

from autotrain_cloud.release import KeyRing, Repository
from edge_runtime.bundle import Bundle, write_bundle
from edge_runtime.contract.bundle import Manifest
from edge_runtime.errors import BundleTampered, ConfigError, EdgeError
from edge_runtime.ota.errors import SourceError, TrustError
from edge_runtime.ota.fs import RealFs
from edge_runtime.ota.http import HttpSource, LineLimits
from edge_runtime.ota.slots import Slots
from edge_runtime.ota.trust import Trust
from edge_runtime.ota.update import State
from tests.autotrain_cloud.server import Server

DAY = 86400.0
FAMILY = "en"


def bundle(folder: Path, release: int) -> Bundle:
    manifest = Manifest(
        name=FAMILY, version=f"{release}.0", release_counter=release,
        created="2026-01-02T03:04:05Z", frontend="knf_nemo", sample_rate=16000,
        chunk_frames=(8,), default_chunk_ms=80, precisions={"float32": "encoder.onnx"},
    )  # fmt: skip
    files: dict[str, Path | bytes] = {"encoder.onnx": b"%d" % release * 999, "tokens.txt": b"a b"}
    return write_bundle(folder / f"bundle-{release}", manifest, files)


class World:
    """A repository with release 4, a server, and devices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repo, self.keys = folder / "repo", folder / "keys"
        self.repository = Repository.create(self.repo, self.keys, [FAMILY, "de"])
        self.root = (self.repo / "metadata" / "1.root.json").read_bytes()
        self.repository.publish(bundle(folder, 4), {"sm": "87"})
        self.server = Server(self.repo)
        self.now = time.time()

    def again(self) -> Repository:
        """As another process finds it."""
        return Repository(self.repo, KeyRing.load(self.keys))

    def trust(self, name: str = "device") -> Trust:
        return Trust(
            RealFs(self.folder / name), HttpSource(self.server.url), root=self.root,
            now=lambda: self.now,
        )  # fmt: skip

    def release(self, name: str = "device") -> int | None:
        found = self.trust(name).newest(FAMILY)
        return found and found.candidate.release


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.server:
        yield made


def test_a_device_takes_what_was_published_and_runs_it(world: World) -> None:
    fs = RealFs(world.folder / "device")

    def load(slot: str) -> Bundle:
        return Bundle.open(fs.path(slot)) if slot != "golden" else bundle(world.folder, 3)

    slots = Slots(fs, delivered=3, load=load)
    slots.start()
    for number in (4, 5, 6):
        if number > 4:
            world.again().publish(bundle(world.folder, number))
        release = world.trust().newest(FAMILY)
        assert release is not None
        slots.offer(release.candidate)
        slots.download(release.fetch)
        slots.stage()
        assert slots.test(lambda opened: opened.vocabulary)
        assert slots.start().manifest.release_counter == number
        slots.commit()
    # The vocabulary is the same in all of them.
    assert sum(path.endswith(".tokens.txt") for path in world.server.asked) == 1
    assert slots.record.state is State.IDLE and slots.record.floor == 6


def test_what_else_was_signed_comes_with_the_release(world: World) -> None:
    release = world.trust().newest(FAMILY)
    assert release is not None
    assert release.custom["needs"] == {"sm": "87"} and release.candidate.version == "4.0"
    assert world.trust().newest("de") is None
    assert world.trust().newest("fr") is None


def test_releases_rise_and_families_are_known(world: World) -> None:
    for number in (3, 4):
        with pytest.raises(ConfigError, match=r"release_counter: .* is not above 4"):
            world.again().publish(bundle(world.folder, number))
    other = bundle(world.folder, 5)
    stranger = Bundle(other.path, Manifest.from_json(other.manifest.to_json().replace(
        '"name": "en"', '"name": "fr"').encode()))  # fmt: skip
    with pytest.raises(ConfigError, match="no role 'fr'"):
        world.again().publish(stranger)
    assert world.release() == 4


def _versions(world: World, role: str = FAMILY) -> int:
    return len(list((world.repo / "metadata").glob(f"*.{role}.json")))


def test_publishing_once_is_publishing_once(world: World) -> None:
    made = bundle(world.folder, 5)
    before = _versions(world)
    assert world.again().publish_once(made) is True
    for _ in range(2):
        assert world.again().publish_once(made) is False
    assert world.release() == 5 and _versions(world) == before + 1
    with pytest.raises(ConfigError, match="is not above 5"):  # the same counter, other content
        (made.path / "tokens.txt").unlink()
        shutil.rmtree(made.path)
        other = bundle(world.folder, 5)
        text = (other.path / "manifest.json").read_text().replace('"5.0"', '"5.1"')
        (other.path / "manifest.json").write_text(text)
        world.again().publish_once(Bundle.open(other.path))
    assert _versions(world) == before + 1


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_publication_that_was_cut_off_is_completed(
    world: World, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, before = bundle(world.folder, 5), _versions(world)
    cut = world.again()
    write, count = cut.write, iter(range(10))

    def fail(*arguments: object, **named: object) -> None:
        if next(count) == written:  # the family, the snapshot and the timestamp, in this order
            raise KeyboardInterrupt
        write(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(cut, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        cut.publish_once(made)
    assert world.release() == 4
    assert world.again().publish_once(made) is (written == 0)
    assert world.release() == 5 and _versions(world) == before + 1


def test_processes_that_publish_at_the_same_time_do_so_one_after_another(world: World) -> None:
    import threading

    families = [(FAMILY, bundle(world.folder, 5))]
    threads = [threading.Thread(target=world.again().publish_once, args=(families[0][1],))]
    threads += [threading.Thread(target=world.again().refresh) for _ in range(4)]
    before = _versions(world, "snapshot")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.release() == 5 and _versions(world, "snapshot") == before + 5


def test_a_revoked_release_is_offered_to_nobody(world: World) -> None:
    assert world.release() == 4
    world.again().revoke(FAMILY)
    assert world.release() is None
    world.again().publish(bundle(world.folder, 5))
    assert world.release() == 5


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", FAMILY])
def test_devices_follow_when_keys_are_changed_and_old_keys_are_worth_nothing(
    world: World, role: str
) -> None:
    assert world.release("old") == 4
    stolen = world.folder / "stolen"
    shutil.copytree(world.keys, stolen)
    for _ in range(2):
        world.again().rotate(role)
    world.again().publish(bundle(world.folder, 5))
    assert world.release("old") == world.release("new") == 5
    thief = Repository(world.repo, KeyRing.load(stolen))
    with pytest.raises(ConfigError, match="do not suffice"):
        if role == "root":
            thief.rotate("root")
        elif role == "targets":
            thief.rotate(FAMILY)
        else:
            thief.publish(bundle(world.folder, 6))
    assert world.release("old") == 5


def test_all_root_keys_are_changed_one_by_one(world: World) -> None:
    assert world.release("old") == 4
    for _ in range(3):
        world.again().rotate("root")
    first = Metadata[Root].from_bytes(world.root).signed.roles["root"].keyids
    newest = Metadata[Root].from_file(str(world.repo / "metadata" / "4.root.json"))
    assert not set(first) & set(newest.signed.roles["root"].keyids)
    assert world.release("old") == world.release("new") == 4


def test_two_root_keys_suffice_and_one_does_not(world: World) -> None:
    (world.keys / "root-1.pem").rename(world.folder / "far-away")
    world.again().rotate("timestamp")
    assert world.release() == 4
    (world.keys / "root-2.pem").unlink()
    with pytest.raises(ConfigError, match="do not suffice for 'root'"):
        world.again().rotate("timestamp")
    assert world.release() == 4
    (world.folder / "far-away").rename(world.keys / "root-1.pem")
    world.again().rotate("timestamp")  # which mends what was cut off
    assert world.release() == 4


# -- attacks ---------------------------------------------------------------------------------------


def test_yesterdays_repository_is_refused_with_a_cache_and_with_half_a_cache(world: World) -> None:
    yesterday = world.folder / "yesterday"
    shutil.copytree(world.repo, yesterday)
    world.again().publish(bundle(world.folder, 5))
    assert world.release() == 5
    assert world.release() == 5  # both copies of what is known are of today now
    world.server.folder = yesterday
    with pytest.raises(TrustError) as error:
        world.release()
    assert error.value.attack == "rollback"
    for torn in ("trust.0", "trust.1"):
        known = world.folder / "device" / torn
        content = known.read_bytes()
        known.write_bytes(b"")
        with pytest.raises(TrustError, match="version"):
            world.release()
        known.write_bytes(content)


@pytest.mark.parametrize("role", ["snapshot", "targets", FAMILY])
def test_metadata_that_does_not_belong_together_is_refused(world: World, role: str) -> None:
    assert world.release() == 4
    world.again().publish(bundle(world.folder, 5))
    if role == "targets":
        world.again().rotate(FAMILY)
    folder = world.repo / "metadata"
    newest = max(folder.glob(f"*.{role}.json"), key=lambda path: int(path.name.split(".")[0]))
    older = sorted(folder.glob(f"*.{role}.json"), key=lambda path: int(path.name.split(".")[0]))[0]
    world.server.instead[f"metadata/{newest.name}"] = older.read_bytes()
    with pytest.raises(TrustError) as error:
        world.release("fresh")
    assert error.value.attack in ("mix-and-match", "rollback")


def test_a_repository_that_is_frozen_is_noticed_when_its_time_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("autotrain_cloud.release").release.VALID, "timestamp", -1)
    world.again().refresh()
    with pytest.raises(TrustError) as error:
        world.release()
    assert error.value.attack == "freeze"


def test_a_clock_that_is_set_back_is_noticed(world: World) -> None:
    assert world.release() == 4
    world.now -= 200
    assert world.release() == 4
    world.now -= 3 * DAY
    with pytest.raises(TrustError, match=r"the clock says .*; set it right"):
        world.release()


def test_a_release_signed_by_another_family_or_by_nobody_is_refused(world: World) -> None:
    path = world.repo / "metadata" / f"2.{FAMILY}.json"
    signed = Metadata[Targets].from_file(str(path))
    signed.signed.targets[f"models/{FAMILY}/manifest.json"].custom["release"] = 99  # type: ignore[index]
    forged = signed.to_bytes()
    world.server.instead[f"metadata/{path.name}"] = forged
    with pytest.raises(TrustError):
        world.release()
    (thief,) = world.again().keys.signers("de")
    signed.sign(thief)
    world.server.instead[f"metadata/{path.name}"] = signed.to_bytes()
    with pytest.raises(TrustError):
        world.release()
    # Nor can a family sign for another.
    de = Repository(world.repo, KeyRing.load(world.keys))
    found = de.read("de", Targets)
    found.signed.targets = dict(signed.signed.targets)
    de.renew("de", found, "family")
    de.refresh()
    world.server.instead.clear()
    assert world.release("other") == 4


def test_metadata_without_end_is_refused(world: World) -> None:
    world.server.instead["metadata/timestamp.json"] = b" " * 10_000_000
    with pytest.raises(TrustError) as error:
        world.release()
    assert error.value.attack == "endless data"


def test_metadata_that_is_no_metadata_is_refused(world: World) -> None:
    for content in (b"\xff\x00", b"[]", b"{}", b"<html>", b'{"signed": 1}'):
        world.server.instead["metadata/timestamp.json"] = content
        with pytest.raises(TrustError):
            world.release()
    world.server.instead.clear()
    assert world.release() == 4


def test_files_that_are_not_those_of_the_manifest_are_refused(world: World) -> None:
    release = world.trust().newest(FAMILY)
    assert release is not None
    (name,) = [p.name for p in (world.repo / "targets" / "models" / FAMILY).glob("*.encoder.onnx")]
    world.server.instead[f"targets/models/{FAMILY}/{name}"] = b"5" * 999
    slots = Slots(RealFs(world.folder / "slots"), delivered=3, load=lambda slot: slot)
    slots.start()
    slots.offer(release.candidate)
    with pytest.raises(BundleTampered, match=r"encoder\.onnx: is not the file"):
        slots.download(release.fetch)
    world.server.instead.clear()
    slots.download(release.fetch)


# -- lines -----------------------------------------------------------------------------------------


def test_a_server_that_is_gone_or_has_nothing_is_no_attack(world: World) -> None:
    world.server.folder = world.folder
    with pytest.raises(SourceError) as error:
        world.release()
    assert error.value.status == 404
    with pytest.raises(SourceError, match="cannot be reached"):
        Trust(
            RealFs(world.folder / "x"), HttpSource("http://127.0.0.1:9/"), root=world.root
        ).newest(FAMILY)


def test_a_root_that_is_none_is_refused(world: World) -> None:
    world.root = b"{}"
    with pytest.raises(EdgeError):
        world.release()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_goes_on_where_the_line_was_cut(world: World, ranges: bool) -> None:
    data = bytes(range(256)) * 40
    (world.repo / "file").write_bytes(data)
    world.server.ranges = ranges
    source = HttpSource(world.server.url)
    world.server.cut_after = 3000
    found = b""
    with pytest.raises(SourceError):
        for block in source.get("file"):
            found += block
    assert found == data[: len(found)]
    world.server.cut_after = 0
    found += b"".join(source.get("file", len(found)))
    assert found == data
    assert b"".join(source.get("file", len(data))) == b""


def test_a_line_that_trickles_is_given_up(world: World) -> None:
    (world.repo / "file").write_bytes(bytes(100_000))
    world.server.trickle_s = 0.01
    limits = LineLimits(least_bytes_per_s=100_000, patience_s=0.1)
    source = HttpSource(world.server.url, limits)
    with pytest.raises(SourceError, match="bytes a second are too slow"):
        list(source.get("file"))


def test_a_download_takes_no_more_of_the_line_than_it_may(world: World) -> None:
    (world.repo / "file").write_bytes(bytes(300_000))
    now, slept = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    source = HttpSource(
        world.server.url, LineLimits(most_bytes_per_s=100_000), clock=lambda: now, sleep=sleep
    )
    assert sum(map(len, source.get("file"))) == 300_000
    assert sum(slept) == pytest.approx(3.0)


# -- keys ------------------------------------------------------------------------------------------


def test_private_keys_are_readable_by_their_owner_alone_and_not_in_the_repository(
    world: World,
) -> None:
    pems = sorted(world.keys.glob("*.pem"))
    assert len(pems) == 8
    assert {path.stat().st_mode & 0o777 for path in pems} == {0o600}
    served = b"".join(path.read_bytes() for path in world.repo.rglob("*") if path.is_file())
    assert b"PRIVATE" not in served


@pytest.mark.parametrize("content", ["", "[]", '{"root": 1}', '{"root": [{}]}'])
def test_a_damaged_key_ring_is_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError, match=r"keys\.json: cannot be read: .*release init"):
        KeyRing.load(tmp_path)
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(ConfigError, match=r"keys\.json: is not a list of keys"):
        KeyRing.load(tmp_path)


def test_a_repository_is_not_made_over_another(world: World) -> None:
    with pytest.raises(ConfigError, match="already"):
        Repository.create(world.repo, world.folder / "k", [FAMILY])


def test_the_ring_says_where_a_key_is(world: World) -> None:
    ring = json.loads((world.keys / "keys.json").read_text())
    assert ring["timestamp"][0]["uri"] == "file2:timestamp.pem"
    ring["timestamp"][0]["uri"] = "awskms:alias/none"
    (world.keys / "keys.json").write_text(json.dumps(ring))
    with pytest.raises(ConfigError, match="awskms:alias/none: this key cannot be used"):
        world.again().refresh()
