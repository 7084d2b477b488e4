"""The store of engines: built here or refused, and whole after a crash at any step."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.backends import TensorSpec
from edge_runtime.errors import BackendError, BundleIncompatible, BundleTampered, ConfigError
from jetson import store as store_module
from jetson.machine import Machine
from jetson.store import Record, Store, key_of

HERE = Machine(gpu="Orin", sm="87", multiprocessors=8, tensorrt="10.3.0", l4t="36.4.3")
MODEL, OTHER = "a" * 64, "b" * 64


def record(model: str = MODEL, machine: Machine = HERE) -> Record:
    spec = TensorSpec("audio_signal", "float32", ("batch", 80, "time"))
    return Record(
        model=model,
        stands_for=(model, "c" * 64),
        machine=machine,
        candidate="int8",
        source="encoder.int8-trt10.onnx",
        source_sha256="c" * 64,
        inputs=(spec,),
        outputs=(spec,),
        metadata={"vocab_size": "256"},
        created="2026-01-01T00:00:00+00:00",
        measured={"candidates": {"int8": {"failed": None}}},
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "engines")


def test_an_engine_is_found_by_any_graph_of_its_bundle(store: Store) -> None:
    saved = store.save(record(), b"plan")
    for digest in (MODEL, "c" * 64):
        found = store.find(digest, HERE)
        assert found == saved
        assert store.plan(found, HERE) == b"plan"


def test_a_new_engine_takes_the_old_one_s_place(store: Store) -> None:
    store.save(record(), b"old")
    store.save(record(), b"new")
    assert store.plan(store.find(MODEL, HERE), HERE) == b"new"
    assert len(list(store.root.glob("*.plan"))) == 1


def test_engines_of_several_models_live_side_by_side(store: Store) -> None:
    store.save(record(), b"one")
    store.save(replace(record(OTHER), stands_for=()), b"two")
    assert store.plan(store.find(MODEL, HERE), HERE) == b"one"
    assert store.plan(store.find(OTHER, HERE), HERE) == b"two"


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": "Orin Nano"},
        {"sm": "110"},
        {"multiprocessors": 16},
        {"tensorrt": "10.3.1"},
        {"l4t": "36.5"},
    ],
)
def test_whatever_changes_in_the_machine_makes_another_key(
    store: Store, change: dict[str, object]
) -> None:
    saved = store.save(record(), b"plan")
    other = replace(HERE, **change)  # type: ignore[arg-type]
    assert key_of(MODEL, other) != key_of(MODEL, HERE)
    with pytest.raises(BackendError, match=r"was built for .*; this is .*engine build"):
        store.find(MODEL, other)
    with pytest.raises(BundleIncompatible, match="was built for"):
        store.plan(saved, other)


def test_without_an_engine_the_command_that_builds_one_is_named(store: Store) -> None:
    with pytest.raises(BackendError, match=r"no engine .*vitconformer engine build"):
        store.find(MODEL, HERE)


def test_a_plan_that_was_changed_is_refused(store: Store) -> None:
    saved = store.save(record(), b"plan")
    (store.root / saved.plan).write_bytes(b"plam")
    with pytest.raises(BundleTampered, match="has SHA-256"):
        store.plan(store.find(MODEL, HERE), HERE)


def test_a_plan_that_is_gone_is_said_to_be(store: Store) -> None:
    saved = store.save(record(), b"plan")
    (store.root / saved.plan).unlink()
    with pytest.raises(BundleTampered, match="cannot be read"):
        store.plan(store.find(MODEL, HERE), HERE)


def test_an_engine_carried_in_from_another_machine_of_the_same_kind_is_refused(
    store: Store, tmp_path: Path
) -> None:
    """Same GPU, TensorRT and JetPack: only the secret tells that it was not built here."""
    foreign = Store(tmp_path / "foreign")
    foreign.save(record(OTHER), b"evil")
    store.save(record(), b"plan")
    for path in foreign.root.glob(f"{key_of(OTHER, HERE)}*"):
        shutil.copy(path, store.root)
    with pytest.raises(BundleTampered, match="not written on this machine"):
        store.find(OTHER, HERE)


def test_a_record_cannot_be_edited(store: Store) -> None:
    saved = store.save(record(), b"plan")
    path = store.root / f"{saved.key}.json"
    sealed = json.loads(path.read_text())
    sealed["record"]["plan_sha256"] = "d" * 64
    path.write_text(json.dumps(sealed))
    with pytest.raises(BundleTampered, match="not written on this machine"):
        store.find(MODEL, HERE)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"record": {}, "hmac": ""}', b'{"record": 1, "hmac": 2}', b"\xff"],
)
def test_what_is_no_record_is_refused_by_name(store: Store, content: bytes) -> None:
    store.save(record(), b"plan")
    (store.root / "0.json").write_bytes(content)
    with pytest.raises(BundleTampered, match=r"0\.json"):
        store.find(OTHER, HERE)
    refused = [found for found in store.records() if isinstance(found, BundleTampered)]
    assert len(refused) == 1  # and the good one is listed still


@pytest.mark.parametrize("mode", [0o666, 0o660])
def test_what_others_could_have_written_is_refused(store: Store, mode: int) -> None:
    saved = store.save(record(), b"plan")
    (store.root / saved.plan).chmod(mode)
    with pytest.raises(BundleTampered, match="written by others"):
        store.plan(store.find(MODEL, HERE), HERE)


def test_a_link_is_no_plan(store: Store, tmp_path: Path) -> None:
    saved = store.save(record(), b"plan")
    (tmp_path / "elsewhere").write_bytes(b"plan")
    (store.root / saved.plan).unlink()
    (store.root / saved.plan).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleTampered, match="not a link"):
        store.plan(store.find(MODEL, HERE), HERE)


def test_the_secret_is_its_owner_s_alone(store: Store) -> None:
    store.save(record(), b"plan")
    assert (store.root / "secret").stat().st_mode & 0o777 == 0o600
    assert store.root.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("umask", [0o000, 0o002])
def test_what_is_written_is_its_owner_s_whatever_the_umask(store: Store, umask: int) -> None:
    before = os.umask(umask)
    try:
        saved = store.save(record(), b"plan")
    finally:
        os.umask(before)
    assert store.plan(store.find(MODEL, HERE), HERE) == b"plan"
    assert (store.root / saved.plan).stat().st_mode & 0o077 == 0


class Crash(BaseException):
    """The process is gone."""


def test_a_crash_at_any_step_leaves_the_old_engine_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that changes the disk is made to be the last one, in turn."""
    seen = set()
    for last in range(40):
        store = Store(tmp_path / str(last))
        store.save(record(), b"old")
        calls = 0
        with monkeypatch.context() as patch:

            def crashing(real: object, counter: int = last) -> object:
                def call(*args: object, **kwargs: object) -> object:
                    nonlocal calls
                    if calls == counter:
                        raise Crash
                    calls += 1
                    return real(*args, **kwargs)  # type: ignore[operator]

                return call

            patch.setattr(Path, "replace", crashing(Path.replace))
            patch.setattr(Path, "unlink", crashing(Path.unlink))
            patch.setattr(os, "fsync", crashing(os.fsync))
            patch.setattr(store_module, "write_atomically", crashing(store_module.write_atomically))
            try:
                store.save(record(), b"new")
                finished = True
            except Crash:
                finished = False
        plan = store.plan(store.find(MODEL, HERE), HERE)
        assert plan in (b"old", b"new")
        seen.add((finished, plan))
        store.save(record(), b"newest")  # what a crash left is no obstacle
        assert store.plan(store.find(MODEL, HERE), HERE) == b"newest"
        assert len(list(store.root.glob("*.plan"))) == 1
        if finished:
            break
    assert seen == {(False, b"old"), (False, b"new"), (True, b"new")}


def test_one_build_at_a_time(store: Store) -> None:
    with store.building():
        other = Store(store.root)
        with pytest.raises(ConfigError, match="another build is running"), other.building():
            pass
    with store.building():  # and the lock goes with its holder
        pass


def test_the_store_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VITCONFORMER_ENGINES", str(tmp_path))
    assert Store.default().root == tmp_path
    monkeypatch.delenv("VITCONFORMER_ENGINES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Store.default().root == tmp_path / "vitconformer" / "engines"
