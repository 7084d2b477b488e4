"""Roots that are signed away from the repository, step by step, and followed by devices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotrain_cloud import ceremony
from edge_runtime.cli import main
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.test_release import FAMILY, World, bundle


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Whose root keys are elsewhere."""
    made = World(tmp_path)
    (tmp_path / "safe").mkdir()
    for number in (1, 2, 3):
        (made.keys / f"root-{number}.pem").rename(tmp_path / "safe" / f"root-{number}.pem")
    with made.server:
        yield made


def release(world: World, *words: object) -> int:
    where = ("--repo", world.repo, "--keys", world.keys)
    return main(["release", *map(str, (*where, *words))])


def away(*words: object) -> int:
    return main(["release", "root", *map(str, words)])


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_stolen_key_is_ended_by_a_root_that_was_signed_elsewhere(world: World, role: str) -> None:
    assert world.release("old") == 4
    stolen = world.folder / "stolen"
    shutil.copytree(world.keys, stolen)
    proposal, safe = world.folder / "root.json", world.folder / "safe"
    assert release(world, "root", "propose", proposal, "--rotate", role) == 0
    # Until it is adopted everything goes on with the old keys.
    assert release(world, "refresh") == 0
    assert world.release("old") == 4
    for number, code in ((1, 2), (2, 0)):
        assert away("sign", proposal, safe / f"root-{number}.pem") == 0
        assert release(world, "root", "adopt", proposal) == code
    assert release(world, "root", "adopt", proposal) == 2  # nothing waits any more
    world.again().publish(bundle(world.folder, 5))
    assert world.release("old") == world.release("new") == 5
    world.keys = stolen
    with pytest.raises(ConfigError, match="do not suffice"):
        if role == "targets":
            world.again().add("fr")
        else:
            world.again().refresh()


def test_every_root_key_is_replaced_by_one_that_was_made_elsewhere(world: World) -> None:
    assert world.release("old") == 4
    safe, proposal = world.folder / "safe", world.folder / "root.json"
    first = [one["keyid"] for one in json.loads((world.keys / "keys.json").read_text())["root"]]
    present = [safe / f"root-{number}.pem" for number in (1, 2, 3)]
    for number, old in enumerate(first):
        new = safe / f"new-{number}.pem"
        assert away("key", new) == 0 and new.stat().st_mode & 0o777 == 0o600
        words = ("--add", f"{new}.pub", "--drop", old)
        assert release(world, "root", "propose", proposal, *words) == 0
        # The key that goes signs for the last time, the one that comes for the first.
        for key in (*present[1:], new):
            assert away("sign", proposal, key) == 0
        assert release(world, "root", "adopt", proposal) == 0
        present = [*present[1:], new]
    assert world.release("old") == world.release("new") == 4
    assert not list(world.keys.glob("root*"))


def test_a_root_nobody_could_sign_or_that_was_changed_is_not_proposed_or_adopted(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    safe, proposal = world.folder / "safe", world.folder / "root.json"
    ids = [one["keyid"] for one in json.loads((world.keys / "keys.json").read_text())["root"]]
    assert release(world, "root", "propose", proposal, "--drop", *ids[:2]) == 2
    assert "1 root keys would be left, where 2 must sign" in capsys.readouterr().err
    assert release(world, "root", "propose", proposal, "--drop", "beef") == 2
    assert release(world, "root", "propose", proposal, "--rotate", FAMILY) == 2
    assert release(world, "root", "propose", proposal) == 0
    for number in (1, 2):
        away("sign", proposal, safe / f"root-{number}.pem")
    changed = json.loads(proposal.read_text())
    changed["signed"]["roles"]["root"]["threshold"] = 1
    proposal.write_text(json.dumps(changed))
    assert release(world, "root", "adopt", proposal) == 2
    assert "too few of the present root keys have signed" in capsys.readouterr().err
    assert away("sign", proposal, world.folder / "no.pem") == 2
    proposal.write_text("{}")
    assert away("sign", proposal, safe / "root-1.pem") == 2
    assert "is no root" in capsys.readouterr().err
    assert main(["release", "status"]) == 2


def test_adopting_can_be_repeated_after_a_crash(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    safe, proposal = world.folder / "safe", world.folder / "root.json"
    release(world, "root", "propose", proposal, "--rotate", "timestamp")
    for number in (1, 2):
        away("sign", proposal, safe / f"root-{number}.pem")
    for step in ("save", "refresh"):
        with monkeypatch.context() as patch:
            owner = "KeyRing" if step == "save" else "Repository"
            patch.setattr(f"autotrain_cloud.release.{owner}.{step}", lambda self: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                ceremony.adopt(world.again(), proposal)
    assert ceremony.adopt(world.again(), proposal) == 2
    assert world.release() == 4


def test_a_family_is_added_and_published_to(world: World) -> None:
    assert release(world, "add", "fr") == 0
    assert release(world, "add", "fr") == 2 and release(world, "add", "root") == 2
    assert release(world, "add", "../x") == 2
    assert world.trust("x").newest("fr") is None
    assert world.release() == 4
