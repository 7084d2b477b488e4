"""`vitconformer cloud ...`: what people see of the store."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from sqlalchemy import update

from autotrain_cloud.commands import cloud as verb
from autotrain_cloud.settings import CloudSettings, StoreSettings, read_cloud_settings
from autotrain_cloud.store import Store, consents, segments, spool
from autotrain_cloud.store import schema as tables
from edge_runtime.cli import main
from edge_runtime.errors import ConfigError
from tests.autotrain_cloud.conftest import empty_sqlite
from tests.autotrain_cloud.fleet import NOW, new_ingest, packet, said, segment

Out = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings of a store with two segments and a dead letter."""
    (tmp_path / "store.db").write_bytes(empty_sqlite())
    url, blobs = f"sqlite:///{tmp_path}/store.db", str(tmp_path / "blobs")
    path = tmp_path / "cloud.toml"
    path.write_text(f'[store]\nurl = "{url}"\nblobs = "{blobs}"\n', "utf-8")
    store = Store.open(StoreSettings(url=url, blobs=blobs))
    poison = ("fl/v1/kitchen-1/up/segment", b"poison")
    new_ingest(store).commit([packet(segment(1)), packet(segment(2)), poison], now_ms=NOW)
    store.close()
    return path


def cloud(config: Path, action: str, *arguments: str) -> int:
    return main(["cloud", action, "--config", str(config), *arguments])


def test_segments_are_listed_and_shown(config: Path, tmp_path: Path, capsys: Out) -> None:
    assert cloud(config, "segments") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [segment(2).id, segment(1).id]
    assert lines[0].endswith("62%  word0 word1")
    assert cloud(config, "segments", "--json", "--limit", "1") == 0
    assert json.loads(capsys.readouterr().out)["device"] == "kitchen-1"
    audio = tmp_path / "audio.opus"
    assert cloud(config, "segments", segment(1).id, "--json", "--audio", str(audio)) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["text"], shown["labels"]) == ("word0 word1", [])
    assert shown["lineage"] == {"datasets": [], "models": []}
    assert audio.read_bytes() == segment(1).audio


def test_dead_letters_are_listed_and_taken_out(config: Path, tmp_path: Path, capsys: Out) -> None:
    assert cloud(config, "dead-letters", "--json", "--reason", "malformed") == 0
    number = json.loads(capsys.readouterr().out)["number"]
    payload = tmp_path / "poison"
    assert cloud(config, "dead-letters", str(number), "--payload", str(payload)) == 0
    assert "malformed" in capsys.readouterr().out
    assert payload.read_bytes() == b"poison"


def test_consents_are_granted_withdrawn_and_listed(config: Path, capsys: Out) -> None:
    assert cloud(config, "consent", "grant", "c-1", "kitchen-1", "hall-1", "--days", "3") == 0
    assert cloud(config, "consent", "withdraw", "hall-1", "attic-1") == 0
    assert "attic-1: has no consent" in capsys.readouterr().err
    assert cloud(config, "consent", "list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "hall-1  c-1  withdrawn  version 2",
        "kitchen-1  c-1  granted  version 1",
    ]
    store = Store.open(read_cloud_settings(config).store)
    with store.read() as db:
        row = consents.current(db, "kitchen-1")
    assert row is not None
    assert row.until_ms - row.from_ms == 3 * 86_400_000
    assert len(said(new_ingest(store).claim(now_ms=NOW))) == 3
    store.close()


def test_erasing_says_what_was_made_of_it(config: Path, capsys: Out) -> None:
    assert cloud(config, "erase", "--segments", segment(1).id, "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["segments"], done["devices"]) == (1, ["kitchen-1"])
    assert cloud(config, "erase", "--devices", "kitchen-1") == 0
    assert "models trained on them: none" in capsys.readouterr().out
    assert cloud(config, "segments") == 0
    assert capsys.readouterr().err == "no segments\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["segments", "nothing"], "no such segment"),
        (["segments", "--audio", "x"], "expected an ID"),
        (["dead-letters", "99"], "no such dead letter"),
        (["dead-letters", "--payload", "x"], "expected a NUMBER"),
        (["erase"], "nothing to erase"),
        (["consent", "grant", "c-1", "_bad"], "_bad"),
        (["consent", "grant", "no spaces", "kitchen-1"], "consent"),
    ],
)
def test_mistakes_are_one_line(config: Path, arguments: list[str], says: str, capsys: Out) -> None:
    action, *rest = arguments
    assert cloud(config, action, *rest) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("vitconformer: error: ")
    assert says in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[stor]\n", "did you mean 'store'"),
        ("[broker]\nport = 0\n", "port: 0"),
        ('[broker]\ncertificate = "c"\n', "one without the other"),
        ('[broker]\ncertificate = "c"\nkey = "k"\n', "ca: is missing"),
        ("[ingest]\nbatch = 0\n", "batch: 0"),
        ("[ingest]\nreceive_maximum = 0\n", "receive_maximum: 0"),
        ('[ingest]\nworker = ""\n', "worker"),
        ("[ingest]\nsegments_per_minute = -1.0\n", "segments_per_minute"),
        ("[retention]\nrandom_days = 0\n", "random_days: 0"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "cloud.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=says) as error:
        read_cloud_settings(path)
    assert str(error.value).startswith(str(path))


def test_every_setting_is_documented_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cloud.md").read_text("utf-8")
    for table in ("store", "broker", "ingest", "retention", "monitor", "rollout"):
        section = page.split(f"## `[{table}]`")[1].split("\n## ")[0]
        settings = getattr(CloudSettings(), table)
        for name in settings.__dataclass_fields__:
            [line] = [
                line for line in section.splitlines() if f"`{name}`" in line.split("|")[:2][-1]
            ]
            value = getattr(settings, name)
            plain = value is None or isinstance(value, bool)
            shown = str(value).lower() if plain else str(value) or "none"
            assert shown in line.split("|")[2], name


def test_tidying_deletes_what_is_old_or_nobodys_and_keeps_the_rest(
    config: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read_cloud_settings(config).store
    store = Store.open(settings)
    orphan = store.blobs.write([b"orphan"])
    monkeypatch.setattr(spool, "LEAVE_MS", -1)
    with store.begin() as db:
        segments.set_retention(db, [segment(1).id], "guard", days=20_000, now_ms=NOW)
        db.execute(
            update(tables.segments)
            .where(tables.segments.c.id == segment(2).id)
            .values(expires_ms=1)
        )
    assert cloud(config, "tidy", "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done["forgotten"] >= 1
    assert done["swept"] == 1
    assert store.audio(segment(1).audio_sha256.hex()) == segment(1).audio
    assert orphan not in set(store.blobs.packs())
    store.close()
    assert cloud(config, "tidy") == 0
    assert "0 objects swept" in capsys.readouterr().out


def test_timers_run_verbs_that_exist() -> None:
    folder = Path(__file__).parents[2] / "deploy" / "systemd"
    for timer in folder.glob("*.timer"):
        unit = timer.with_suffix(".service").read_text("utf-8")
        [line] = [each for each in unit.splitlines() if "bin/vitconformer " in each]
        words = line.partition("bin/vitconformer ")[2].split()
        parser = argparse.ArgumentParser()
        verb.configure(parser)
        assert (words[0], parser.parse_args(words[1:]).run_action.__name__) == ("cloud", "run")
