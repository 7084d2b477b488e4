"""Frozen dataclasses as plain JSON values and back, by their annotations.

    from_json(DeviceState, json.loads(text))

Known are text, numbers, truth values, enums, `X | None`, tuples, `Mapping[str, X]` and dataclasses.
A field that is missing takes its default, so that states saved by an older version can be read; one
that nobody knows is an error, because leaving it out would lose something.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, get_args, get_origin

from edge_runtime.errors import StorageError

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Values that `json.dumps` takes."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(kind: type[T], plain: Any) -> T:
    """The inverse of `to_json`. Raises StorageError naming the field."""
    try:
        made: T = _builder(typing.cast(Hashable, kind))(plain)
    except (TypeError, ValueError) as error:
        raise StorageError(f"a saved {kind.__name__} cannot be read: {error}") from error
    return made


Build = Callable[[Any], Any]


@cache
def _builder(kind: Any) -> Build:
    """What makes values of this kind: an annotation is looked at once, not for every value."""
    if kind is Any:
        return lambda plain: plain
    if dataclasses.is_dataclass(kind):
        return lambda plain: _record(kind, plain)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (each for each in arguments if each is not types.NoneType)
        given, optional = _builder(inner), types.NoneType in arguments
        return lambda plain: None if plain is None and optional else given(plain)
    if origin is tuple:
        return _tuple(*arguments)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(arguments[1])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind
    if kind is float:
        return _float
    return lambda plain: plain if type(plain) is kind else _expect(plain, kind)


def _tuple(*kinds: Any) -> Build:
    builders = [_builder(kind) for kind in kinds if kind is not Ellipsis]
    if kinds[-1] is not Ellipsis:
        return lambda plain: tuple(
            build(item) for build, item in zip(builders, _expect(plain, list), strict=True)
        )
    (build,) = builders
    return lambda plain: tuple([build(item) for item in _expect(plain, list)])


def _mapping(kind: Any) -> Build:
    build = _builder(kind)
    return lambda plain: {key: build(item) for key, item in _expect(plain, dict).items()}


def _float(plain: Any) -> float:
    return float(plain) if type(plain) is int else _expect(plain, float)


@cache
def _fields(kind: Any) -> dict[str, Build]:
    return {name: _builder(hint) for name, hint in typing.get_type_hints(kind).items()}


def _record(kind: Any, plain: Any) -> Any:
    fields = _fields(kind)  # only now: a record may hold records of its own kind
    values = {}
    for name, item in _expect(plain, dict).items():
        if name not in fields:
            raise ValueError(f"{kind.__name__}: unknown field {name!r}")
        try:
            values[name] = fields[name](item)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{kind.__name__}.{name}: {error}") from error
    return kind(**values)


def _expect(plain: Any, kind: type) -> Any:
    """The same, if it is of this kind."""
    if type(plain) is not kind:
        raise ValueError(f"expected {kind.__name__}, not {plain!r:.80}")
    return plain
