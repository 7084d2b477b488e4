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
from collections.abc import Mapping
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
        return typing.cast(T, _built(kind, plain))
    except (TypeError, ValueError) as error:
        raise StorageError(f"a saved {kind.__name__} cannot be read: {error}") from error


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _built(kind: Any, plain: Any) -> Any:
    if kind is Any:
        return plain
    if dataclasses.is_dataclass(kind):
        return _record(kind, plain)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if plain is None and types.NoneType in arguments:
            return None
        (inner,) = (each for each in arguments if each is not types.NoneType)
        return _built(inner, plain)
    if origin is tuple:
        _expect(plain, list)
        if arguments[-1] is Ellipsis:
            return tuple(_built(arguments[0], item) for item in plain)
        return tuple(_built(k, item) for k, item in zip(arguments, plain, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        _expect(plain, dict)
        return {key: _built(arguments[1], item) for key, item in plain.items()}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(plain)
    if kind is float and type(plain) is int:
        return float(plain)
    _expect(plain, kind)
    return plain


def _record(kind: Any, plain: Any) -> Any:
    _expect(plain, dict)
    hints = _hints(kind)
    values = {}
    for name, item in plain.items():
        if name not in hints:
            raise ValueError(f"{kind.__name__}: unknown field {name!r}")
        try:
            values[name] = _built(hints[name], item)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{kind.__name__}.{name}: {error}") from error
    return kind(**values)


def _expect(plain: Any, kind: type) -> None:
    if type(plain) is not kind:
        raise ValueError(f"expected {kind.__name__}, not {plain!r:.80}")
