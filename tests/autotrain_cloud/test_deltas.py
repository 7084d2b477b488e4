"""What is published beside a release, and what a device that has the one before it fetches."""

from __future__ import annotations

import functools
import http.server
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tuf.api.metadata import Targets

from autotrain_cloud import deltas
from edge_runtime.ota import delta
from tests.edge_runtime.ota.device import FAMILY, GOOD, Place

TEXT = b"\n".join(b"-%d.5 the word %d" % (n % 7, n) for n in range(3000))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    with made.server:
        yield made


def weights(release: int) -> bytes:
    """A model whose weights move a little with every release."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 20_000)
    for step in range(release):
        values = values + np.random.default_rng(step + 1).normal(0, 1e-3, values.shape)
    weight = numpy_helper.from_array(values.astype(np.float16), "w")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value], [output], [weight])
    return bytes(helper.make_model(graph).SerializeToString())


def publish(place: Place, release: int, **options: object) -> None:
    place.publish(release, bundle={"model": weights(release), "same": TEXT}, **options)


def signed(place: Place) -> dict[str, dict[str, dict[str, object]]]:
    found = place.repository().read(FAMILY, Targets).signed.targets
    (target,) = found.values()
    return dict((target.custom or {})["deltas"])


def test_deltas_are_made_against_the_last_releases_where_they_are_worth_it(place: Place) -> None:
    for release in range(4, 9):
        publish(place, release, last=2)
    found = signed(place)
    assert len(found) == 2  # the model, and the text, which is new to nobody but can be packed
    folder = place.repo / "targets" / "models" / FAMILY
    ((_, now), *before) = deltas.releases(folder)
    against = found[now.files["encoder.onnx"].sha256]
    assert set(against) == {one.files["encoder.onnx"].sha256 for _, one in before[:2]}
    for base, entry in against.items():
        content = (folder / f"{entry['sha256']}.delta").read_bytes()
        assert len(content) == entry["size"] < 0.6 * now.files["encoder.onnx"].size
        assert delta.apply((folder / f"{base}.encoder.onnx").read_bytes(), content,
                           limit=10**6) == weights(8)  # fmt: skip
    assert set(found[now.files["tokens.txt"].sha256]) == {delta.NOTHING}


def test_a_device_fetches_the_delta_and_one_without_a_base_the_whole_file(place: Place) -> None:
    publish(place, 4)
    with place.device() as updater:
        updater.start(background=False)
        for release in (4, 5):
            if release == 5:
                publish(place, 5)
            place.server.sent = 0
            place.server.asked.clear()
            assert updater.check().kind == "switched" and updater.changed() == release
            place.clock += 600
            updater.observe(GOOD)
            whole = [path for path in place.server.asked if path.endswith("encoder.onnx")]
            assert len(whole) == (1 if release == 4 else 0)
            fetched = sum(
                (place.repo / path).stat().st_size
                for path in place.server.asked
                if "targets" in path
            )
        assert fetched < 0.6 * len(weights(5))
    assert not any(entry["what"] == "delta refused" for entry in place.audit())
    with place.device(deltas=False, state=place.folder / "other") as updater:
        updater.start(background=False)
        place.server.asked.clear()
        assert updater.check().kind == "switched"
        assert not any(path.endswith(".delta") for path in place.server.asked)


def test_old_releases_are_pruned_and_what_is_released_stays_whole(place: Place) -> None:
    folder = place.repo / "targets" / "models" / FAMILY
    for release in range(4, 9):
        publish(place, release)
    assert place.repository().prune(FAMILY, keep=2) > len(weights(4))
    assert [found.release_counter for _, found in deltas.releases(folder)] == [8, 7]
    names = {path.name for path in folder.iterdir()}
    assert len(names) == 2 + 2 + 1 + 4  # manifests, models, the text, deltas of release 8
    roots = list((place.repo / "metadata").glob("*.root.json"))
    assert len(roots) == 1
    with place.device() as updater:
        updater.start(background=False)
        assert updater.check().kind == "switched" and updater.changed() == 8
    publish(place, 9)
    with place.device() as updater:
        updater.start(background=False)
        updater.check()


def test_a_server_without_ranges_serves_as_well(place: Place, tmp_path: Path) -> None:
    """Python's own, `python -m http.server`."""
    publish(place, 4)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(place.repo))
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        with place.device(url=url) as updater:
            updater.start(background=False)
            assert updater.check().kind == "switched" and updater.changed() == 4
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_files_of_any_kind_survive_being_packed() -> None:
    for data in (b"", b"x", TEXT, random.Random(0).randbytes(5000), weights(3)):
        assert delta.apply(b"", delta.make(b"", data), limit=len(data)) == data
