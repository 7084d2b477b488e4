"""The verb's actions with the shipped model; the conformance suite's client protocol."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotrain_cloud.release import KeyRing, Repository
from edge_runtime.bundle import Bundle, write_bundle
from edge_runtime.cli import main
from edge_runtime.ota.lock import Lock
from tests.autotrain_cloud.server import Server
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


# -- check, status, rollback, audit ----------------------------------------------------------------

DEMO = Path(__file__).parents[3] / "bundles" / "en-demo"


def small(folder: Path, release: int) -> Path:
    """The shipped bundle with its smallest model alone."""
    demo = Bundle.open(DEMO)
    names = ("encoder.int8-dynamic.onnx", "tokens.txt", "goldens.npz")
    manifest = dataclasses.replace(
        demo.manifest, release_counter=release, version=f"{release}.0", files={}, lm=None,
        precisions={"int8-dynamic": names[0]}, lexicon=None, confidence=None, decoding={},
    )  # fmt: skip
    return write_bundle(
        folder / f"release-{release}", manifest, {name: demo.file(name) for name in names}
    ).path


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """Of a device that was delivered with release 3, where release 5 is published."""
    keys = tmp_path / "keys"
    Repository.create(tmp_path / "repo", keys, ["en-demo"])
    Repository(tmp_path / "repo", KeyRing.load(keys)).publish(
        Bundle.open(small(tmp_path, 5)), last=0
    )
    with Server(tmp_path / "repo") as server:
        path = tmp_path / "agent.toml"
        path.write_text(f"""
[update]
url = "{server.url}"
root = "{tmp_path}/repo/metadata/1.root.json"
state = "{tmp_path}/state"
golden = "{small(tmp_path, 3)}"
least_free_bytes = 0
hours = {{ start = 00:00:00, end = 00:00:00 }} # never by itself
test = {{ most_real_time_factor = 50 }}

[uplink] # of no interest here
host = "broker"
""")
        yield path


def test_a_release_is_fetched_tried_told_about_and_undone_by_hand(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ota(*words: str) -> tuple[int, str, str]:
        code = main(["ota", words[0], "--config", str(config), *words[1:]])
        out, err = capsys.readouterr()
        return code, out, err

    code, _, err = ota("status")
    assert code == 2 and "no agent has run yet" in err
    code, out, err = ota("check")
    assert code == 0 and out.startswith("switched: 5.0 (release 5)\n")
    assert "5.0: downloading\n5.0: staging\n5.0: testing\n5.0: probation\n" in err
    code, out, _ = ota("status")
    assert code == 0 and "running    5.0 (release 5), slot A" in out and "probation 5.0" in out
    code, out, _ = ota("check", "--json")
    assert code == 0 and json.loads(out)["outcome"] == "probation"
    code, out, err = ota("rollback", "--reason", "says nonsense")
    assert (code, out) == (0, "3.0 (release 3) runs when the agent starts\n")
    assert "5.0: rolled-back: says nonsense" in err
    code, out, _ = ota("status", "--json")
    found = json.loads(out)
    assert (found["running"]["slot"], found["state"], found["agent"]) == ("golden", "idle", None)
    code, out, _ = ota("check")
    assert code == 0 and "has failed here: says nonsense" in out
    code, _, err = ota("rollback")
    assert code == 2 and "there is no bundle to go back to" in err
    code, out, err = ota("audit")
    assert code == 0 and len(out.splitlines()) == 5 and "5 entries, head " in err
    code, out, _ = ota("audit", "--json")
    assert json.loads(out)["head"] == found["audit"] == err.split("head ")[1].strip()
    log = config.parent / "state" / "audit"
    log.write_text(log.read_text().replace("testing", "resting"))
    code, _, err = ota("audit")
    assert code == 1 and "the entry before it was changed" in err


def test_while_an_agent_runs_it_alone_looks_after_updates(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = Lock(config.parent / "state")
    try:
        for action in ("check", "rollback"):
            assert main(["ota", action, "--config", str(config)]) == 2
            assert "updates are in the hands of process" in capsys.readouterr().err
        assert main(["ota", "status", "--config", str(config)]) == 0
        assert "looks after updates" in capsys.readouterr().out
        assert main(["ota", "audit", "--config", str(config)]) == 0
    finally:
        lock.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no table [update]"),
        ("[update]\nurl = 5", "update: url: 5 (expected text in quotes)"),
        ("[update]\nurl = 'x'\nroot = 'r'\nstate = 's'\ngolden = 'g'", "update: url: https://"),
        ("[update]\nhour = 1", "did you mean 'hours'?"),
        ("[update]\nprobation = { utterances = 0 }", "utterances: 1 to 1e+06, not 0"),
    ],
)
def test_a_wrong_table_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    assert main(["ota", "status", "--config", str(path)]) == 2
    assert f"{path}: " in (err := capsys.readouterr().err) and says in err


def test_a_root_or_a_golden_bundle_that_is_not_there_is_named(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = config.read_text()
    for name, wrong in (("root", "1.root.json"), ("golden", "release-3")):
        config.write_text(good.replace(wrong, "nowhere"))
        assert main(["ota", "check", "--config", str(config)]) == 2
        err = capsys.readouterr().err
        assert f"update: {name}: " in err and "nowhere" in err
