"""The promise: names that only change with the major version."""

from __future__ import annotations

import edge_runtime
import edge_runtime.contract


def test_the_public_names_of_the_hub_are_these() -> None:
    assert sorted(edge_runtime.__all__) == sorted(
        [
            "AudioError",
            "BackendError",
            "BeamConfig",
            "Bundle",
            "BundleError",
            "ConfigError",
            "EdgeError",
            "EndpointConfig",
            "Final",
            "GreedyConfig",
            "Partial",
            "Recognizer",
            "Stream",
            "Word",
            "__version__",
            "open_backend",
        ]
    )


def test_every_public_name_exists_and_is_documented() -> None:
    for name in edge_runtime.__all__:
        value = getattr(edge_runtime, name)
        if name != "__version__":
            assert value.__doc__, name
            assert value.__module__.startswith("edge_runtime."), name


def test_dir_shows_the_public_names() -> None:
    assert set(edge_runtime.__all__) <= set(dir(edge_runtime))


def test_the_contract_exports_what_it_lists() -> None:
    assert set(edge_runtime.contract.__all__) >= {"Manifest", "FileEntry", "SCHEMA_VERSION"}
    for name in edge_runtime.contract.__all__:
        assert hasattr(edge_runtime.contract, name)
