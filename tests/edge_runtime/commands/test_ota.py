"""The conformance suite's client protocol, spoken to a real repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.cli import main
from tests.autotrain_cloud.test_release import FAMILY, World, bundle

PATH = f"models/{FAMILY}/manifest.json"


class Client:
    """What the suite runs as processes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.metadata, self.targets = world.folder / "metadata", world.folder / "targets"

    def __call__(self, *words: object, url: str = "metadata") -> int:
        options = (
            "--metadata-dir", self.metadata, "--metadata-url", f"{self.world.server.url}{url}",
            "--target-name", PATH, "--target-base-url", f"{self.world.server.url}targets",
            "--target-dir", self.targets,
        )  # fmt: skip
        return main(["ota", "conformance-client", *map(str, (*options, *words))])

    def version(self, role: str) -> int:
        found = json.loads((self.metadata / f"{role}.json").read_text())["signed"]["version"]
        return int(found)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    world = World(tmp_path)
    with world.server:
        yield Client(world)


def test_metadata_follows_the_repository_and_is_shown_under_plain_names(client: Client) -> None:
    world = client.world
    assert client("init", world.repo / "metadata" / "1.root.json") == 0
    assert not world.server.asked
    assert client("refresh") == 0
    assert [client.version(role) for role in ("root", "timestamp", "snapshot")] == [1, 2, 2]
    world.again().rotate("timestamp")
    assert client("refresh") == 0
    assert [client.version(role) for role in ("root", "timestamp")] == [2, 3]
    shown = (client.metadata / "root.json").read_bytes()
    assert shown == (world.repo / "metadata" / "2.root.json").read_bytes()


def test_a_target_is_fetched_once_and_again_when_it_changed(client: Client) -> None:
    world = client.world
    client("init", world.repo / "metadata" / "1.root.json")
    for release in (4, 5):
        if release == 5:
            world.again().publish(bundle(world.folder, 5))
        for fetches in (1, 0):
            world.server.asked.clear()
            assert client("download") == 0
            assert sum("manifest.json" in path for path in world.server.asked) == fetches
        (file,) = client.targets.iterdir()
        assert json.loads(file.read_text())["release_counter"] == release


def test_what_is_refused_ends_with_one_and_what_was_believed_stays(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    world = client.world
    client("init", world.repo / "metadata" / "1.root.json")
    assert client("refresh") == 0
    old = (world.repo / "metadata" / "timestamp.json").read_bytes()
    world.again().publish(bundle(world.folder, 5))
    assert client("refresh") == 0
    world.server.instead["metadata/timestamp.json"] = old
    assert client("refresh") == 1
    assert client.version("timestamp") == 3
    world.server.instead.clear()
    for found in (world.repo / "targets" / "models" / FAMILY).glob("*.manifest.json"):
        world.server.instead[f"targets/models/{FAMILY}/{found.name}"] = b"x" * 100_000
    assert client("download") == 1
    assert "is not what was signed" in capsys.readouterr().err
    assert not client.targets.exists()
    world.again().revoke(FAMILY)
    assert client("download") == 1
    assert client("refresh", url="nowhere") == 1
