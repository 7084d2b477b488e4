"""What is saved comes back as it was, or says what is wrong."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from autotrain_cloud.plain import from_json, to_json
from edge_runtime.errors import StorageError


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Inner:
    numbers: tuple[float, ...] = ()
    pair: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Outer:
    name: str
    inner: Inner | None = None
    by_name: Mapping[str, Inner] = field(default_factory=dict)
    colour: Colour = Colour.RED
    rows: tuple[tuple[Inner, ...], ...] = ()


def test_what_is_saved_comes_back() -> None:
    value = Outer("x", Inner((1.0, 2.5), (3, "y")), {"a": Inner()}, Colour.RED, ((Inner(),), ()))
    assert from_json(Outer, json.loads(json.dumps(to_json(value)))) == value
    assert from_json(Outer, {"name": "x"}) == Outer("x")  # of a version that had less


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"name": "x", "nmae": 1}, "unknown field 'nmae'"),
        ({"name": 3}, "Outer.name: expected str"),
        ({"name": "x", "inner": {"numbers": ["1"]}}, "Outer.inner: Inner.numbers: expected float"),
        ({"name": "x", "inner": {"pair": [1]}}, "Inner.pair"),
        ({"name": "x", "by_name": []}, "Outer.by_name: expected dict"),
        ({"name": "x", "colour": "blue"}, "'blue' is not a valid Colour"),
        ({}, "name"),
        ([], "expected dict"),
    ],
)
def test_what_does_not_fit_names_the_field(plain: object, words: str) -> None:
    with pytest.raises(StorageError, match=words):
        from_json(Outer, plain)
