from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_runtime.errors import AudioError, ConfigError
from edge_runtime.features import open_frontend
from edge_runtime.manifest import read_manifest
from tests.training.corpus import make_corpus
from training import store as store_module
from training.store import Augmentation, FeatureStore, build_store, read_samples


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MIN_SHARD_S", 3.0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.usefixtures("small_shards")
def test_a_store_holds_the_features_of_the_manifest_in_order(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus")
    store = build_store([manifest], tmp_path / "store")
    utterances = read_manifest(manifest)
    assert len(list((tmp_path / "store").glob("shard-*.npy"))) > 2
    assert len(store) == len(utterances)
    for index, utterance in enumerate(utterances):
        features, text = store[index]
        expected = open_frontend("knf_nemo").compute(read_samples(utterance.audio_filepath))
        np.testing.assert_array_equal(features, expected.astype(np.float16))
        assert (text, store.speakers[index]) == (utterance.text, utterance.speaker)
    assert store.seconds == store.frames.sum() / 100


@pytest.mark.usefixtures("small_shards")
def test_features_are_read_only_views_of_the_files(tmp_path: Path) -> None:
    store = build_store([make_corpus(tmp_path / "corpus")], tmp_path / "store")
    features, _ = store[3]
    assert features.base is not None
    with pytest.raises(ValueError, match="read-only"):
        features[0, 0] = 1.0


@pytest.mark.usefixtures("small_shards")
def test_a_store_pickles_as_its_path(tmp_path: Path) -> None:
    store = build_store([make_corpus(tmp_path / "corpus", count=40)], tmp_path / "store")
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    again = pickle.loads(pickled)
    for index in range(len(store)):
        np.testing.assert_array_equal(again[index][0], store[index][0])


def test_the_number_of_jobs_does_not_change_a_byte(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus", count=4)
    lines = manifest.read_text().splitlines()
    # Claim half an hour each, so that there are several shards for the processes.
    manifest.write_text("\n".join(json.dumps({**json.loads(x), "duration": 1800}) for x in lines))
    build_store([manifest], tmp_path / "one", jobs=1)
    build_store([manifest], tmp_path / "two", jobs=2)
    assert len(list((tmp_path / "one").glob("shard-*.npy"))) == 4
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.usefixtures("small_shards")
def test_a_build_that_failed_half_way_is_continued(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus")
    build_store([manifest], tmp_path / "whole")
    broken = read_manifest(manifest)[-1].audio_filepath
    sound = broken.read_bytes()
    broken.write_bytes(sound[:20])
    with pytest.raises(AudioError, match=broken.name):
        build_store([manifest], tmp_path / "store")
    with pytest.raises(ConfigError, match="unfinished"):
        FeatureStore.open(tmp_path / "store")
    done = tmp_path / "store" / "shard-00000.npy"
    before = done.stat().st_mtime_ns
    broken.write_bytes(sound)
    build_store([manifest], tmp_path / "store")
    assert done.stat().st_mtime_ns == before
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


_BUILD = """
import sys, pathlib
from training import store
store.MIN_SHARD_S = 3.0
store.build_store([pathlib.Path(sys.argv[1])], pathlib.Path(sys.argv[2]))
"""


@pytest.mark.usefixtures("small_shards")
def test_a_killed_build_is_continued(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus", count=60)
    out = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", _BUILD, str(manifest), str(out)])
    while not (out / "shard-00001.jsonl").exists() and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (out / ".shard-00099.npy.1.tmp").write_bytes(b"half a shard")
    build_store([manifest], out)
    build_store([manifest], tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_building_twice_changes_nothing(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus", count=3)
    build_store([manifest], tmp_path / "store")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    build_store([manifest], tmp_path / "store")
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}


def test_another_corpus_is_never_mixed_in(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus", count=3)
    build_store([manifest], tmp_path / "store")
    other = make_corpus(tmp_path / "other", count=3, seed=1)
    with pytest.raises(ConfigError, match="other manifests"):
        build_store([other], tmp_path / "store")
    with pytest.raises(ConfigError, match="other manifests"):
        build_store([manifest], tmp_path / "store", augment=Augmentation(copies=2))


def test_altered_copies_stand_beside_the_original_and_are_repeatable(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus", count=3)
    plain = build_store([manifest], tmp_path / "plain")
    augment = Augmentation(preset="full", copies=2, seed=7)
    altered = build_store([manifest], tmp_path / "altered", augment=augment)
    build_store([manifest], tmp_path / "again", augment=augment)
    assert contents(tmp_path / "altered") == contents(tmp_path / "again")
    assert altered.texts == [text for text in plain.texts for _ in range(3)]
    changed = 0
    for index in range(3):
        original = plain[index][0]
        np.testing.assert_array_equal(altered[3 * index][0], original)
        for copy in (1, 2):
            changed += not np.array_equal(altered[3 * index + copy][0], original)
    assert changed >= 3  # every stage has a probability; together they rarely all pass


def test_any_rate_and_channel_count_becomes_mono_16_khz(tmp_path: Path) -> None:
    stereo = np.random.default_rng(0).uniform(-0.1, 0.1, (44_100, 2))
    soundfile.write(tmp_path / "a.flac", stereo, 44_100)
    samples = read_samples(tmp_path / "a.flac")
    assert samples.dtype == np.float32
    assert abs(len(samples) - 16_000) <= 1


def test_a_recording_without_sound_is_named(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path / "corpus", count=2)
    soundfile.write(tmp_path / "corpus" / "001.wav", np.zeros(0), 16_000)
    with pytest.raises(AudioError, match=r"001\.wav"):
        build_store([manifest], tmp_path / "store")


def test_an_empty_manifest_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no utterances"):
        build_store([tmp_path / "m.jsonl"], tmp_path / "store")


def test_opening_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not there"):
        FeatureStore.open(tmp_path / "nothing")
    build_store([make_corpus(tmp_path / "corpus", count=3)], tmp_path / "store")
    shard = tmp_path / "store" / "shard-00000.npy"
    np.save(shard, np.load(shard)[:-1])
    with pytest.raises(ConfigError, match=r"shard-00000\.npy"):
        FeatureStore.open(tmp_path / "store")
    shard.write_bytes(b"")
    with pytest.raises(ConfigError, match="shard 0"):
        FeatureStore.open(tmp_path / "store")
    (tmp_path / "store" / "store.json").write_text('{"format": 99}')
    with pytest.raises(ConfigError, match="format 99"):
        FeatureStore.open(tmp_path / "store")
