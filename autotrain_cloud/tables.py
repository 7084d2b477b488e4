"""Frozen dataclasses as rows of files: Parquet, or JSON lines.

    write_rows(path, Label, labels)          # whole or not at all; .parquet or .jsonl
    for label in read_rows(path, Label): ...

The class is the schema.  Its fields may be text, whole numbers, numbers, truth values, `X | None`,
tuples of those and of dataclasses, and dataclasses.  A file with other columns is an error that
names file, row and field, because a column that is silently ignored is how data gets lost; a
column that is missing takes the field's default.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import types
import typing
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edge_runtime.errors import ConfigError
from edge_runtime.files import write_atomically

T = TypeVar("T")
_SCALARS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def write_rows(path: Path, kind: type[T], rows: Iterable[T]) -> int:
    """Write all or nothing; -> how many."""
    plain = [to_plain(row) for row in rows]
    if path.suffix == ".parquet":
        write_atomically(path, _parquet(kind, plain))
    else:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in plain]
        write_atomically(path, "".join(lines).encode())
    return len(plain)


def read_rows(path: Path, kind: type[T]) -> Iterator[T]:
    """The rows of a file, in order.  Raises ConfigError naming file, row and field."""
    if path.suffix == ".parquet":
        for number, fields in enumerate(_parquet_rows(path), start=1):
            yield from_plain(kind, fields, f"{path}: row {number}")
        return
    try:
        lines = path.read_text("utf-8").split("\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: neither .parquet nor UTF-8 text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                fields = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{path}:{number}: not JSON: {error}") from error
            yield from_plain(kind, fields, f"{path}:{number}")


def to_plain(value: Any) -> Any:
    """Dataclasses as dictionaries and tuples as lists, all the way down."""
    kind: Any = type(value)
    if hasattr(kind, "__dataclass_fields__"):
        return {name: to_plain(getattr(value, name)) for name in _names(kind)}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: type[T], fields: Any, where: str) -> T:
    """A dataclass from a dictionary; `where` begins every error.  Raises ConfigError."""
    hint: Any = kind
    made: T = _reader(hint)(fields, where)
    return made


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


@functools.cache
def _reader(hint: Any) -> Callable[[Any, str], Any]:
    """What turns a plain value into one of this type; built once per type."""
    if hint in _SCALARS:
        return functools.partial(_scalar, hint)
    if isinstance(hint, types.UnionType):
        (inner,) = (kind for kind in hint.__args__ if kind is not types.NoneType)
        read = _reader(inner)
        return lambda value, where: None if value is None else read(value, where)
    if typing.get_origin(hint) is tuple:
        read_item = _reader(hint.__args__[0])
        return lambda value, where: _items(read_item, value, where)
    if not hasattr(hint, "__dataclass_fields__"):
        raise TypeError(f"no column can hold {hint}")
    hints = typing.get_type_hints(hint)
    readers = {name: _reader(hints[name]) for name in _names(hint)}
    optional = {name for name in readers if isinstance(hints[name], types.UnionType)}
    return functools.partial(_record, hint, readers, optional)


def _scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where}: {str(value)[:60]!r} (expected {_SCALARS[kind]})")
    return value


def _items(read: Callable[[Any, str], Any], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where}: {str(value)[:60]!r} (expected a list)")
    return tuple(read(item, where) for item in value)


def _record(
    kind: Any,
    readers: Mapping[str, Callable[[Any, str], Any]],
    optional: Container[str],
    value: Any,
    where: str,
) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {str(value)[:60]!r} (expected named fields)")
    if unknown := set(value) - set(readers):
        raise ConfigError(
            f"{where}: unknown field {min(unknown)!r} (expected {', '.join(readers)})"
        )
    fields = {
        name: readers[name](item, f"{where}: {name}")
        for name, item in value.items()
        if item is not None or name in optional
    }
    try:
        return kind(**fields)
    except ConfigError as error:  # of a class that checks itself
        raise ConfigError(f"{where}: {error}") from error
    except TypeError as error:
        missing = [
            field.name
            for field in dataclasses.fields(kind)
            if field.name not in fields
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        if not missing:
            raise
        raise ConfigError(f"{where}: {missing[0]}: is missing") from error


# --- Parquet --------------------------------------------------------------------------------------


def arrow_schema(kind: type) -> Any:
    """The pyarrow schema of a dataclass."""
    import pyarrow as pa

    return pa.schema(list(_arrow(kind)))


def _arrow(hint: Any) -> Any:
    import pyarrow as pa

    scalars = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if hint in scalars:
        return scalars[hint]
    if isinstance(hint, types.UnionType):
        return _arrow(next(kind for kind in hint.__args__ if kind is not types.NoneType))
    if typing.get_origin(hint) is tuple:
        return pa.list_(_arrow(hint.__args__[0]))
    hints = typing.get_type_hints(hint)
    return pa.struct([(name, _arrow(hints[name])) for name in _names(hint)])


def _parquet(kind: type, rows: list[Any]) -> memoryview:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=arrow_schema(kind))
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getbuffer()


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(4096):
                yield from batch.to_pylist()
    except OSError as error:  # pyarrow's own errors about reading are OSErrors too
        problem = error.strerror or str(error)
        raise ConfigError(f"{path}: cannot be read: {problem}") from error
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{path}: not a Parquet file: {error}") from error
